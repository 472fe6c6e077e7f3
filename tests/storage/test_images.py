"""The image door: every kind of file in, the right pixels out, and nothing but ImageError for the rest."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from storage import images
from storage.images import ImageError, Pixels, decode_gray, decode_rgb, probe, verify

HEIGHT, WIDTH = 60, 91  # neither a multiple of 8 nor of 16


def _scene(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Smooth colours with one dark corner, so that every turn and mirror of it differs."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(
        np.uint8
    )
    pixels[: height // 4, : width // 4] = (10, 20, 200)
    return pixels


def _file(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def _scene_file(format: str, mode: str = "RGB", **options: object) -> bytes:
    image = Image.fromarray(_scene())
    return _file(image.quantize(256) if mode == "P" else image.convert(mode), format, **options)


def _sixteen_bit() -> bytes:
    return _file(Image.fromarray(_scene()[..., 0].astype(np.uint16) * 257), "PNG")


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: _scene_file("JPEG", quality=95, subsampling=0),
    "progressive jpeg": lambda: _scene_file("JPEG", quality=95, progressive=True),
    "gray jpeg": lambda: _scene_file("JPEG", "L", quality=95),
    "cmyk jpeg": lambda: _scene_file("JPEG", "CMYK", quality=95),
    "png": lambda: _scene_file("PNG"),
    "palette png": lambda: _scene_file("PNG", "P"),
    "gray+alpha png": lambda: _scene_file("PNG", "LA"),
    "1-bit png": lambda: _scene_file("PNG", "1"),
    "16-bit png": _sixteen_bit,
    "gif": lambda: _scene_file("GIF", "P"),
    "webp": lambda: _scene_file("WEBP", quality=90),
    "lossless webp": lambda: _scene_file("WEBP", lossless=True),
    "avif": lambda: _scene_file("AVIF", quality=90, speed=10),
    "bmp": lambda: _scene_file("BMP"),
    "tiff": lambda: _scene_file("TIFF", compression="tiff_lzw"),
}
LOSSLESS_ENOUGH: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "speed": 10},
}
GRAYS = {"gray jpeg", "gray+alpha png", "16-bit png"}
# Mean absolute difference allowed in levels of 0..255: what the format itself loses.
TOLERANCE = {"palette png": 4, "gif": 4, "cmyk jpeg": 3, "progressive jpeg": 4, "webp": 6, "avif": 6}


@pytest.mark.parametrize("name", [name for name in FILES if name != "1-bit png"])
def test_every_kind_of_file_decodes_to_the_pixels_it_was_made_from(name: str) -> None:
    expected = _scene()
    if name == "16-bit png":
        expected = np.repeat(expected[..., :1], 3, axis=2)
    elif name in GRAYS:
        expected = np.asarray(Image.fromarray(expected).convert("L").convert("RGB"))
    decoded = decode_rgb(FILES[name]())
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - expected).mean() <= TOLERANCE.get(name, 2)


@pytest.mark.parametrize("name", FILES)
def test_probe_and_verify_agree_with_the_decoded_array(name: str) -> None:
    data = FILES[name]()
    height, width = decode_rgb(data).shape[:2]
    assert probe(data) == verify(data)
    assert (probe(data).width, probe(data).height) == (width, height) == (WIDTH, HEIGHT)
    assert probe(data).format.lower() == name.split()[-1]


@pytest.mark.parametrize("name", FILES)
def test_gray_is_the_luma_of_the_colours(name: str) -> None:
    data = FILES[name]()
    luma = decode_rgb(data) @ np.array([0.299, 0.587, 0.114])
    assert decode_gray(data).shape == luma.shape
    assert np.abs(decode_gray(data) - luma).mean() < 1.5


def test_transparent_pixels_become_white() -> None:
    alpha = np.zeros((8, 8, 4), np.uint8)
    alpha[:4] = (200, 30, 30, 255)
    palette = Image.fromarray(alpha).convert("P")
    rgb_with_key = _file(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    for data in (_file(Image.fromarray(alpha), "PNG"), _file(Image.fromarray(alpha), "WEBP", lossless=True)):
        decoded = decode_rgb(data)
        assert (decoded[4:] == 255).all()
        assert (decoded[:4] == (200, 30, 30)).all()
    assert (decode_rgb(_file(palette, "PNG", transparency=palette.getpixel((0, 7))))[4:] == 255).all()
    assert (decode_rgb(rgb_with_key) == 255).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for format in ("GIF", "WEBP"):
        data = _file(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
        assert probe(data).animated
        assert np.abs(decode_rgb(data).astype(int) - (250, 0, 0)).max() < 12
    assert not probe(FILES["gif"]()).animated


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = _stored_as(_scene(), orientation)
    data = _file(Image.fromarray(stored), format, exif=exif, **LOSSLESS_ENOUGH.get(format, {}))
    assert (probe(data).width, probe(data).height) == (WIDTH, HEIGHT)
    assert np.abs(decode_rgb(data).astype(int) - _scene()).mean() < 5


def _stored_as(upright: Pixels, orientation: int) -> Pixels:
    """What a camera stores so that this orientation turns it upright: where TIFF 6.0 puts row 0 and column 0."""
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),  # 0th row = right side
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),  # 0th row = left side
    }
    return np.ascontiguousarray(turns[orientation](upright))


@pytest.mark.parametrize(
    ("min_side", "expected"), [(None, 480), (241, 480), (240, 240), (121, 240), (100, 120), (60, 60), (1, 60)]
)
def test_a_jpeg_is_reduced_by_a_power_of_two_that_leaves_the_shorter_side(min_side: int | None, expected: int) -> None:
    data = images.encode_jpeg(_scene(480, 640), quality=95)
    for decoded in (decode_rgb(data, min_side=min_side), decode_gray(data, min_side=min_side)):
        assert decoded.shape[:2] == (expected, expected * 4 // 3)
    assert decode_rgb(FILES["png"](), min_side=1).shape == (HEIGHT, WIDTH, 3)


def test_a_cmyk_jpeg_is_reduced_too_and_keeps_its_colours() -> None:
    data = _file(Image.fromarray(_scene(480, 640)).convert("CMYK"), "JPEG", quality=95)
    decoded = decode_rgb(data, min_side=100)
    small = images.resize(_scene(480, 640), height=decoded.shape[0], width=decoded.shape[1], method="area")
    assert min(decoded.shape[:2]) >= 100
    assert decoded.shape[0] < 480
    assert np.abs(decoded.astype(int) - small).mean() < 4


def test_stray_bytes_before_the_end_marker_do_not_lose_a_whole_image() -> None:
    data = FILES["jpeg"]()
    assert np.array_equal(decode_rgb(data[:-2] + b"\x00\x07\x01" + data[-2:])[:40], decode_rgb(data)[:40])


def _huge_png(side: int = 60_000) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _huge_webp() -> bytes:
    data = bytearray(_scene_file("WEBP", "RGBA", lossless=True, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (59_999).to_bytes(3, "little") * 2
    return bytes(data)


def _huge_gif_frame() -> bytes:
    data = bytearray(FILES["gif"]())
    at = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


def _many_scans() -> bytes:
    data = FILES["progressive jpeg"]()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 100 + data[-2:]


HTML = b"<!DOCTYPE html>\n<html><body><svg></svg></body></html>"
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no bytes": (lambda: b"", "empty_body"),
    "an HTML page": (lambda: HTML, "not_an_image"),
    "zeros": (lambda: bytes(1000), "not_an_image"),
    "a video": (lambda: b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2mdat", "not_an_image"),
    "an SVG": (
        lambda: b"<?xml version='1.0'?>\n<!-- a -->\n<svg xmlns='http://www.w3.org/2000/svg'/>",
        "unsupported_format",
    ),
    "an SVG with a doctype": (
        lambda: b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "a">\n<svg/>',
        "unsupported_format",
    ),
    "a HEIC": (lambda: b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "unsupported_format"),
    "an icon": (lambda: b"\x00\x00\x01\x00\x01\x00\x10\x10", "unsupported_format"),
    "a float TIFF": (lambda: _file(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unsupported_format"),
    "half a JPEG": (lambda: FILES["jpeg"]()[: len(FILES["jpeg"]()) // 2], "truncated"),
    "half a CMYK JPEG": (lambda: FILES["cmyk jpeg"]()[: len(FILES["cmyk jpeg"]()) // 2], "truncated"),
    "half a progressive JPEG": (lambda: FILES["progressive jpeg"]()[:-400], "truncated"),
    "the head of a JPEG": (lambda: FILES["jpeg"]()[:30], "truncated"),
    "half a PNG": (lambda: FILES["png"]()[: len(FILES["png"]()) // 2], "truncated"),
    "half a GIF": (lambda: FILES["gif"]()[: len(FILES["gif"]()) // 2], "truncated"),
    "half a WebP": (lambda: FILES["webp"]()[: len(FILES["webp"]()) // 2], "undecodable"),
    "a PNG of 60,000 x 60,000": (_huge_png, "too_many_pixels"),
    "a WebP canvas of 60,000 x 60,000": (_huge_webp, "too_many_pixels"),
    "a GIF frame of 60,000 x 60,000": (_huge_gif_frame, "too_many_pixels"),
    "a JPEG of 900 scans": (_many_scans, "undecodable"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_whole_image_is_refused_with_its_reason_and_at_once(what: str) -> None:
    make, reason = REFUSED[what]
    data = make()
    for door in (verify, decode_rgb, decode_gray):
        started = time.perf_counter()
        with pytest.raises(ImageError) as caught:
            door(data)
        assert caught.value.reason == reason, caught.value
        assert caught.value.detail
        assert reason in str(caught.value)
        assert time.perf_counter() - started < 1.0


def test_the_pixel_limit_is_the_callers_and_holds_for_every_format() -> None:
    for name, make in FILES.items():
        assert verify(make(), max_pixels=HEIGHT * WIDTH).width == WIDTH, name
        for door in (verify, decode_rgb, decode_gray):
            with pytest.raises(ImageError, match="too_many_pixels"):
                door(make(), max_pixels=HEIGHT * WIDTH - 1)


def test_a_header_alone_tells_the_size_of_an_image_too_large_to_decode() -> None:
    assert (probe(_huge_png()).width, probe(_huge_png()).height) == (60_000, 60_000)


def test_ten_thousand_mutated_files_raise_nothing_but_image_errors() -> None:
    random = np.random.default_rng(7)
    originals = [make() for make in FILES.values()]
    outcomes: dict[str, int] = {}
    for round_number in range(10_000):
        data = _mutated(originals[round_number % len(originals)], random)
        try:
            decoded = decode_rgb(data, max_pixels=1_000_000, min_side=int(random.integers(1, 70)))
            outcome = "decoded"
            assert decoded.ndim == 3
            assert decoded.shape[2] == 3
            assert decoded.dtype == np.uint8
            probe(data)
        except ImageError as error:
            outcome = error.reason
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert {"decoded", "undecodable", "truncated", "not_an_image", "too_many_pixels"} <= set(outcomes), outcomes


def _mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One of: bytes overwritten (mostly in the header), a cut, a piece removed, a piece repeated, a field maximised."""
    out = bytearray(data)
    start = int(random.integers(len(out) if random.random() < 0.4 else min(len(out), 120)))
    size = int(random.integers(1, 40))
    match int(random.integers(5)):
        case 0:
            for at in random.integers(0, len(out), size=int(random.integers(1, 8))):
                out[at] = int(random.integers(256))
        case 1:
            del out[max(start, 1) :]
        case 2:
            del out[start : start + size]
        case 3:
            out[start:start] = out[start : start + size] * 3
        case _:
            out[start : start + 2] = b"\xff\xff"
    return bytes(out)


@pytest.mark.parametrize("quality", [5, 30, 49, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg_is_read_back_exactly(quality: int) -> None:
    assert images.jpeg_quality(images.encode_jpeg(_scene(), quality=quality)) == quality
    assert images.jpeg_quality(_scene_file("JPEG", quality=quality, progressive=True)) == quality


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
    data = _scene_file("JPEG", quality=83, subsampling=1, exif=exif)
    again = images.encode_like(data, decode_rgb(data))
    with JpegImageFile(io.BytesIO(data)) as before, JpegImageFile(io.BytesIO(again)) as after:
        assert before.quantization == after.quantization
        assert get_sampling(before) == get_sampling(after) == 1
        assert b"thumbnail" in before.info["exif"]
        assert "exif" not in after.info


def test_area_resize_is_the_mean_of_what_each_pixel_covers() -> None:
    pixels = _scene(64, 96)
    means = pixels.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(images.resize(pixels, height=32, width=48, method="area") - means).max() < 1


def test_a_thumbnail_is_never_larger_than_its_side_nor_than_the_image() -> None:
    assert decode_rgb(images.encode_thumbnail(_scene(100, 300), side=96)).shape == (32, 96, 3)
    small = images.encode_thumbnail(_scene(20, 30), side=96, format="PNG")
    assert np.array_equal(decode_rgb(small), _scene(20, 30))
