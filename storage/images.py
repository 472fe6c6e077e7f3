"""Bytes to pixels and back, safely: the only place that decodes.

Bytes come from strangers. The format is read from the bytes and looked up in a list of seven, the pixel count is
checked before a pixel is decoded, and whatever a codec says about bad bytes leaves here as one exception:

    StorageError
    └── ImageError    .reason is one of
                      empty_body | not_an_image | unsupported_format | undecodable | truncated | too_many_pixels

Arrays are uint8 RGB [height, width, 3] or gray [height, width], turned upright, transparency laid on white.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, JpegImagePlugin

from storage.image_codecs import (
    OPENERS,
    Colorspace,
    ImageError,
    Pixels,
    Reason,
    check_size,
    load,
    opened,
    orientation_of,
    to_array,
    turn_upright,
    upright_size,
)
from storage.image_headers import JpegHeader, jpeg_luma_table, nearest_quality, read_jpeg_header, sniff_format
from storage.image_marks import missing_part

__all__ = [
    "FILE_EXTENSIONS", "MAX_PIXELS", "ImageError", "ImageInfo", "Pixels", "decode_gray", "decode_rgb", "encode_jpeg",
    "encode_like", "encode_thumbnail", "jpeg_quality", "probe", "probe_whole", "resize", "verify",
]  # fmt: skip

Method = Literal["area", "bilinear", "bicubic"]
Subsampling = Literal["444", "422", "420"]

FILE_EXTENSIONS: Final[dict[str, str]] = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "AVIF": "avif",
    "BMP": "bmp",
    "TIFF": "tiff",
}
"""What a file of each format is called in a shard."""
MAX_PIXELS: Final = 89_478_485
"""Default limit of width x height: a quarter GiB of RGB."""
MAX_SCANS: Final = 64
"""A progressive JPEG has about 10 scans. Each costs a pass over all pixels: thousands of empty ones are an attack."""
LOSSY_QUALITY: Final = 90
"""For lossy formats whose files do not tell the quality they were made with (WebP, AVIF)."""
_RESAMPLING: Final[dict[Method, Image.Resampling]] = {
    "area": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ImageInfo:
    """What the header says. `width` and `height` in pixels after EXIF orientation; `mode` in Pillow's words."""

    format: str
    width: int
    height: int
    mode: str
    animated: bool = False


def probe(data: bytes) -> ImageInfo:
    """Format and size by bytes alone: nothing is decoded, no size is refused.

    Raises ImageError: empty_body, not_an_image, unsupported_format, undecodable or truncated (an unreadable header).
    """
    return _probed(data)[0]


def _probed(data: bytes) -> tuple[ImageInfo, JpegHeader | None]:
    format = _supported_format(data)
    if format == "JPEG":
        header = _jpeg_header(data)
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[header.components]
        return ImageInfo(format, *upright_size(header.width, header.height, header.orientation), mode), header
    with opened(data, format) as image:
        width, height = upright_size(*image.size, orientation_of(image))
        return ImageInfo(format, width, height, image.mode, bool(getattr(image, "is_animated", False))), None


def probe_whole(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """`probe`, and the file's own marks say that it is whole: nothing is decoded, so damage within a block passes.

    Raises ImageError with any of the six reasons. BMP and TIFF have no such marks: `verify` those.
    """
    info, header = _probed(data)
    check_size(info.width, info.height, max_pixels)
    missing = missing_part(data, info.format, scan_start=header.scan_start if header else 0)
    if missing is not None:
        raise ImageError("truncated", f"{info.format}: {missing}")
    return info


def verify(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """`probe`, and every coded byte of the first frame read through: a file that passes decodes to its last row.

    A JPEG's entropy-coded data is read whole but turned into a 64th of the pixels, which saves most of the time.
    Raises ImageError with any of the six reasons.
    """
    info = probe(data)
    check_size(info.width, info.height, max_pixels)
    if info.format == "JPEG":
        _decode_jpeg(data, _jpeg_header(data), colorspace="GRAY", factor=8)
        return info
    with opened(data, info.format) as image:
        load(image, max_pixels)
        if image.mode in ("I", "F"):
            to_array(image, "GRAY")  # refuses
    return info


def decode_rgb(data: bytes, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to upright RGB uint8 [height, width, 3].

    `min_side` lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, the smallest whose shorter side is at least
    `min_side` pixels; other formats come whole. First frame of an animation. Raises ImageError.
    """
    return _decode(data, "RGB", min_side, max_pixels)


def decode_gray(data: bytes, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """`decode_rgb` as luma (ITU-R BT.601) uint8 [height, width]; of a JPEG only the luma plane is decoded."""
    return _decode(data, "GRAY", min_side, max_pixels)


def _decode(data: bytes, colorspace: Colorspace, min_side: int | None, max_pixels: int) -> Pixels:
    format = _supported_format(data)
    if format == "JPEG":
        header = _jpeg_header(data)
        check_size(header.width, header.height, max_pixels)
        factor = _reduction(min(header.width, header.height), min_side)
        return turn_upright(_decode_jpeg(data, header, colorspace=colorspace, factor=factor), header.orientation)
    with opened(data, format) as image:
        orientation = orientation_of(image)
        load(image, max_pixels)
        return turn_upright(to_array(image, colorspace), orientation)


def _supported_format(data: bytes) -> str:
    if not data:
        raise ImageError("empty_body", "0 bytes")
    format = sniff_format(data)
    if format is None:
        raise ImageError("not_an_image", f"starts with {bytes(data[:16])!r}")
    if format not in OPENERS:
        raise ImageError("unsupported_format", format)
    return format


def _jpeg_header(data: bytes) -> JpegHeader:
    header = read_jpeg_header(data)
    if header is None:
        reason: Reason = "undecodable" if b"\xff\xda" in data else "truncated"
        raise ImageError(reason, "JPEG without a frame header before its first scan")
    if header.components not in (1, 3, 4) or header.precision_bits != 8 or not header.width * header.height:
        samples = f"{header.components} samples of {header.precision_bits} bits"
        raise ImageError("undecodable", f"JPEG of {header.width}x{header.height} pixels with {samples}")
    return header


def _reduction(side: int, min_side: int | None) -> int:
    """Largest of 1, 2, 4, 8 that leaves `min_side`. libjpeg's other factors (k/8) cost more than the whole decode."""
    if min_side is None:
        return 1
    return next(factor for factor in (8, 4, 2, 1) if factor == 1 or math.ceil(side / factor) >= min_side)


def _decode_jpeg(data: bytes, header: JpegHeader, *, colorspace: Colorspace, factor: int) -> Pixels:
    """By libjpeg-turbo directly; by Pillow for what that refuses (CMYK, stray bytes between segments)."""
    if header.many_scans and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageError("undecodable", f"JPEG with {scans} scans")
    height, width = math.ceil(header.height / factor), math.ceil(header.width / factor)
    if header.components != 4:
        try:
            pixels = simplejpeg.decode_jpeg(data, colorspace=colorspace, min_height=height, min_width=width)
            return np.asarray(pixels[..., 0] if colorspace == "GRAY" else pixels)
        except ValueError as error:
            if "premature end" in str(error).lower():
                raise ImageError("truncated", f"JPEG: {error}") from error
    with opened(data, "JPEG") as image:
        if factor > 1:
            image.draft(image.mode, (width, height))
        load(image, header.width * header.height)
        return to_array(image, colorspace)


def resize(pixels: Pixels, *, height: int, width: int, method: Method = "bicubic") -> Pixels:
    """Antialiased resize of uint8 [h, w, 3] or [h, w]; `area` is the mean of the pixels that each new one covers."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), _RESAMPLING[method]))


def jpeg_quality(data: bytes) -> int:
    """The libjpeg quality, 1..100, that a JPEG's luma quantisation table stands for. Raises ImageError if no JPEG."""
    if _supported_format(data) != "JPEG":
        raise ImageError("unsupported_format", "only a JPEG tells its quality")
    _jpeg_header(data)
    table = jpeg_luma_table(data)
    if not table:
        raise ImageError("undecodable", "JPEG without quantisation table 0 before its first scan")
    return nearest_quality(table)


def encode_jpeg(pixels: Pixels, *, quality: int, subsampling: Subsampling = "420") -> bytes:
    """Encode uint8 RGB [height, width, 3] or gray [height, width] as a baseline JPEG."""
    if pixels.ndim == 2:
        gray = np.ascontiguousarray(pixels[..., None])
        return bytes(simplejpeg.encode_jpeg(gray, quality, colorspace="GRAY", colorsubsampling="Gray"))
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, colorsubsampling=subsampling))


def encode_like(original: bytes, pixels: Pixels) -> bytes:
    """Encode changed RGB pixels in the format of the file they came from, at the quality that file has.

    A JPEG keeps its own quantisation tables and chroma subsampling, so blocks that were not touched lose almost
    nothing; PNG, BMP, TIFF and lossless WebP stay lossless; lossy WebP and AVIF get quality 90. The colour profile is
    kept. EXIF is not (it may hold a thumbnail of the unchanged picture, and the pixels are upright already), nor are
    further frames, nor transparency, nor more than 8 bits. Raises ImageError if `original` has no readable header, or
    its own tables or profile cannot be written again.
    """
    format = _supported_format(original)
    with opened(original, format) as source:
        options = _save_options(source, original)
        mode = "L" if source.mode in ("L", "1") else "RGB"
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, format=format, **options)
    return buffer.getvalue()


def _save_options(source: ImageFile.ImageFile, original: bytes) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if source.info.get("icc_profile") and source.mode in ("RGB", "L"):
        options["icc_profile"] = source.info["icc_profile"]
    if isinstance(source, JpegImagePlugin.JpegImageFile):
        if source.mode in ("RGB", "L"):
            options["qtables"] = [
                table for _, table in sorted(source.quantization.items())
            ]  # numbered from 0 on or not
            options["subsampling"] = JpegImagePlugin.get_sampling(source)
        else:
            options["quality"] = (
                nearest_quality(jpeg_luma_table(original)) if 0 in source.quantization else LOSSY_QUALITY
            )
        options["progressive"] = bool(source.info.get("progressive"))
    elif source.format == "WEBP":
        options |= {"lossless": True} if b"VP8L" in original[:64] else {"quality": LOSSY_QUALITY}
    elif source.format == "AVIF":
        options |= {"quality": LOSSY_QUALITY, "speed": 8}
    elif source.format == "TIFF":
        options["compression"] = "tiff_adobe_deflate"
    return options


def encode_thumbnail(pixels: Pixels, *, side: int, format: Literal["JPEG", "PNG"] = "JPEG") -> bytes:
    """A small copy for contact sheets: longer side at most `side` pixels, never enlarged."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        pixels = resize(pixels, height=max(1, round(height * scale)), width=max(1, round(width * scale)))
    if format == "JPEG":
        return encode_jpeg(pixels, quality=85)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
