"""WARC files → pages, streamed by FastWARC; a damaged record costs that record, never the rest of its file."""

import re
from collections.abc import Iterator
from typing import IO, cast

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from tasks.web.crawl_stream import can_go_back
from tasks.web.errors import MalformedCrawl
from tasks.web.pages import Page, Reading, Tally

_MAX_HEADER_BYTES = 64 << 10
_SCAN_BYTES = 1 << 20
_FIRST_READ_BYTES = 1 << 20
_READ_BYTES = 8 << 20
# Where a record can start again after damage: the first bytes of a compressed member, or of a plain record.
_PLAIN = b"WARC/"
_MAGICS = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", _PLAIN)
_MAX_SWALLOWED = 64
# What a browser takes for HTML where no header says what it is (MIME Sniffing Standard, 7.1).
_BEGINS_AS_HTML = re.compile(
    rb"[\t\n\f\r ]*<(?:!--|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[ >])",
    re.I,
)
_HTML_TYPES = ("text/html", "application/xhtml+xml")


def read_records(file: IO[bytes], tally: Tally) -> Iterator[WarcRecord]:
    """Every record of a (compressed) WARC stream; damage is noted with its offset and skipped to the next record.

    So is a record that announces more bytes than there are, which swallows those behind it; what looks like the start
    of a record within the last whole one, or behind an empty compressed member, is tried and passed over in silence.
    Where a server gives no byte ranges, neither is looked for: it would cost a second transfer of the file.
    Raises MalformedCrawl when the file is empty or not one record can be read. Needs a seekable file.
    """
    magic = _first_magic(file, tally.file)
    start: int | None = 0
    seen_any = in_damage = False
    swallowed = 0
    while start is not None:
        last, failure = None, None
        try:
            for record in _records(file):
                last, seen_any, in_damage = record.stream_pos, True, False
                yield record
        except OSError as error:
            failure = str(error)
        if failure is None and not can_go_back(file):
            break
        short = _what_is_missing(file, last) if failure is None and last is not None else None
        if failure is None and short is None and magic == _PLAIN:
            break
        following = _find(file, magic, (start if last is None else last) + 1)
        if short is not None:
            tally.bad(cast(int, last), short)
            swallowed += 1
            if swallowed == _MAX_SWALLOWED:  # each costs a pass over what is left of the file
                tally.bad(cast(int, last), f"the {swallowed}th of its kind: what follows is not read")
                break
        elif failure is not None and not in_damage:
            # The damaged record is the one after the last good one, or the very one we started at.
            tally.bad(start if last is None else last if following is None else following, failure)
        start, in_damage = following, True
        if start is not None:
            file.seek(start)
    if not seen_any:
        raise MalformedCrawl(
            f"{tally.file} holds no WARC record that can be read. Check that it is a WARC or WAT file (.warc, "
            ".warc.gz, .wat.gz), downloaded whole, and remove it from `crawl` if it is not."
        )


def _records(file: IO[bytes]) -> ArchiveIterator:
    return ArchiveIterator(
        file, parse_http=False, record_types=WarcRecordType.any_type, max_header_len=_MAX_HEADER_BYTES
    )


def _what_is_missing(file: IO[bytes], start: int) -> str | None:
    """Where the file's last record, which starts here, has fewer bytes than it announces: a sentence that says so.

    Nothing where no record starts here: within a frame of many records (`lz4 a.warc`) an offset is none of the file's.
    """
    file.seek(start)
    try:
        for record in _records(file):
            there = record.consume()
            return None if there == record.content_length else f"announces {record.content_length} bytes, has {there}"
    except OSError:
        return None
    return None


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
        elif record.http_content_type is not None and not _is_html(record.http_content_type):
            tally.passed_over["not_html"] += 1
        else:
            body = read_up_to(record, reading.max_page_bytes)
            if record.http_content_type is not None or _BEGINS_AS_HTML.match(body):
                return _page(record, body, record.http_charset, reading)
            tally.passed_over["not_html"] += 1
    except (OSError, ValueError) as error:
        tally.bad(offset, str(error))
    return None


def _is_html(content_type: str | None) -> bool:
    return content_type is not None and content_type.split(";")[0].strip().lower() in _HTML_TYPES


def _page(record: WarcRecord, body: bytes, charset: str | None, reading: Reading) -> Page:
    url = (record.headers.get("WARC-Target-URI") or "").strip().removeprefix("<").removesuffix(">")
    return Page(url, record.headers.get("WARC-Date"), record.stream_pos, reading.images(body, charset))
