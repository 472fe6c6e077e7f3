"""WAT files (Common Crawl's JSON about each page) → pages, without parsing HTML."""

from collections.abc import Iterator
from functools import lru_cache
from typing import IO, Any

from fastwarc.warc import WarcRecordType

from tasks.web.html_images import Counted, ImageNames, PageImages, Way, counted_attributes
from tasks.web.pages import Page, Reading, Tally
from tasks.web.warc import read_records, read_up_to
from tasks.web.wat_record import html_metadata, parse_record

_MAX_RECORD_BYTES = 64 << 20
# Two of three records of a WAT file (about requests, and about fetching) describe no page and are not parsed. A record
# that does not end like an object is: it may be cut, and shall be counted.
_PAGE_MARK = b'"HTML-Metadata"'
_ENDS = (b"}", b"}\n", b"}\r\n")


def pages_of_wat(file: IO[bytes], reading: Reading, tally: Tally) -> Iterator[Page]:
    """The HTML pages of a WAT file, in its order: metadata records that describe a response with links."""
    for record in read_records(file, tally):
        if record.record_type != WarcRecordType.metadata:
            continue
        offset, body = record.stream_pos, read_up_to(record, _MAX_RECORD_BYTES)
        if _PAGE_MARK not in body and body.endswith(_ENDS):
            continue
        try:
            content = parse_record(body)
            html = html_metadata(content)
            if html is None:
                continue
            images = images_of_metadata(html, reading)
            warc = content["Envelope"].get("WARC-Header-Metadata") or {}
            url = warc.get("WARC-Target-URI") or record.headers.get("WARC-Target-URI") or ""
            date = warc.get("WARC-Date")
            date = date if isinstance(date, str) else None
            page = Page(url.removeprefix("<").removesuffix(">"), date, offset, images)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            tally.bad(offset, f"{type(error).__name__}: {error}")
            continue
        yield tally.page(page)


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
    counted = _counted_paths(reading.ways)
    for link in html.get("Links") or ():
        attribute, url = counted.get(link.get("path")), link.get("url")
        if attribute is not None and url:
            names.attribute(attribute, url, link.get("alt"))
    base: str | None = head.get("Base")
    return PageImages(base, names.images)


@lru_cache(maxsize=8)
def _counted_paths(ways: frozenset[Way]) -> dict[str, Counted]:
    """`IMG@/src` → what that attribute counts as."""
    return {
        f"{tag}@/{name}": counted
        for tag in ("IMG", "SOURCE")
        for name, counted in counted_attributes(tag.lower(), ways).items()
    }
