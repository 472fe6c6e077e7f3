"""WAT files (Common Crawl's JSON about each page) → pages, without parsing HTML."""

import re
from collections.abc import Iterator
from typing import IO, Any

import orjson
from fastwarc.warc import WarcRecordType

from tasks.web.html_images import ImageNames, PageImages
from tasks.web.pages import Page, Reading, Tally
from tasks.web.warc import read_records

_MAX_RECORD_BYTES = 64 << 20
# Two of three records of a WAT file (about requests, and about fetching) describe no page, many pages have no image:
# none of these is parsed. A record that does not end like an object is: it may be cut, and shall be counted.
_PAGE_MARK = b'"HTML-Metadata"'
_MARKS = (rb"IMG@", rb"SOURCE@", rb":[iI][mM][aA][gG][eE]", rb"_[sS][rR][cC]")  # the last two as in html_images
_IMAGE_MARKS = tuple(map(re.compile, _MARKS))
_IMAGE_TAGS = frozenset({"IMG@", "SOUR"})
_ENDS = (b"}", b"}\n", b"}\r\n")


def pages_of_wat(file: IO[bytes], reading: Reading, tally: Tally) -> Iterator[Page]:
    """The HTML pages of a WAT file, in its order: metadata records that describe a response with links."""
    for record in read_records(file, tally):
        if record.record_type != WarcRecordType.metadata:
            continue
        offset, body = record.stream_pos, record.reader.read(_MAX_RECORD_BYTES)
        if body.endswith(_ENDS) and (_PAGE_MARK not in body or not _may_name_images(body)):
            tally.pages += _PAGE_MARK in body
            continue
        try:
            envelope = orjson.loads(body)["Envelope"]
            html = _html_metadata(envelope)
            warc = envelope.get("WARC-Header-Metadata") or {}
            if html is None:
                continue
            content = images_of_metadata(html, reading)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            tally.bad(offset, f"{type(error).__name__}: {error}")
            continue
        tally.pages += 1
        url = warc.get("WARC-Target-URI") or record.headers.get("WARC-Target-URI") or ""
        yield Page(url.removeprefix("<").removesuffix(">"), warc.get("WARC-Date"), offset, content)


def _may_name_images(body: bytes) -> bool:
    return any(mark.search(body) for mark in _IMAGE_MARKS)


def _html_metadata(envelope: dict[str, Any]) -> dict[str, Any] | None:
    payload = envelope.get("Payload-Metadata") or {}
    response = payload.get("HTTP-Response-Metadata") or {}
    html: dict[str, Any] | None = response.get("HTML-Metadata")
    return html


def images_of_metadata(html: dict[str, Any], reading: Reading) -> PageImages:
    """Images of one page's HTML-Metadata: `Links` whose path is IMG@/… or SOURCE@/…, og:image metas, image_src links.

    WAT drops what its writer did not look for (as of 2026: most lazy attributes, and whether a link is in a noscript).
    """
    head = html.get("Head") or {}
    names = ImageNames(reading.srcset, reading.ways)
    for meta in head.get("Metas") or ():
        names.meta(meta)
    for link in head.get("Link") or ():
        names.link(link.get("rel"), link.get("url"))
    # Nine of ten links are A@/href: a comprehension passes over them fastest.
    for link in [link for link in html.get("Links") or () if link.get("path", "")[:4] in _IMAGE_TAGS]:
        tag, _, attribute = link["path"].partition("@/")
        if tag == "IMG" or (tag == "SOURCE" and attribute != "src"):
            names.attribute(tag.lower(), attribute, link.get("url"), link.get("alt"))
    base: str | None = head.get("Base")
    return PageImages(base, names.images)
