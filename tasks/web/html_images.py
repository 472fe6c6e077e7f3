"""Every way an HTML page names an image, found by lexbor (a browser-grade parser in C)."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from tasks.web.charsets import PageText, page_text
from tasks.web.html_limits import is_whole, pieces
from tasks.web.srcset import largest, parse_srcset

Way = Literal["img", "srcset", "picture", "lazy", "noscript", "og_image", "image_src"]
Srcset = Literal["largest", "all"]
ALL_WAYS: tuple[Way, ...] = ("img", "srcset", "picture", "lazy", "noscript", "og_image", "image_src")

_MAX_ALT_CHARS = 2048
# One walk over the tree, in C: what does not name an image never becomes a Python object.
_SELECTOR = (
    'img, source, base, noscript, meta[property^="og:image" i], meta[name^="og:image" i], link[rel~="image_src" i]'
)
# A page without any of these names no image: <img, <image, <source (and <small, which does no harm); og:image;
# image_src. Each begins with a literal that is rare in a page, which the regex engine looks for with memchr: three such
# scans cost less than one search for a longer needle, and a third of lowering the page first.
_MARKS = tuple(map(re.compile, (rb"<[iIsS][mMoO]", rb":[iI][mM][aA][gG][eE]", rb"_[sS][rR][cC]")))

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
    whole: bool = True  # False where the page was too expensive to be read to its end (html_limits)


def images_of_page(
    body: bytes, http_charset: str | None = None, *, srcset: Srcset = "largest", ways: frozenset[Way] | None = None
) -> PageImages:
    """Images that a page names. `ways` limits the ways that count (None: all); pages are never executed."""
    text = page_text(body, http_charset)
    names = ImageNames(srcset, frozenset(ALL_WAYS) if ways is None else ways)
    tags = None if text.sniff else _shrunk(text.content)
    if tags is None:
        return _images_of_tree(text, names)
    base = _read_nodes(LexborHTMLParser(tags).css(_SELECTOR), names) if tags else None
    return PageImages(base, names.images)


def _shrunk(page: bytes) -> bytes | None:
    from tasks.web.html_simple import shrunk  # numba: half a second, which a crawl of WAT files does without

    return shrunk(page)


def _images_of_tree(text: PageText, names: "ImageNames") -> PageImages:
    """The images of a page whose whole tree is built; in pieces, where that would cost too much."""
    if not _may_name_images(text.content):
        return PageImages(None, [])
    parts = list(pieces(text.content))
    found = [
        _read_nodes(LexborHTMLParser(part, encoding=text.sniff and not number).css(_SELECTOR), names)
        for number, part in enumerate(parts)
    ]
    base = next((one for one in found if one is not None), None)
    return PageImages(base, names.images, is_whole(text.content, parts))


def _read_nodes(nodes: list[LexborNode], names: "ImageNames") -> str | None:
    """Collects the images among the nodes; the first base's href. Cost: linear, however the nodes are nested."""
    inside_noscript: set[int] = set()
    picture_alts: dict[int, str | None] = {}
    base: str | None = None
    for node in nodes:
        tag = node.tag
        if tag == "img":
            attributes = node.attributes
            inside = bool(inside_noscript) and node.mem_id in inside_noscript
            _visit_image(names, tag, attributes, attributes.get("alt"), inside)
        elif tag == "source":
            _visit_source(names, node, picture_alts, bool(inside_noscript) and node.mem_id in inside_noscript)
        elif tag == "noscript":
            if node.mem_id not in inside_noscript:
                inside_noscript.update(inner.mem_id for inner in node.css("img, source, noscript"))
        elif tag == "base":
            base = node.attributes.get("href") if base is None else base
        elif tag == "meta":
            names.meta(node.attributes)
        else:
            names.link(node.attributes.get("rel"), node.attributes.get("href"))
    return base


def _may_name_images(page: bytes) -> bool:
    return any(mark.search(page) for mark in _MARKS)


def _visit_source(
    names: "ImageNames", node: LexborNode, picture_alts: dict[int, str | None], inside_noscript: bool
) -> None:
    """A <source>, if it is a picture's, and not of <video> or <audio>; its text is that of the picture's <img>."""
    parent = node.parent
    if parent is None or parent.tag != "picture":
        return
    if parent.mem_id not in picture_alts:
        image = next((child for child in parent.iter() if child.tag == "img"), None)
        picture_alts[parent.mem_id] = image.attributes.get("alt") if image is not None else None
    _visit_image(names, "source", node.attributes, picture_alts[parent.mem_id], inside_noscript)


def _visit_image(
    names: "ImageNames", tag: str, attributes: Mapping[str, str | None], alt: str | None, inside_noscript: bool
) -> None:
    counted = counted_attributes(tag, names.ways, inside_noscript)
    for name, value in attributes.items():
        if value and name in counted:
            names.attribute(counted[name], value, alt)


class Counted(NamedTuple):
    """An attribute that names images: how a row tells of it (`noscript:img@src`), and whether it holds a srcset."""

    how: str
    is_srcset: bool


@lru_cache(maxsize=64)
def counted_attributes(tag: str, ways: frozenset[Way], inside_noscript: bool = False) -> dict[str, Counted]:
    """The attributes that count on <img> or on a picture's <source>."""
    prefix = f"noscript:{tag}@" if inside_noscript else f"{tag}@"

    def way_of(way: Way) -> Way:
        return "noscript" if inside_noscript else "picture" if tag == "source" else way

    return {
        name: Counted(prefix + name, is_srcset)
        for name, (way, is_srcset) in _ATTRIBUTES.items()
        if way_of(way) in ways and (tag, name) != ("source", "src")  # that one is of a video
    }


class ImageNames:
    """Collects the images of one page from attributes, wherever these were read (HTML or WAT)."""

    def __init__(self, srcset: Srcset, ways: frozenset[Way]) -> None:
        self.all_candidates, self.ways = srcset == "all", ways
        self.images: list[FoundImage] = []

    def attribute(self, counted: Counted, value: str, alt: str | None) -> None:
        """The value of an attribute that counts."""
        if not counted.is_srcset:
            self._add(counted.how, value, alt)
            return
        candidates = parse_srcset(value)
        for candidate in candidates if self.all_candidates else largest(candidates):
            self._add(counted.how, candidate.url, alt)

    def meta(self, attributes: Mapping[str, str | None]) -> None:
        """A <meta>: og:image and its two synonyms."""
        name = (attributes.get("property") or attributes.get("name") or "").lower()
        if name in _OG_IMAGE and "og_image" in self.ways:
            self._add(f"meta@{name}", attributes.get("content"), None)

    def link(self, rel: str | None, href: str | None) -> None:
        """A <link rel=image_src>."""
        if "image_src" in self.ways and rel and "image_src" in rel.lower().split():
            self._add("link@image_src", href, None)

    def _add(self, how: str, url: str | None, alt: str | None) -> None:
        if url and not url.isspace():
            self.images.append(FoundImage(url, how, _one_line(alt) if alt else None))


def _one_line(text: str) -> str | None:
    """Alternative text in one line, bounded; None when there is none."""
    return " ".join(text[:_MAX_ALT_CHARS].split()) or None
