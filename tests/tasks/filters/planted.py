"""Photographs and scenes with a face planted at a known place and size."""

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data as photographs

from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import Pixels, decode_rgb, encode_jpeg

_HEAD = np.s_[25:215, 150:300]
_FACE = np.array([27, 35, 120, 156], float)  # left, top, right, bottom in the head's crop: 121 pixels high
_FACE_HEIGHT = 121


@cache
def head() -> Pixels:
    """The head in skimage's astronaut (NASA, public domain)."""
    return np.asarray(photographs.astronaut()[_HEAD], np.uint8)


@cache
def backgrounds() -> tuple[Pixels, ...]:
    """Fifteen pictures without a person: three photographs, a scene of each concept."""
    photos = [photographs.chelsea(), photographs.coffee(), photographs.rocket()]
    scenes = [render_scene(concept, number, (480, 360)) for number, concept in enumerate(CONCEPTS)]
    return tuple(np.asarray(picture, np.uint8) for picture in [*photos, *scenes])


def planted_faces(height: int, per_background: int = 1) -> Iterator[tuple[Pixels, NDArray[np.floating]]]:
    """(picture, face box [4]) with a face `height` pixels high on every background: mirrored or not, darker or lighter,
    stored as JPEG of quality 75..95."""
    rng = np.random.default_rng(height)
    scale = height / _FACE_HEIGHT
    size = (round(head().shape[1] * scale), round(head().shape[0] * scale))
    for background in backgrounds() * per_background:
        patch, face = cv2.resize(head(), size, interpolation=cv2.INTER_AREA), _FACE * scale
        if rng.random() < 0.5:
            patch, face = patch[:, ::-1], np.array([size[0] - face[2], face[1], size[0] - face[0], face[3]])
        patch = np.clip(patch * rng.uniform(0.75, 1.25), 0, 255).astype(np.uint8)
        left, top = (
            int(rng.integers(0, room + 1)) for room in (background.shape[1] - size[0], background.shape[0] - size[1])
        )
        picture = background.copy()
        picture[top : top + size[1], left : left + size[0]] = patch
        yield (
            decode_rgb(encode_jpeg(picture, quality=int(rng.integers(75, 96)))),
            face + np.array([left, top, left, top]),
        )


def coverage(boxes: NDArray[np.floating], face: NDArray[np.floating]) -> float:
    """The share of the face's box that the best of the boxes covers."""
    if not len(boxes):
        return 0.0
    sides = np.minimum(boxes[:, 2:4], face[2:]) - np.maximum(boxes[:, :2], face[:2])
    return float((np.clip(sides, 0, None).prod(axis=1) / (face[2:] - face[:2]).prod()).max())
