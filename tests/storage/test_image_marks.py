"""A file's own marks say whether it is whole, without decoding: what is cut is refused, what follows the end is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.image_marks import UNMARKED, missing_part
from storage.images import ImageError, probe, probe_whole, verify


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
