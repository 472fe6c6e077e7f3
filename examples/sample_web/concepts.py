"""The twelve visual concepts of the sample web, and the camera that takes a picture of one."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from examples.sample_web import scenes_afloat, scenes_green, scenes_land, scenes_made
from examples.sample_web.canvas import Painting, Pixels, generator, noise, to_image, to_painting

Painter = Callable[[np.random.Generator, int, int], Image.Image]

_PAINTERS: Mapping[str, Painter] = MappingProxyType(
    {
        "bubbles": scenes_afloat.bubbles,
        "checkered": scenes_made.checkered,
        "circuit": scenes_made.circuit,
        "desert": scenes_land.desert,
        "flower_field": scenes_green.flower_field,
        "forest": scenes_green.forest,
        "galaxy": scenes_afloat.galaxy,
        "mountains": scenes_land.mountains,
        "night_city": scenes_made.night_city,
        "sunset_coast": scenes_land.sunset_coast,
        "tartan": scenes_made.tartan,
        "underwater": scenes_afloat.underwater,
    }
)

CONCEPTS: tuple[str, ...] = tuple(_PAINTERS)

_OVERSAMPLING = 1.15  # painted larger than taken: shapes are drawn without antialiasing
_MARGIN = 1.1  # and with a rim, so that the camera can roll without showing the paper's edge


def render_scene(concept: str, seed: int, size: tuple[int, int]) -> Pixels:
    """A new picture of the concept, uint8 [height, width, 3], for a size given as (width, height) in pixels.

    The same arguments give the same pixels; another seed gives another composition, palette and camera.
    """
    if concept not in _PAINTERS:
        raise ValueError(f"unknown concept {concept!r}: one of {', '.join(CONCEPTS)}")
    rng = generator("scene", concept, seed)
    width, height = (round(side * _OVERSAMPLING * _MARGIN) for side in size)
    scene = _PAINTERS[concept](rng, width, height)
    return np.asarray(_photograph(rng, scene, size))


def _photograph(rng: np.random.Generator, scene: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Roll and mirror the camera, light the scene unevenly, expose and grade it, add grain."""
    turn = math.radians(float(np.clip(rng.normal(0, 3.0), -4, 4)))
    zoom = scene.width / _MARGIN / size[0]
    along, across = zoom * math.cos(turn), zoom * math.sin(turn)
    left = scene.width / 2 - along * size[0] / 2 - across * size[1] / 2
    top = scene.height / 2 + across * size[0] / 2 - along * size[1] / 2
    view = (along, across, left, -across, along, top)
    picture = scene.transform(size, Image.Transform.AFFINE, view, Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return to_image(_develop(rng, to_painting(picture)))


def _develop(rng: np.random.Generator, painting: Painting) -> Painting:
    height, width = painting.shape[:2]
    light = noise(rng, width, height, cells=rng.uniform(1, 2.5), octaves=2)
    painting = painting * (1 - rng.uniform(0.1, 0.6) * light)[..., None] * np.float32(rng.uniform(1.1, 1.4))
    curve = np.asarray(np.linspace(0, 1, 256) ** rng.uniform(0.75, 1.25), np.float32)
    painting = curve.take(np.asarray(to_image(painting)))
    painting = painting * rng.uniform(0.88, 1.0, 3).astype(np.float32)
    painting += rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0.003, 0.02))
    return painting
