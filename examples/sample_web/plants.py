"""Copies as the web makes them: how a picture changes on its way from one page to another, and how strongly.

Strengths are moderate: every planted copy is one that a person calls the same picture at a glance.
"""

import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from examples.sample_web.canvas import Pixels
from examples.sample_web.concepts import CONCEPTS, render_scene

STRENGTHS: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "recompress": {"quality": (30, 60)},
        "resize": {"factor": (0.6, 0.85)},
        "crop": {"kept_area": (0.78, 0.92)},
        "colour": {
            "brightness": (0.8, 1.25),
            "contrast": (0.8, 1.2),
            "saturation": (0.5, 1.5),
            "hue_turns": (-0.03, 0.03),
        },
        "border": {"share_of_longer_side": (0.03, 0.08)},
        "text": {"share_of_height": (0.06, 0.1), "lines": (1, 2)},
        "mirror": {},
        "blend": {"weight_of_original": (0.82, 0.9)},
    }
)
"""Each kind of copy and the ranges its parameters are drawn from, uniformly."""

COPY_KINDS: tuple[str, ...] = tuple(STRENGTHS)

_CAPTIONS = (
    "SAMPLE WEB",
    "photo of the day",
    "www.gallery.sample.test",
    "(c) photos.sample.test",
    "SALE -20%",
    "wish you were here",
)


def transform(kind: str, image: Pixels, rng: np.random.Generator) -> Pixels:
    """A copy of `image` (uint8 [height, width, 3]) of the given kind, its parameters drawn from `rng`.

    The size changes with "resize", "crop" and "border". Raises ValueError for an unknown kind.
    """
    if kind not in _TRANSFORMS:
        raise ValueError(f"unknown kind of copy {kind!r}: one of {', '.join(COPY_KINDS)}")
    drawn = {name: float(rng.uniform(low, high)) for name, (low, high) in STRENGTHS[kind].items()}
    changed = _TRANSFORMS[kind](Image.fromarray(image), drawn, rng)
    return np.asarray(changed.convert("RGB"))


def _recompress(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=round(drawn["quality"]))
    return Image.open(stored)


def _resize(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    size = (max(1, round(image.width * drawn["factor"])), max(1, round(image.height * drawn["factor"])))
    return image.resize(size, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    side = math.sqrt(drawn["kept_area"])
    width, height = round(image.width * side), round(image.height * side)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _colour(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(drawn["brightness"])
    image = ImageEnhance.Contrast(image).enhance(drawn["contrast"])
    image = ImageEnhance.Color(image).enhance(drawn["saturation"])
    bands = np.asarray(image.convert("HSV")).copy()
    bands[..., 0] += np.uint8(round(drawn["hue_turns"] * 256) % 256)  # hues are a circle of 256, and wrap
    return Image.fromarray(bands, "HSV").convert("RGB")


def _border(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    rim = max(2, round(drawn["share_of_longer_side"] * max(image.size)))
    colour = [(255, 255, 255), (0, 0, 0), tuple(int(v) for v in rng.integers(0, 256, 3))][int(rng.integers(3))]
    framed = Image.new("RGB", (image.width + 2 * rim, image.height + 2 * rim), colour)
    framed.paste(image, (rim, rim))
    return framed


def _text(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    tall = max(10, round(drawn["share_of_height"] * image.height))
    font = ImageFont.load_default(size=tall)
    for _ in range(round(drawn["lines"])):
        caption = _CAPTIONS[int(rng.integers(len(_CAPTIONS)))]
        room = max(1, image.width - round(draw.textlength(caption, font=font)))
        place = (int(rng.integers(room)), int(rng.integers(max(1, image.height - 2 * tall))))
        draw.text(
            place, caption, font=font, fill=(255, 255, 255), stroke_width=max(1, tall // 12), stroke_fill=(0, 0, 0)
        )
    return image


def _mirror(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _blend(image: Image.Image, drawn: Mapping[str, float], rng: np.random.Generator) -> Image.Image:
    concept, seed = CONCEPTS[int(rng.integers(len(CONCEPTS)))], int(rng.integers(2**62))
    other = render_scene(concept, seed, image.size).astype(np.float32)
    # Not more contrasty than the original: a pale picture under a glaring one is the other picture.
    other = other.mean() + (other - other.mean()) * min(1.0, float(np.asarray(image).std() / max(other.std(), 1.0)))
    faint = Image.fromarray(np.clip(other, 0, 255).astype(np.uint8))
    return Image.blend(faint, image, drawn["weight_of_original"])


_Transform = Callable[[Image.Image, Mapping[str, float], np.random.Generator], Image.Image]
_TRANSFORMS: Mapping[str, _Transform] = MappingProxyType(
    {
        "recompress": _recompress,
        "resize": _resize,
        "crop": _crop,
        "colour": _colour,
        "border": _border,
        "text": _text,
        "mirror": _mirror,
        "blend": _blend,
    }
)
