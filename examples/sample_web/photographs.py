"""Real photographs, from files that the wheels of scikit-image and scikit-learn carry: nothing is ever fetched.

The crops overlap little or not at all, so that no two are copies of one another, and none holds a face but the
astronaut's, whose place is known.
"""

import functools
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from examples.sample_web.canvas import Pixels

Box = tuple[int, int, int, int]

_CROPS: Mapping[str, tuple[str, str, Box]] = MappingProxyType(
    {
        "astronaut_flag": ("skimage", "data/astronaut.png", (0, 0, 135, 200)),
        "astronaut_shuttle": ("skimage", "data/astronaut.png", (330, 0, 512, 330)),
        "bricks": ("skimage", "data/brick.png", (0, 0, 512, 512)),
        "tripod": ("skimage", "data/camera.png", (230, 215, 512, 512)),
        "cells": ("skimage", "data/cell.png", (0, 0, 550, 550)),
        "clock": ("skimage", "data/clock_motion.png", (0, 0, 400, 300)),
        "cup": ("skimage", "data/coffee.png", (0, 0, 600, 400)),
        "coins": ("skimage", "data/coins.png", (0, 0, 384, 303)),
        "gravel": ("skimage", "data/gravel.png", (0, 0, 400, 512)),
        "deep_field_a": ("skimage", "data/hubble_deep_field.jpg", (0, 0, 500, 436)),
        "deep_field_b": ("skimage", "data/hubble_deep_field.jpg", (500, 436, 1000, 872)),
        "tissue_a": ("skimage", "data/ihc.png", (0, 0, 250, 330)),
        "tissue_b": ("skimage", "data/ihc.png", (262, 120, 512, 512)),
        "moon_a": ("skimage", "data/moon.png", (0, 0, 512, 250)),
        "moon_b": ("skimage", "data/moon.png", (60, 262, 500, 512)),
        "motorcycle": ("skimage", "data/motorcycle_left.png", (0, 0, 741, 500)),
        "page": ("skimage", "data/page.png", (0, 0, 384, 191)),
        "retina": ("skimage", "data/retina.jpg", (60, 350, 1000, 1050)),
        "rocket": ("skimage", "data/rocket.jpg", (0, 0, 640, 427)),
        "handwriting": ("skimage", "data/text.png", (60, 0, 448, 172)),
        "pagoda": ("sklearn", "datasets/images/china.jpg", (0, 0, 340, 427)),
        "lake": ("sklearn", "datasets/images/china.jpg", (360, 110, 640, 427)),
        "dahlia": ("sklearn", "datasets/images/flower.jpg", (120, 20, 560, 400)),
    }
)

PHOTOGRAPHS: tuple[str, ...] = tuple(_CROPS)

_TEXTURES = frozenset({"bricks", "gravel", "moon_a", "moon_b", "deep_field_a", "deep_field_b"})

_PORTRAIT = ("skimage", "data/astronaut.png")
_HEAD: Box = (138, 8, 310, 236)  # the head with hair and collar
_FACE: Box = (179, 78, 269, 186)  # the face in it, forehead to chin


@functools.lru_cache(maxsize=32)
def _open(package: str, path: str) -> Image.Image:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the sample web takes photographs from {package}, which is not installed: pip install 'curate-lvd[sample]'"
        )
    with Image.open(Path(found.submodule_search_locations[0]) / path) as image:
        return image.convert("RGB")


def bears_copies(name: str) -> bool:
    """Whether a crop of a crop is still that picture: not of even textures, nor of long narrow strips."""
    left, top, right, bottom = _CROPS[name][2]
    sides = (right - left, bottom - top)
    return name not in _TEXTURES and max(sides) <= 1.6 * min(sides)


def load_photograph(name: str, longer_side: int) -> Pixels:
    """One crop, scaled down (never up) to `longer_side`: uint8 [height, width, 3]."""
    package, path, box = _CROPS[name]
    crop = _open(package, path).crop(box)
    scale = min(1.0, longer_side / max(crop.size))
    return np.asarray(crop.resize((round(crop.width * scale), round(crop.height * scale)), Image.Resampling.LANCZOS))


def load_portrait(longer_side: int) -> tuple[Pixels, Box]:
    """The astronaut's whole portrait and the box of her face in it."""
    portrait = _open(*_PORTRAIT)
    scale = longer_side / max(portrait.size)
    pixels = portrait.resize((round(portrait.width * scale), round(portrait.height * scale)), Image.Resampling.LANCZOS)
    left, top, right, bottom = (round(side * scale) for side in _FACE)
    return np.asarray(pixels), (left, top, right, bottom)


def paste_face(picture: Pixels, face_pixels: int, rng: np.random.Generator, avoid: list[Box]) -> tuple[Pixels, Box]:
    """The picture with a head whose face is `face_pixels` tall, at a free place, and the box of the face.

    The head is mirrored, turned a little and relit at random. Raises ValueError when it fits nowhere.
    """
    head, mask, face = _head(face_pixels, rng)
    height, width = picture.shape[:2]
    for _ in range(200):
        left = int(rng.integers(max(1, width - head.width + 1)))
        top = int(rng.integers(max(1, height - head.height + 1)))
        box = (left + face[0], top + face[1], left + face[2], top + face[3])
        if head.width <= width and head.height <= height and not any(_near(box, other) for other in avoid):
            whole = Image.fromarray(picture)
            whole.paste(head, (left, top), mask)
            return np.asarray(whole), box
    raise ValueError(f"no room for a face of {face_pixels} pixels on a picture of {width}x{height}")


def _head(face_pixels: int, rng: np.random.Generator) -> tuple[Image.Image, Image.Image, Box]:
    scale = face_pixels / (_FACE[3] - _FACE[1])
    head = _open(*_PORTRAIT).crop(_HEAD)
    size = (max(1, round(head.width * scale)), max(1, round(head.height * scale)))
    head = head.resize(size, Image.Resampling.LANCZOS)
    left, top, right, bottom = (
        round((side - corner) * scale) for side, corner in zip(_FACE, _HEAD[:2] * 2, strict=True)
    )
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((size[0] * 0.04, size[1] * 0.02, size[0] * 0.96, size[1] * 0.97), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(max(1.0, size[0] / 30)))
    if rng.random() < 0.5:
        head, mask = (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in (head, mask))
        left, right = size[0] - right, size[0] - left
    turn = math.degrees(rng.uniform(-0.12, 0.12))
    head, mask = (image.rotate(turn, Image.Resampling.BICUBIC) for image in (head, mask))
    head = ImageEnhance.Brightness(head).enhance(float(rng.uniform(0.85, 1.1)))
    head = ImageEnhance.Color(head).enhance(float(rng.uniform(0.6, 1.2)))
    return head, mask, (left, top, right, bottom)


def _near(first: Box, second: Box) -> bool:
    """True when the heads around the two faces would touch."""
    reach = max(first[3] - first[1], second[3] - second[1])
    across = max(first[0], second[0]) - min(first[2], second[2])
    down = max(first[1], second[1]) - min(first[3], second[3])
    return across < reach and down < reach
