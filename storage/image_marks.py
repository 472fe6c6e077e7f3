"""Whether a file is whole by its own marks: every block that its format announces is there, up to the end. No pixel is
decoded, so what is damaged within a block passes; cost is a walk over block headers, microseconds.
"""

from __future__ import annotations

from typing import Final

UNMARKED: Final = frozenset({"BMP", "TIFF"})
"""Formats whose files say nothing that a cut one would lack: only decoding tells."""
_GIF_TRAILER, _GIF_EXTENSION, _GIF_IMAGE = 0x3B, 0x21, 0x2C


_MAX_BLOCKS: Final = 50_000


def has_too_many_blocks(data: bytes, format: str) -> bool:
    """Whether more than 50,000 chunks (PNG), or blocks before the first frame (GIF), say what is no picture.

    Each costs a decoder about as much time as thousands of pixels; files of 20 MB hold millions, made for that.
    """
    if format == "PNG":
        at = 8
        for _ in range(_MAX_BLOCKS):
            if at + 12 > len(data) or data[at + 4 : at + 8] == b"IEND":
                return False
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        return True
    if format == "GIF" and len(data) >= 13:
        at = 13 + _gif_table_bytes(data[10])
        is_inside = False  # a chain of sub-blocks
        for _ in range(_MAX_BLOCKS):
            if at >= len(data) or (not is_inside and data[at] != _GIF_EXTENSION):
                return False
            if is_inside:
                is_inside = data[at] > 0
                at += 1 + data[at]
            else:
                is_inside = True
                at += 2
        return True
    return False


def missing_part(data: bytes, format: str, *, scan_start: int = 0) -> str | None:
    """What a file of this format lacks at its end, in words; None when its marks are whole (or say nothing).

    `scan_start`: of a JPEG, where its first scan begins. An end marker before it is a thumbnail's.
    """
    match format:
        case "JPEG":
            return _jpeg(data, scan_start)
        case "PNG":
            return _png(data)
        case "WEBP":
            size = int.from_bytes(data[4:8], "little") + 8
            return None if len(data) >= size else f"{size} bytes announced, {len(data)} there"
        case "GIF":
            return _gif(data)
        case "AVIF":
            return _boxes(data)
    return None


def _jpeg(data: bytes, scan_start: int) -> str | None:
    """An end marker after the first scan: entropy-coded data cannot hold one, a cut file has none."""
    if scan_start >= len(data):
        return "no scan"
    return None if data.rfind(b"\xff\xd9", scan_start) >= 0 else "no end marker"


def _png(data: bytes) -> str | None:
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return None
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return "no end chunk"


def _gif(data: bytes) -> str | None:
    """The blocks of the first frame."""
    if len(data) < 13:
        return "no screen descriptor"
    at = 13 + _gif_table_bytes(data[10])
    while at < len(data):
        kind = data[at]
        if kind == _GIF_TRAILER:
            return "no frame"
        if kind == _GIF_EXTENSION:
            at = _after_sub_blocks(data, at + 2)
        elif kind == _GIF_IMAGE and at + 10 < len(data):
            start = at + 10 + _gif_table_bytes(data[at + 9]) + 1
            return None if _after_sub_blocks(data, start) <= len(data) else "the first frame is cut"
        else:
            return "no frame"
    return "no frame"


def _gif_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int) -> int:
    """Where the block after a chain of sub-blocks begins; beyond the end when the chain is cut."""
    while at < len(data):
        size = data[at]
        at += 1 + size
        if not size:
            return at
    return len(data) + 1


def _boxes(data: bytes) -> str | None:
    """ISO base media boxes: sizes that add up to no more than the file, with the picture's data among them."""
    at, has_data = 0, False
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:  # a 64-bit size follows
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        has_data |= data[at + 4 : at + 8] == b"mdat"
        if size == 0:  # to the end of the file
            return None
        if size < 8:
            return "a box of impossible size"
        at += size
    return None if has_data and at <= len(data) else f"{at} bytes announced, {len(data)} there"
