"""Pillow below `storage.images`: opening a file as one format, turning it upright, any mode to RGB or gray."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from storage.errors import StorageError
from storage.image_headers import exif_orientation
from storage.image_marks import has_too_many_blocks

Pixels = NDArray[np.uint8]
Colorspace = Literal["RGB", "GRAY"]
Reason = Literal["empty_body", "not_an_image", "unsupported_format", "undecodable", "truncated", "too_many_pixels"]

MAX_SIDE: Final = 65_535

# Built by name, so that Pillow neither guesses a format nor tries the forty it knows.
OPENERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}


# What Pillow warns of (an odd EXIF block, a tag that is too large) is the web as it is, and nobody's to act on. Its
# warning of too many pixels is of another kind.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(StorageError):
    """Bytes that are no image we take. `reason` is a drop reason; `detail` says what was seen."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason: Reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@contextmanager
def opened(data: bytes, format: str) -> Iterator[ImageFile.ImageFile]:
    """A Pillow image of exactly this format; any complaint of its codec, here or in the block, becomes an ImageError.

    The one broad `except` of this package: codecs raise SyntaxError, KeyError, struct.error, zlib.error and more on
    bad bytes. It converts and re-raises, and lets through what is not the bytes' fault.
    """
    if has_too_many_blocks(data, format):
        raise ImageError("undecodable", f"{format}: over 50,000 blocks")
    try:
        with OPENERS[format](io.BytesIO(data)) as image:
            yield image
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_many_pixels", str(error)) from error
    except Exception as error:
        message = f"{format}: {str(error) or type(error).__name__}"
        cut_short = isinstance(error, EOFError) or "truncated" in message.lower()
        raise ImageError("truncated" if cut_short else "undecodable", message) from error


def load(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Decode, with the size checked before and after: a GIF's frame may be larger than its screen."""
    check_size(*image.size, max_pixels)
    image.load()
    check_size(*image.size, max_pixels)


def check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise ImageError("too_many_pixels", f"{width}x{height}: over {max_pixels} pixels, or {MAX_SIDE} on a side")


def orientation_of(image: ImageFile.ImageFile) -> int:
    """EXIF orientation of what `load` will give. Pillow turns TIFFs itself, and swaps their size when it opens them."""
    exif = image.info.get("exif")
    return exif_orientation(exif) if isinstance(exif, bytes) and image.format != "TIFF" else 1


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    return (height, width) if orientation >= 5 else (width, height)


def turn_upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2 and 4 mirrored, 3 upside down, 6 and 8 on a side, 5 and 7 on a side and mirrored."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def to_array(image: Image.Image, colorspace: Colorspace) -> Pixels:
    """A loaded image of any mode as uint8 RGB [h, w, 3] or BT.601 luma [h, w], transparency laid on white.

    CMYK is converted without its colour profile, as browsers did before they read profiles.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts 16 bits off at 255
        gray = ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return gray if colorspace == "GRAY" else np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ImageError("unsupported_format", f"{image.format} of 32-bit samples, whose white is not defined")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if colorspace == "GRAY" and image.mode == "L":
        return np.asarray(image)
    rgb = image.convert("RGB")
    return np.asarray(rgb.convert("L") if colorspace == "GRAY" else rgb)
