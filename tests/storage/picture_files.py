"""Files of one scene in every format and mode that the image door opens."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from storage.images import Pixels

HEIGHT, WIDTH = 60, 91  # neither a multiple of 8 nor of 16


def scene(height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Smooth colours with one dark corner, so that every turn and mirror of it differs."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(
        np.uint8
    )
    pixels[: height // 4, : width // 4] = (10, 20, 200)
    return pixels


def file_of(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def scene_file(format: str, mode: str = "RGB", **options: object) -> bytes:
    image = Image.fromarray(scene())
    return file_of(image.quantize(256) if mode == "P" else image.convert(mode), format, **options)


def _sixteen_bit() -> bytes:
    return file_of(Image.fromarray(scene()[..., 0].astype(np.uint16) * 257), "PNG")


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: scene_file("JPEG", quality=95, subsampling=0),
    "progressive jpeg": lambda: scene_file("JPEG", quality=95, progressive=True),
    "gray jpeg": lambda: scene_file("JPEG", "L", quality=95),
    "cmyk jpeg": lambda: scene_file("JPEG", "CMYK", quality=95),
    "png": lambda: scene_file("PNG"),
    "palette png": lambda: scene_file("PNG", "P"),
    "gray+alpha png": lambda: scene_file("PNG", "LA"),
    "1-bit png": lambda: scene_file("PNG", "1"),
    "16-bit png": _sixteen_bit,
    "gif": lambda: scene_file("GIF", "P"),
    "webp": lambda: scene_file("WEBP", quality=90),
    "lossless webp": lambda: scene_file("WEBP", lossless=True),
    "avif": lambda: scene_file("AVIF", quality=90, speed=10),
    "bmp": lambda: scene_file("BMP"),
    "tiff": lambda: scene_file("TIFF", compression="tiff_lzw"),
}
LOSSLESS_ENOUGH: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95, "speed": 10},
}
