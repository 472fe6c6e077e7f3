"""Pixels → bytes in every form in which the sample web serves an image, well-formed or not."""

import binascii
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from examples.sample_web.canvas import Pixels

BOMB_SIDE = 60_000  # pixels that a small PNG's header claims, each way


class Encoded(NamedTuple):
    """Bytes as served and what the server says they are."""

    data: bytes
    mime: str


def encode(kind: str, pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """Encode uint8 [height, width, 3] pixels. The same arguments give the same bytes. `kind` is a key of ENCODERS."""
    return ENCODERS[kind](pixels, rng)


def _pillow(image: Image.Image, form: str, **options: Any) -> Encoded:
    stored = io.BytesIO()
    image.save(stored, form, **options)
    return Encoded(stored.getvalue(), f"image/{form.lower()}")


def _jpeg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """As the web has them: several qualities, some progressive."""
    quality, progressive = int(rng.integers(76, 93)), bool(rng.random() < 0.25)
    return _pillow(Image.fromarray(pixels), "JPEG", quality=quality, progressive=progressive)


def _cmyk_jpeg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=88)


def _gray_jpeg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels).convert("L"), "JPEG", quality=85)


def _exif_jpeg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """Stored turned by 90, 180 or 270 degrees, with the EXIF orientation that turns it back."""
    turns, orientation = ((1, 6), (2, 3), (3, 8))[int(rng.integers(3))]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(np.rot90(pixels, turns))
    return _pillow(Image.fromarray(stored), "JPEG", quality=88, exif=exif.tobytes())


def _truncated_jpeg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """The first half to three quarters of a baseline JPEG."""
    whole = _pillow(Image.fromarray(pixels), "JPEG", quality=85).data
    return Encoded(whole[: int(len(whole) * rng.uniform(0.5, 0.75))], "image/jpeg")


def _png(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels), "PNG")


def _palette_png(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels).quantize(64, Image.Quantize.MEDIANCUT), "PNG")


def _png16(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """16 bits a channel, RGB or gray, the low byte not a copy of the high one."""
    values = pixels if rng.random() < 0.5 else np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    deep = values.astype(">u2") * 256 + rng.integers(0, 256, values.shape).astype(">u2")
    rows = [b"\0" + row.astype(">u2").tobytes() for row in deep]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2 if values.shape[2] == 3 else 0, 0, 0, 0)
    return Encoded(png_file(header, zlib.compress(b"".join(rows), 6)), "image/png")


def png_file(header: bytes, data: bytes) -> bytes:
    """A PNG of one IDAT chunk, from IHDR's 13 bytes and compressed rows (PNG specification, section 5.3)."""
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    framed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", binascii.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _bomb_png(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """A few hundred bytes that claim 60,000 x 60,000 pixels: 10.8 GB when decoded."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    return Encoded(png_file(header, zlib.compress(rng.bytes(64) + bytes(100_000))), "image/png")


def _animated_gif(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """Four frames that slide sideways."""
    frames = [Image.fromarray(np.roll(pixels, 8 * frame, axis=1)).quantize(48) for frame in range(4)]
    return _pillow(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=120, loop=0)


def _webp(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels), "WEBP", quality=int(rng.integers(70, 90)), method=2)


def _avif(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels), "AVIF", quality=70, speed=9, max_threads=1)


def _bmp(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels), "BMP")


def _tiff(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return _pillow(Image.fromarray(pixels), "TIFF", compression="tiff_deflate")


def _svg(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    height, width = pixels.shape[:2]
    red, green, blue = (int(value) for value in pixels.mean(axis=(0, 1)))
    drawing = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}"><circle cx="{width // 2}" cy="{height // 2}" r="{height // 3}" '
        f'fill="rgb({red},{green},{blue})"/></svg>\n'
    )
    return Encoded(drawing.encode(), "image/svg+xml")


def _html(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    """A "not found" page that a server sends with status 200 and an image's type."""
    number = int(rng.integers(10**9))
    page = (
        f"<!DOCTYPE html>\n<html><head><title>Gone fishing</title></head><body><p>Error {number}.</p></body></html>\n"
    )
    return Encoded(page.encode(), "image/jpeg")


def _garbage(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return Encoded(b"\x00\x01" + rng.bytes(4000), "image/jpeg")


def _empty(pixels: Pixels, rng: np.random.Generator) -> Encoded:
    return Encoded(b"", "image/jpeg")


ENCODERS: Mapping[str, Callable[[Pixels, np.random.Generator], Encoded]] = MappingProxyType(
    {
        "jpeg": _jpeg,
        "cmyk_jpeg": _cmyk_jpeg,
        "gray_jpeg": _gray_jpeg,
        "exif_jpeg": _exif_jpeg,
        "truncated_jpeg": _truncated_jpeg,
        "png": _png,
        "palette_png": _palette_png,
        "png16": _png16,
        "bomb_png": _bomb_png,
        "animated_gif": _animated_gif,
        "webp": _webp,
        "avif": _avif,
        "bmp": _bmp,
        "tiff": _tiff,
        "svg": _svg,
        "html": _html,
        "garbage": _garbage,
        "empty": _empty,
    }
)
