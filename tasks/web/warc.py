"""WARC files → pages, streamed by FastWARC; a damaged record costs that record, never the rest of its file."""

from collections.abc import Iterator
from typing import IO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from tasks.web.errors import MalformedCrawl
from tasks.web.pages import Page, Reading, Tally

_MAX_HEADER_BYTES = 64 << 10
_SCAN_BYTES = 1 << 20
_FIRST_READ_BYTES = 1 << 20
_READ_BYTES = 8 << 20
# Where a record can start again after damage: the first bytes of a compressed member, or of a plain record.
_MAGICS = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"WARC/")
_HTML_TYPES = ("text/html", "application/xhtml+xml")


def read_records(file: IO[bytes], tally: Tally) -> Iterator[WarcRecord]:
    """Every record of a (compressed) WARC stream; damage is noted with its offset and skipped to the next record.

    Raises MalformedCrawl when the file is empty or not one record can be read. Needs a seekable file only on damage.
    """
    magic = _first_magic(file, tally.file)
    start: int | None = 0
    seen_any = in_damage = False
    while start is not None:
        last, failure = None, None
        try:
            for record in ArchiveIterator(
                file, parse_http=False, record_types=WarcRecordType.any_type, max_header_len=_MAX_HEADER_BYTES
            ):
                last, seen_any, in_damage = record.stream_pos, True, False
                yield record
        except OSError as error:
            failure = str(error)
        if failure is None:
            break
        # The damaged record is the one after the last good one, or the very one we started at.
        following = _find(file, magic, start + 1 if last is None else last + 1)
        if not in_damage:
            tally.bad(start if last is None else last if following is None else following, failure)
        start, in_damage = following, True
        if start is not None:
            file.seek(start)
    if not seen_any:
        raise MalformedCrawl(
            f"{tally.file} holds no WARC record that can be read. Check that it is a WARC or WAT file (.warc, "
            ".warc.gz, .wat.gz), downloaded whole, and remove it from `crawl` if it is not."
        )


def read_up_to(record: WarcRecord, max_bytes: int) -> bytes:
    """What is left of a record, cut after `max_bytes`. A buffer is asked for in steps that grow: FastWARC clears all of
    the buffer that a read asks for, and one of 64 MiB costs more than a page. Raises OSError when it is damaged."""
    pieces: list[bytes] = []
    left, step = max_bytes, _FIRST_READ_BYTES
    while left and (piece := record.reader.read(min(left, step))):
        pieces.append(piece)
        left -= len(piece)
        step = _READ_BYTES
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _first_magic(file: IO[bytes], name: str) -> bytes:
    head = file.read(8)
    file.seek(0)
    for magic in _MAGICS:
        if head.startswith(magic):
            return magic
    what = f"starts with {head!r}" if head else "is empty"
    raise MalformedCrawl(f"{name} is no WARC file: it {what}. Fetch it again, or remove it from `crawl`.")


def _find(file: IO[bytes], magic: bytes, start: int) -> int | None:
    """Offset of the next `magic` at or after `start`; None when there is none."""
    file.seek(start)
    overlap = b""
    while block := file.read(_SCAN_BYTES):
        window = overlap + block
        at = window.find(magic)
        if at >= 0:
            return start - len(overlap) + at
        start += len(block)
        overlap = window[-(len(magic) - 1) :]
    return None


def pages_of_warc(file: IO[bytes], reading: Reading, tally: Tally) -> Iterator[Page]:
    """The HTML pages of a WARC file, in its order: response records with status 200, and HTML resource records."""
    for record in read_records(file, tally):
        if record.record_type == WarcRecordType.response:
            page = _response(record, reading, tally)
        elif record.record_type == WarcRecordType.resource and _is_html(record.headers.get("Content-Type")):
            page = _page(record, read_up_to(record, reading.max_page_bytes), None, reading)
        else:
            continue
        if page is not None:
            yield tally.page(page)


def _response(record: WarcRecord, reading: Reading, tally: Tally) -> Page | None:
    offset = record.stream_pos
    try:
        record.parse_http(auto_decode="all", max_header_len=_MAX_HEADER_BYTES)
        headers = record.http_headers
        status = None if headers is None else headers.status_code
        if status is None:
            tally.bad(offset, "no HTTP status line")
        elif status != 200:
            tally.passed_over["not_status_200"] += 1
        elif not _is_html(record.http_content_type):
            tally.passed_over["not_html"] += 1
        else:
            return _page(record, read_up_to(record, reading.max_page_bytes), record.http_charset, reading)
    except (OSError, ValueError) as error:
        tally.bad(offset, str(error))
    return None


def _is_html(content_type: str | None) -> bool:
    return content_type is not None and content_type.split(";")[0].strip().lower() in _HTML_TYPES


def _page(record: WarcRecord, body: bytes, charset: str | None, reading: Reading) -> Page:
    url = (record.headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
    return Page(url, record.headers.get("WARC-Date"), record.stream_pos, reading.images(body, charset))
