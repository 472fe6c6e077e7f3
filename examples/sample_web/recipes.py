"""A recipe says how one image is made; recipes are small, so that the whole web is planned before a pixel is drawn."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from examples.sample_web.canvas import Pixels, generator
from examples.sample_web.concepts import CONCEPTS, render_scene
from examples.sample_web.encodings import encode
from examples.sample_web.photographs import Box, load_photograph, load_portrait, paste_face
from examples.sample_web.plants import transform


@dataclass(frozen=True)
class Recipe:
    """One image. Equal recipes give equal bytes; recipes that differ in `steps` or `encoding` give copies."""

    subject: str
    """A concept, `photo:NAME`, `portrait`, or `blank`."""
    seed: int
    size: tuple[int, int]
    """Width and height in pixels, before the steps; photographs keep their shape and use the longer side."""
    steps: tuple[tuple[str, int], ...] = ()
    """Kinds of copy, applied in order, each with its own seed."""
    faces: tuple[int, ...] = ()
    """Heights in pixels of the faces pasted on it."""
    encoding: str = "jpeg"


class Made(NamedTuple):
    """The served bytes, their type, the pixels' size, and the boxes (left, top, right, bottom) of the faces."""

    data: bytes
    mime: str
    width: int
    height: int
    faces: tuple[Box, ...]


def make_pixels(recipe: Recipe) -> tuple[Pixels, tuple[Box, ...]]:
    """The picture, uint8 [height, width, 3], and the boxes of its faces."""
    pixels, boxes = _subject(recipe)
    rng = generator("faces", recipe.subject, recipe.seed)
    for face_pixels in recipe.faces:
        pixels, box = paste_face(pixels, face_pixels, rng, boxes)
        boxes.append(box)
    for kind, seed in recipe.steps:
        pixels = transform(kind, pixels, generator("copy", kind, seed))
    return pixels, tuple(boxes)


def make_image(recipe: Recipe) -> Made:
    """The picture encoded. Faces are not followed through steps: recipes have one or the other."""
    if recipe.faces and recipe.steps:
        raise ValueError(f"{recipe}: a recipe has faces or steps, not both")
    pixels, boxes = make_pixels(recipe)
    rng = generator("encoding", recipe.encoding, recipe.subject, recipe.seed, repr(recipe.steps))
    data, mime = encode(recipe.encoding, pixels, rng)
    return Made(data, mime, pixels.shape[1], pixels.shape[0], boxes)


def _subject(recipe: Recipe) -> tuple[Pixels, list[Box]]:
    if recipe.subject in CONCEPTS:
        return render_scene(recipe.subject, recipe.seed, recipe.size), []
    if recipe.subject == "portrait":
        pixels, box = load_portrait(max(recipe.size))
        return pixels, [box]
    if recipe.subject == "blank":
        return _blank(recipe), []
    return load_photograph(recipe.subject.removeprefix("photo:"), max(recipe.size)), []


def _blank(recipe: Recipe) -> Pixels:
    """One colour with noise that no one sees: a lost picture, a spacer, a scan of an empty page."""
    rng = generator("blank", recipe.seed)
    colour = rng.integers(4, 250, 3)
    width, height = recipe.size
    return np.asarray(colour + rng.integers(-1, 2, (height, width, 1)), np.uint8)
