"""Pixels to bytes: a changed picture is written as its file was, a small one is small."""

import io

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from storage import images
from storage.images import ImageError, decode_rgb, probe
from tests.storage.picture_files import FILES, scene, scene_file


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_read_back_exactly(quality: int) -> None:
    assert images.jpeg_quality(images.encode_jpeg(scene(), quality=quality)) == quality
    assert images.jpeg_quality(scene_file("JPEG", quality=quality, progressive=True)) == quality


@pytest.mark.parametrize("name", FILES)
def test_a_changed_image_keeps_its_format_and_the_pixels_that_were_not_changed(name: str) -> None:
    data = FILES[name]()
    pixels = decode_rgb(data)
    changed = pixels.copy()
    changed[16:32, 16:32] = 90
    again = images.encode_like(data, changed)
    assert probe(again).format == probe(data).format
    after = decode_rgb(again)[48:, 48:].astype(int)
    assert np.abs(after - pixels[48:, 48:]).mean() <= {"1-bit png": 200, "avif": 3, "webp": 3}.get(name, 1.5)


def test_a_changed_jpeg_keeps_its_tables_and_loses_its_embedded_thumbnail() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a face in a thumbnail"
    data = scene_file("JPEG", quality=83, subsampling=1, exif=exif)
    again = images.encode_like(data, decode_rgb(data))
    with JpegImageFile(io.BytesIO(data)) as before, JpegImageFile(io.BytesIO(again)) as after:
        assert before.quantization == after.quantization
        assert get_sampling(before) == get_sampling(after) == 1
        assert b"thumbnail" in before.info["exif"]
        assert "exif" not in after.info


def test_area_resize_is_the_mean_of_what_each_pixel_covers() -> None:
    pixels = scene(64, 96)
    means = pixels.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(images.resize(pixels, height=32, width=48, method="area") - means).max() < 1


def test_a_thumbnail_is_never_larger_than_its_side_nor_than_the_image() -> None:
    assert decode_rgb(images.encode_thumbnail(scene(100, 300), side=96)).shape == (32, 96, 3)
    small = images.encode_thumbnail(scene(20, 30), side=96, format="PNG")
    assert np.array_equal(decode_rgb(small), scene(20, 30))


def _renumbered(data: bytes) -> bytes:
    """The same JPEG with quantisation tables 2 and 3 in place of 0 and 1, which is legal."""
    out, at, seen = bytearray(data), 2, set()
    while data[at + 1] != 0xDA:
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDB:
            for table in range(at + 4, at + 2 + size, 65):
                out[table] += 2
                seen.add(out[table])
        elif data[at + 1] in (0xC0, 0xC2):
            for component in range(data[at + 9]):
                out[at + 12 + 3 * component] += 2
        at += 2 + size
    assert seen <= {2, 3}
    return bytes(out)


@pytest.mark.parametrize(("mode", "loss"), [("L", 1), ("RGB", 2), ("CMYK", 6)])
def test_a_jpeg_whose_tables_have_other_numbers_is_written_again_too(mode: str, loss: float) -> None:
    data = _renumbered(scene_file("JPEG", mode, quality=90))
    pixels = decode_rgb(data)
    again = decode_rgb(images.encode_like(data, pixels))
    assert np.abs(again.astype(int) - pixels).mean() < loss


def test_what_a_codec_cannot_write_again_is_the_files_fault_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scene_file("JPEG")

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("invalid quantization table")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(ImageError, match="invalid quantization table"):
        images.encode_like(data, scene())
