"""Every way an HTML page names an image, found by lexbor (a browser-grade parser in C)."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from tasks.web.charsets import page_text
from tasks.web.srcset import largest, parse_srcset

Way = Literal["img", "srcset", "picture", "lazy", "noscript", "og_image", "image_src"]
Srcset = Literal["largest", "all"]
ALL_WAYS: tuple[Way, ...] = ("img", "srcset", "picture", "lazy", "noscript", "og_image", "image_src")

_MAX_ALT_CHARS = 2048
_SELECTOR = "base, img, source, meta[property], meta[name], link[rel]"
# A page without any of these names no image; most of parsing's cost is saved on such pages.
_WORTH_PARSING = (b"<img", b"<image", b"<source", b"og:image", b"image_src")

_LAZY_URL = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-url", "data-echo")
_LAZY_SRCSET = ("data-srcset", "data-lazy-srcset", "data-original-set")
_ATTRIBUTES: dict[str, tuple[Way, bool]] = {  # attribute of <img> → (way, holds a srcset)
    "src": ("img", False),
    "srcset": ("srcset", True),
    **dict.fromkeys(_LAZY_URL, ("lazy", False)),
    **dict.fromkeys(_LAZY_SRCSET, ("lazy", True)),
}
_OG_IMAGE = ("og:image", "og:image:url", "og:image:secure_url")


class FoundImage(NamedTuple):
    """One image as the page names it: the URL as written, where it stood (`img@srcset`), its alternative text."""

    url: str
    how: str
    alt: str | None


class PageImages(NamedTuple):
    """What a page names, in document order, and its <base href> (as written), if it has one."""

    base: str | None
    images: list[FoundImage]


def images_of_page(
    body: bytes, http_charset: str | None = None, *, srcset: Srcset = "largest", ways: frozenset[Way] | None = None
) -> PageImages:
    """Images that a page names. `ways` limits the ways that count (None: all); pages are never executed."""
    lower = body.lower()
    if not any(mark in lower for mark in _WORTH_PARSING) and not body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return PageImages(None, [])
    text = page_text(body, http_charset)
    page = LexborHTMLParser(text.content, encoding=text.sniff)
    names = ImageNames(srcset, frozenset(ALL_WAYS) if ways is None else ways)
    noscript = {node.mem_id for node in page.css("noscript img, noscript source")} if b"<noscript" in lower else ()
    base: str | None = None
    for node in page.css(_SELECTOR):
        match node.tag:
            case "img" | "source" as tag:
                _visit_image(names, node, tag, inside_noscript=node.mem_id in noscript)
            case "meta":
                names.meta(node.attributes)
            case "link":
                names.link(node.attributes.get("rel"), node.attributes.get("href"))
            case "base" if base is None:
                base = node.attributes.get("href")
    return PageImages(base, names.images)


def _visit_image(names: "ImageNames", node: LexborNode, tag: str, *, inside_noscript: bool) -> None:
    attributes = node.attributes
    alt = attributes.get("alt")
    if tag == "source":
        parent = node.parent
        if parent is None or parent.tag != "picture":  # of <video> or <audio>
            return
        attributes.pop("src", None)  # means nothing in a picture
        image = parent.css_first("img")
        alt = image.attributes.get("alt") if image is not None else None
    for name, value in attributes.items():
        if name in _ATTRIBUTES:
            names.attribute(tag, name, value, alt, inside_noscript=inside_noscript)


class ImageNames:
    """Collects the images of one page from attributes, wherever these were read (HTML or WAT)."""

    def __init__(self, srcset: Srcset, ways: frozenset[Way]) -> None:
        self.all_candidates, self.ways = srcset == "all", ways
        self.images: list[FoundImage] = []

    def attribute(
        self, tag: str, name: str, value: str | None, alt: str | None, *, inside_noscript: bool = False
    ) -> None:
        """An attribute of <img> or of a picture's <source>; others than those that name an image are passed over."""
        kind = _ATTRIBUTES.get(name)
        if kind is None or not value:
            return
        way, is_srcset = kind
        if ("noscript" if inside_noscript else "picture" if tag == "source" else way) not in self.ways:
            return
        how = f"noscript:{tag}@{name}" if inside_noscript else f"{tag}@{name}"
        for url in self._urls(value) if is_srcset else (value,):
            self._add(how, url, alt)

    def meta(self, attributes: Mapping[str, str | None]) -> None:
        """A <meta>: og:image and its two synonyms."""
        name = (attributes.get("property") or attributes.get("name") or "").lower()
        if name in _OG_IMAGE and "og_image" in self.ways:
            self._add(f"meta@{name}", attributes.get("content"), None)

    def link(self, rel: str | None, href: str | None) -> None:
        """A <link rel=image_src>."""
        if "image_src" in self.ways and rel and "image_src" in rel.lower().split():
            self._add("link@image_src", href, None)

    def _urls(self, srcset: str) -> list[str]:
        candidates = parse_srcset(srcset)
        return [candidate.url for candidate in (candidates if self.all_candidates else largest(candidates))]

    def _add(self, how: str, url: str | None, alt: str | None) -> None:
        if url and not url.isspace():
            self.images.append(FoundImage(url, how, _one_line(alt)))


def _one_line(text: str | None) -> str | None:
    """Alternative text in one line, bounded; None when there is none."""
    return " ".join(text[:_MAX_ALT_CHARS].split()) or None if text else None
