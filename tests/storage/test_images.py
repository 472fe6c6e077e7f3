"""The image door: every kind of file in, the right pixels out, and nothing but ImageError for the rest."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from storage import images
from storage.images import ImageError, Pixels, decode_gray, decode_rgb, probe, verify
from tests.storage.picture_files import FILES, HEIGHT, LOSSLESS_ENOUGH, WIDTH, file_of, scene, scene_file

GRAYS = {"gray jpeg", "gray+alpha png", "16-bit png"}
# Mean absolute difference allowed in levels of 0..255: what the format itself loses.
TOLERANCE = {"palette png": 4, "gif": 4, "cmyk jpeg": 3, "progressive jpeg": 4, "webp": 6, "avif": 6}


@pytest.mark.parametrize("name", [name for name in FILES if name != "1-bit png"])
def test_every_kind_of_file_decodes_to_the_pixels_it_was_made_from(name: str) -> None:
    expected = scene()
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
    rgb_with_key = file_of(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    for data in (file_of(Image.fromarray(alpha), "PNG"), file_of(Image.fromarray(alpha), "WEBP", lossless=True)):
        decoded = decode_rgb(data)
        assert (decoded[4:] == 255).all()
        assert (decoded[:4] == (200, 30, 30)).all()
    assert (decode_rgb(file_of(palette, "PNG", transparency=palette.getpixel((0, 7))))[4:] == 255).all()
    assert (decode_rgb(rgb_with_key) == 255).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    for format in ("GIF", "WEBP"):
        data = file_of(frames[0], format, save_all=True, append_images=frames[1:], duration=50)
        assert probe(data).animated
        assert np.abs(decode_rgb(data).astype(int) - (250, 0, 0)).max() < 12
    assert not probe(FILES["gif"]()).animated


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = _stored_as(scene(), orientation)
    data = file_of(Image.fromarray(stored), format, exif=exif, **LOSSLESS_ENOUGH.get(format, {}))
    assert (probe(data).width, probe(data).height) == (WIDTH, HEIGHT)
    assert np.abs(decode_rgb(data).astype(int) - scene()).mean() < 5


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
    data = images.encode_jpeg(scene(480, 640), quality=95)
    for decoded in (decode_rgb(data, min_side=min_side), decode_gray(data, min_side=min_side)):
        assert decoded.shape[:2] == (expected, expected * 4 // 3)
    assert decode_rgb(FILES["png"](), min_side=1).shape == (HEIGHT, WIDTH, 3)


def test_a_cmyk_jpeg_is_reduced_too_and_keeps_its_colours() -> None:
    data = file_of(Image.fromarray(scene(480, 640)).convert("CMYK"), "JPEG", quality=95)
    decoded = decode_rgb(data, min_side=100)
    small = images.resize(scene(480, 640), height=decoded.shape[0], width=decoded.shape[1], method="area")
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
    data = bytearray(scene_file("WEBP", "RGBA", lossless=True, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00"))
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
    "a float TIFF": (lambda: file_of(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unsupported_format"),
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
