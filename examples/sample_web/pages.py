"""The HTML pages that name the planned figures, each in its own spelling of the URL, and what a WAT keeps of them."""

import html
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import numpy as np

from examples.sample_web.canvas import generator
from examples.sample_web.figures import BASE_HREF, PLACEHOLDER, idn_page_host
from examples.sample_web.hosts import IDN_HOST, PAGE_HOSTS, url_of
from examples.sample_web.plan import Figure

_PROSE = (
    "a walk along the old road and what we saw there before the rain came in from the west over the hills some notes "
    "from a long journey with pictures taken on the way back home again every one of them as it was with no filter"
)
_WORDS = _PROSE.split()
_CONNECTIONS = ("", "My ", "Another ", "Best of ", "Small ")


@dataclass(frozen=True)
class Link:
    """One entry of a WAT record's Links: an attribute path, the URL as written, the alternative text."""

    path: str
    url: str
    alt: str = ""


@dataclass
class Page:
    """A page with its figures; `charset` is what it is stored in, `base` its <base href>."""

    url: str
    title: str
    charset: str = "utf-8"
    base: str | None = None
    figures: list[Figure] = field(default_factory=list)
    body: bytes = b""
    links: list[Link] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # og:image


def plan_pages(seed: int, num_pages: int, figures: Sequence[Figure]) -> list[Page]:
    """Pages over all hosts with every figure in one or two of them. A few have a <base>, a few are not in UTF-8.

    Raises ValueError for fewer than 12 pages.
    """
    if num_pages < 12:
        raise ValueError(f"num_pages={num_pages}: at least 12, one for each host and kind of page")
    rng = generator("pages", seed)
    pages = [_empty_page(rng, number, num_pages) for number in range(num_pages)]
    with_base = [page for page in pages if page.base]
    by_host: dict[str, list[Page]] = {}
    for page in pages:
        by_host.setdefault(urlsplit(page.url).netloc, []).append(page)
    for index in rng.permutation(len(figures)):
        figure = figures[index]
        host = urlsplit(figure.urls[0]).netloc if not figure.verbatim else ""
        near = by_host.get(host, pages) if rng.random() < 0.6 else pages
        near = with_base if figure.markup == "base" else near
        near[int(rng.integers(len(near)))].figures.append(figure)
        if not figure.verbatim and rng.random() < 0.08:  # named by a second page: a duplicate URL
            other = with_base if figure.markup == "base" else pages
            other[int(rng.integers(len(other)))].figures.append(figure)
    return pages


def _empty_page(rng: np.random.Generator, number: int, num_pages: int) -> Page:
    words = [_WORDS[int(index)] for index in rng.integers(0, len(_WORDS), 4)]
    title = " ".join(words).capitalize()
    path = f"/{('albums', 'posts', '2024/06', 'notes')[number % 4]}/{'-'.join(words)}-{number:03d}.html"
    if number % 25 == 11:
        return Page(url_of(IDN_HOST, f"/страницы/{number:03d}.html"), f"Фотографии {number}", "windows-1251")
    base = BASE_HREF if number % 20 == 5 else None
    return Page(url_of(PAGE_HOSTS[number % len(PAGE_HOSTS)], path), title, base=base)


def write_page(seed: int, page: Page, others: Sequence[Page], widths: Mapping[str, int]) -> None:
    """Fill in the page's body and what a WAT says of it."""
    rng = generator("page", seed, page.url)
    head = [f'<meta charset="{page.charset}">', f"<title>{html.escape(page.title)}</title>"]
    if page.base:
        head.append(f'<base href="{page.base}">')
    blocks = [f"<h1>{html.escape(page.title)}</h1>"]
    for figure in page.figures:
        written = tuple(_written(rng, page, url, figure) for url in figure.urls)
        alt = f"{_CONNECTIONS[int(rng.integers(len(_CONNECTIONS)))]}{figure.concept.replace('_', ' ')}".strip()
        if figure.markup == "og_image":
            head.append(f'<meta property="og:image" content="{html.escape(written[0])}">')
            page.images.append(written[0])
            continue
        blocks.append(_figure(figure, written, html.escape(alt), widths))
        page.links += _links(figure, written, alt)
        if rng.random() < 0.3:
            count = int(rng.integers(8, 30))
            start = int(rng.integers(len(_WORDS)))
            blocks.append(f"<p>{' '.join((_WORDS * 2)[start : start + count])}.</p>")
    for index in rng.integers(0, len(others), 3):
        blocks.append(f'<p><a href="{others[index].url}">{html.escape(others[index].title)}</a></p>')
        page.links.append(Link("A@/href", others[index].url))
    lines = ["<!DOCTYPE html>", "<html>", "<head>", *head, "</head>", "<body>", *blocks, "</body>", "</html>", ""]
    page.body = "\n".join(lines).encode(page.charset, "xmlcharrefreplace")


def _written(rng: np.random.Generator, page: Page, url: str, figure: Figure) -> str:
    """One of the spellings that a browser on this page resolves to the URL."""
    if figure.verbatim:
        return url
    if figure.markup == "base":
        return url.removeprefix(BASE_HREF)
    parts, here = urlsplit(url), urlsplit(page.url)
    full = f"{parts.path}?{parts.query}" if parts.query else parts.path
    if page.base is None and parts.netloc == here.netloc:
        readable = unquote(full) if rng.random() < 0.5 and not set("%?#") & set(unquote(full)) else full
        return readable if rng.random() < 0.5 else posixpath.relpath(readable, posixpath.dirname(here.path))
    if page.base is None and rng.random() < 0.2:
        return f"//{parts.netloc}{full}"
    if parts.netloc == idn_page_host() and rng.random() < 0.7:
        return f"http://{IDN_HOST}{unquote(full)}"
    return url


def _figure(figure: Figure, written: tuple[str, ...], alt: str, widths: Mapping[str, int]) -> str:
    urls = tuple(html.escape(url) for url in written)
    plain = f'<img src="{urls[0]}" alt="{alt}">'
    match figure.markup:
        case "srcset":
            candidates = ", ".join(
                f"{written_url} {widths[url]}w" for url, written_url in zip(figure.urls, urls, strict=True)
            )
            return f'<img src="{urls[0]}" srcset="{candidates}" sizes="(max-width: 600px) 240px, 400px" alt="{alt}">'
        case "picture":
            sources = f'<source srcset="{urls[0]}" type="image/avif"><source srcset="{urls[1]} 1x" type="image/webp">'
            return f'<picture>{sources}<img src="{urls[2]}" alt="{alt}"></picture>'
        case "lazy":
            return f'<img class="lazy" src="{PLACEHOLDER}" data-src="{urls[0]}" alt="{alt}">'
        case "lazy_noscript":
            return f'<img class="lazy" data-src="{urls[0]}" alt="{alt}"><noscript>{plain}</noscript>'
        case "noscript":
            return f"<noscript>{plain}</noscript>"
        case _:
            return f"<figure>{plain}<figcaption>{alt}</figcaption></figure>"


def _links(figure: Figure, written: tuple[str, ...], alt: str) -> list[Link]:
    """What Common Crawl's extractor keeps: only src attributes of <img>, inside <noscript> too."""
    match figure.markup:
        case "picture":
            return [Link("IMG@/src", written[2], alt)]
        case "lazy":
            return [Link("IMG@/src", PLACEHOLDER, alt)]
        case _:
            return [Link("IMG@/src", written[0], alt)]


def references(pages: Sequence[Page]) -> dict[str, int]:
    """How often pages name each URL, by the URL as planned (spelled or not), in whatever attribute."""
    counts: Counter[str] = Counter()
    for page in pages:
        for figure in page.figures:
            counts.update(figure.urls)
            match figure.markup:
                case "lazy":
                    counts[PLACEHOLDER] += 1
                case "lazy_noscript" | "srcset":  # named twice: lazily and without script, as src and as a candidate
                    counts[figure.urls[0]] += 1
    return dict(counts)
