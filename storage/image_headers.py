"""What an image's first bytes say: its format, its turning, a JPEG's quality. No pixel is decoded here.

Headers come from strangers: every reader below is bounded by the bytes it is given and answers, never raises.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "BIGTIFF"),
    (b"MM\x00+", "BIGTIFF"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"8BPS\x00", "PSD"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xffO\xffQ", "JPEG2000"),
    (b"\xff\x0a", "JXL"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JXL"),
)
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_XML_PROLOGUE = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:\s+|<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE\s+svg[^>\[]*(?:\[.*?\])?\s*>)*", re.S | re.I
)

# SOFn markers whose payload holds the frame's size: all of C0..CF but DHT (C4), JPG (C8) and DAC (CC).
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_MARKERS = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_STANDALONE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_MARK, _DHT, _EOI, _SOS, _DQT, _APP1 = 0xFF, 0xC4, 0xD9, 0xDA, 0xDB, 0xE1
_FRAME, _SEGMENT = struct.Struct(">BHHB"), struct.Struct(">BBH")
# Segments that say nothing of size, orientation or scans: most. DHT, DAC, DQT, DNL, DRI, APP0, APP2 to APP15, COM.
_OF_NO_SIZE = frozenset({_DHT, 0xCC, _DQT, 0xDC, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE})
_ORIENTATION_TAG = 0x0112
_FILL = re.compile(rb"\xff+")
_MAX_SEGMENTS = 10_000  # the largest profiles and previews take some hundreds


def sniff_format(data: bytes) -> str | None:
    """Name of the image format that the bytes themselves announce, in Pillow's spelling, or None if they announce none.

    The answer may be a format that `storage.images` does not open (SVG, HEIF, ICO, ...).
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] == b"BM" and len(data) >= 18 and int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if data[4:8] == b"ftyp":
        return _brand(data)
    return "SVG" if _is_svg(data[:4096]) else None


def _brand(data: bytes) -> str | None:
    """AVIF or HEIF by the brands of an ISO base media file's first box; None for a video."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def _is_svg(head: bytes) -> bool:
    """True when the first element is <svg>: an HTML page that merely holds one is not an image."""
    prologue = _XML_PROLOGUE.match(head)
    return head[prologue.end() if prologue else 0 :][:4].lower() == b"<svg"


class JpegHeader(NamedTuple):
    """Segments of a JPEG up to its first scan. Sizes in pixels, before orientation."""

    width: int
    height: int
    components: int
    precision_bits: int
    orientation: int = 1
    many_scans: bool = False
    """Progressive, or its first scan lacks components: a decoder reads every scan that follows."""
    scan_start: int = 0
    """Byte at which the first scan begins; the file's length when there is none."""


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Walk the markers up to the first scan; None when no frame header is found before it."""
    frame: tuple[int, int, int, int] | None = None
    progressive, first_scan, scan_start = False, 0, len(data)
    orientation = 1
    for marker, at, size in _segments(data, _OF_NO_SIZE):
        if marker in _FRAME_MARKERS and size >= 8 and at + 10 <= len(data):
            precision, height, width, components = _FRAME.unpack_from(data, at + 4)
            frame, progressive = (width, height, components, precision), marker in _PROGRESSIVE_MARKERS
        elif marker == _APP1 and size >= 8 and data.startswith(b"Exif\x00\x00", at + 4):
            orientation = exif_orientation(data[at + 4 : at + 2 + size])
        elif marker == _SOS and at + 4 < len(data):
            first_scan, scan_start = data[at + 4], at
        elif marker is None:
            return None
    if frame is None:
        return None
    return JpegHeader(*frame, orientation, progressive or first_scan != frame[2], scan_start)


def jpeg_luma_table(data: bytes) -> tuple[int, ...]:
    """Quantisation table 0 (the luma's), the last before the first scan, in zigzag order; empty where there is none."""
    table: tuple[int, ...] = ()
    for marker, at, size in _segments(data):
        if marker == _DQT:
            table = _table_zero(data[at + 4 : at + 2 + size]) or table
    return table


def _segments(data: bytes, passed: frozenset[int] = frozenset()) -> Iterator[tuple[int | None, int, int]]:
    """(marker, its place, its payload's size + 2) of a JPEG's segments up to its first scan or its end, that included,
    but for those `passed` over; the marker None, last, where bytes stand that are none, or after 10,000 segments."""
    at, end = 2, len(data) - 4
    for _ in range(_MAX_SEGMENTS):
        if at > end:
            return
        mark, marker, size = _SEGMENT.unpack_from(data, at)
        if mark != _MARK:
            yield None, at, 0
            return
        if marker not in passed:
            if marker == _MARK:  # fill bytes: as many as one likes may stand before a marker
                fill = _FILL.match(data, at)
                at = fill.end() - 1 if fill else at + 1
                continue
            if marker in _STANDALONE_MARKERS:
                at += 2
                continue
            yield marker, at, size
            if marker in (_SOS, _EOI):
                return
        at += 2 + size if size > 2 else 4
    yield None, at, 0


def _table_zero(payload: bytes) -> tuple[int, ...]:
    """Quantisation table 0 (the luma's) of a DQT segment, in zigzag order; empty when the segment has none."""
    at = 0
    while at < len(payload):
        wide, number = payload[at] >> 4, payload[at] & 15
        end = at + 1 + (128 if wide else 64)
        if number == 0 and end <= len(payload):
            return struct.unpack_from(">64H" if wide else ">64B", payload, at + 1)
        at = end
    return ()


def exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block (with or without its "Exif" prefix); 1 when absent or malformed."""
    tiff = exif[6:] if exif.startswith(b"Exif\x00\x00") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, entry)
        if tag == _ORIENTATION_TAG and kind == 3:  # a SHORT sits in the first two of the four value bytes
            (value,) = struct.unpack_from(order + "H", tiff, entry + 8)
            return int(value) if 1 <= value <= 8 else 1
    return 1


# ITU-T T.81 Annex K, table K.1, in zigzag order: what libjpeg scales by its quality setting.
_STANDARD_LUMA = (
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
    26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
    95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
)  # fmt: skip


def _scaled_sum(quality: int) -> int:
    """Sum of the standard luma table at a libjpeg quality of 1..100 (jpeg_quality_scaling and its clamp to 1..255)."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return sum(min(max((value * scale + 50) // 100, 1), 255) for value in _STANDARD_LUMA)


_SUM_BY_QUALITY = {quality: _scaled_sum(quality) for quality in range(1, 101)}


def nearest_quality(luma_table: tuple[int, ...]) -> int:
    """The libjpeg quality 1..100 whose luma table is, in sum, nearest to this one; exact for libjpeg's own files."""
    total = sum(luma_table)
    return min(_SUM_BY_QUALITY, key=lambda quality: (abs(_SUM_BY_QUALITY[quality] - total), -quality))
