"""A file's own marks say whether it is whole, without decoding: what is cut is refused, what follows the end is not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.image_headers import read_jpeg_header
from storage.image_marks import UNMARKED, missing_part
from storage.images import ImageError, decode_rgb, probe, probe_whole, verify


def _file(format: str, mode: str = "RGB", **options: object) -> bytes:
    y, x = np.mgrid[0:60, 0:91]
    pixels = np.stack([x * 255 // 91, y * 255 // 60, (x * y) % 256], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def _animated(format: str) -> bytes:
    frames = [Image.new("RGB", (20, 10), color) for color in ((250, 0, 0), (0, 250, 0))]
    buffer = io.BytesIO()
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


def _with_thumbnail() -> bytes:
    """A JPEG whose EXIF holds another JPEG, with an end mark of its own."""
    small = _file("JPEG")
    data = _file("JPEG", quality=90)
    segment = b"Exif\x00\x00II*\x00" + small
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


WHOLE = {
    "JPEG": _file("JPEG"),
    "progressive JPEG": _file("JPEG", progressive=True),
    "JPEG with a thumbnail": _with_thumbnail(),
    "PNG": _file("PNG"),
    "palette PNG": _file("PNG", "P"),
    "GIF": _file("GIF", "P"),
    "lossy WEBP": _file("WEBP", quality=70),
    "lossless WEBP": _file("WEBP", lossless=True),
    "animated WEBP": _animated("WEBP"),
    "AVIF": _file("AVIF", quality=60, speed=10),
}


@pytest.mark.parametrize("kind", [*WHOLE, "animated GIF"])
def test_what_decodes_is_whole_with_or_without_bytes_behind_its_end(kind: str) -> None:
    data = WHOLE.get(kind) or _animated("GIF")
    assert probe_whole(data) == verify(data) == probe(data)
    if "AVIF" not in kind:  # boxes go on to the end of a file
        assert probe_whole(data + b"\n<!-- cached -->") == probe(data)


@pytest.mark.parametrize("kind", WHOLE)
@given(share=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_cut_file_passes(kind: str, share: float) -> None:
    data = WHOLE[kind]
    unneeded = {"PNG": 4, "GIF": 1}.get(kind.rpartition(" ")[2], 0)  # IEND's checksum, the trailer after the frame
    cut = data[: int(share * (len(data) - 1 - unneeded))]
    with pytest.raises(ImageError) as refused:
        probe_whole(cut)
    assert refused.value.reason in ("truncated", "undecodable", "not_an_image", "empty_body")


def test_damage_within_a_block_passes_here_and_not_where_it_is_decoded() -> None:
    data = bytearray(WHOLE["PNG"])
    middle = data.index(b"IDAT") + 20
    data[middle : middle + 30] = bytes(30)
    assert probe_whole(bytes(data)).format == "PNG"
    with pytest.raises(ImageError):
        verify(bytes(data))


def test_too_many_pixels_are_refused_before_anything_else() -> None:
    with pytest.raises(ImageError, match="too_many_pixels"):
        probe_whole(WHOLE["JPEG"], max_pixels=91 * 60 - 1)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "AVIF", *sorted(UNMARKED)]))
@settings(max_examples=300, deadline=None)
def test_any_bytes_get_an_answer(noise: bytes, format: str) -> None:
    answer = missing_part(noise, format)
    assert answer is None or answer


def _comment_gif(count: int) -> bytes:
    whole = _file("GIF", "P")
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:start] + b"\x21\xfe" + b"\x01a" * count + b"\x00" + whole[start:]


def _chunky_png(count: int) -> bytes:
    whole = _file("PNG")
    chunk = b"\x00\x00\x00\x03tEXtk\x00v" + zlib.crc32(b"tEXtk\x00v").to_bytes(4, "big")
    return whole[:33] + chunk * count + whole[33:]


@pytest.mark.parametrize("make", [_comment_gif, _chunky_png])
def test_what_says_a_million_things_beside_the_picture_is_refused_and_a_thousand_are_well(
    make: Callable[[int], bytes],
) -> None:
    assert probe_whole(make(1000)) == verify(make(1000))
    for look in (probe, probe_whole, verify):
        with pytest.raises(ImageError, match="over 50,000 blocks"):
            look(make(300_000))


def test_fill_bytes_before_a_marker_are_passed_over_at_once_and_too_many_segments_are_refused() -> None:
    data = _file("JPEG")
    filled = data[:2] + b"\xff" * (20 << 20) + data[2:]
    plain = read_jpeg_header(data)
    assert plain is not None
    assert read_jpeg_header(filled) == plain._replace(scan_start=plain.scan_start + (20 << 20))
    many = data[:2] + b"\xff\xe5\x00\x02" * 20_000 + data[2:]
    assert read_jpeg_header(many) is None


def test_what_pillow_warns_of_makes_no_picture_bad() -> None:
    data = _file("JPEG", "CMYK")  # which Pillow decodes
    block = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00" + struct.pack("<HHII", 0x010F, 2, 100, 0xFFFF)
    odd = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    assert np.array_equal(decode_rgb(odd), decode_rgb(data))
