"""RandAugment and random erasing on the host: changes of a picture by name and strength, as PIL makes them.

Tables and sums are numpy's, and give PIL's bytes; what moves pixels about is PIL's own affine transform.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field
from torch import Tensor, from_numpy

from ssl_train.data.pixels import MEAN, Box

Picture = UInt8[np.ndarray, "height width 3"]
Table = NDArray[np.uint8]
MAX_MAGNITUDE = 10.0
FILL = tuple(round(255 * level) for level in MEAN)
"""What moves in from outside of the picture: ImageNet's mean colour."""
MAX_SHEAR, MAX_SHIFT, MAX_TURN_DEGREES = 0.3, 0.45, 30.0
LEAST_FACTOR = 0.1
ERASE_AREA, ERASE_ASPECT, ERASE_TRIES = (0.02, 1 / 3), 1 / 0.3, 10
_LUMA = np.array([19595, 38470, 7471], np.int64)
"""Weights of ITU-R BT.601 in 65536ths, as PIL converts to mode L."""
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class RandAugment:
    """A few changes out of fifteen, at one strength (arXiv 1909.13719); the defaults are `rand-m9-mstd0.5-inc1`, with
    which DeiT and InternImage are trained: whatever its kind, a change grows with the magnitude."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["rand_augment"] = "rand_augment"
    """Tag of these changes."""
    num_changes: Annotated[int, Field(ge=0)] = 2
    """Changes drawn for an image, one after the other."""
    chance: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often a change that was drawn is made."""
    magnitude: Annotated[float, Field(ge=0, le=MAX_MAGNITUDE)] = 9.0
    """Mean strength, of 10."""
    magnitude_deviation: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the strength."""

    def draw(self, rng: np.random.Generator) -> tuple["Change", ...]:
        """The changes of one image; always as many numbers."""
        names = rng.integers(0, len(CHANGES), self.num_changes)
        made, signs = rng.random((2, self.num_changes))
        magnitudes = rng.normal(self.magnitude, self.magnitude_deviation, self.num_changes).clip(0, MAX_MAGNITUDE)
        drawn = zip(names, magnitudes, signs, made, strict=True)
        return tuple(
            Change(_NAMES[name], float(magnitude), -1 if sign < 0.5 else 1)
            for name, magnitude, sign, chance in drawn
            if chance < self.chance
        )


class Change(NamedTuple):
    """One change of a picture."""

    name: str
    magnitude: float
    """Its strength, 0 to 10."""
    sign: int
    """Its direction, -1 or 1, where it has two."""

    def of(self, picture: Picture) -> Picture:
        """The changed picture."""
        return CHANGES[self.name](picture, self.magnitude / MAX_MAGNITUDE, self.sign)


def auto_contrast(picture: Picture) -> Picture:
    """Each channel stretched to the full range."""
    tables = []
    for channel in np.moveaxis(picture, -1, 0):
        low, high = int(channel.min()), int(channel.max())
        scale = 255 / (high - low) if high > low else 1.0
        tables.append((_LEVELS * scale - (low * scale if high > low else 0)).clip(0, 255).astype(np.uint8))
    return _through(picture, tables)


def equalize(picture: Picture) -> Picture:
    """Each channel's levels spread such that all are about equally frequent."""
    tables = []
    for channel in np.moveaxis(picture, -1, 0):
        counts = np.bincount(channel.reshape(-1), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        below = np.concatenate([[0], counts.cumsum()[:-1]])
        tables.append((((below + step // 2) // step) if step else _LEVELS).clip(0, 255).astype(np.uint8))
    return _through(picture, tables)


def invert(picture: Picture) -> Picture:
    """Every level's complement."""
    return ~picture


def posterize(picture: Picture, bits: int) -> Picture:
    """Only the `bits` highest bits of every level."""
    return picture & np.uint8(256 - (1 << (8 - bits)))


def solarize(picture: Picture, threshold: int) -> Picture:
    """Levels from `threshold` on inverted."""
    return _through(picture, [np.where(threshold <= _LEVELS, 255 - _LEVELS, _LEVELS).astype(np.uint8)])


def solarize_add(picture: Picture, addend: int) -> Picture:
    """Levels of the darker half raised by `addend`."""
    return _through(picture, [np.where(_LEVELS < 128, (_LEVELS + addend).clip(max=255), _LEVELS).astype(np.uint8)])


def scale_colour(picture: Picture, factor: float) -> Picture:
    """Towards gray (0) or away from it (> 1)."""
    return _blend(_gray(picture)[..., None], picture, factor)


def scale_contrast(picture: Picture, factor: float) -> Picture:
    """Towards the mean gray (0) or away from it (> 1)."""
    mean = int(_gray(picture).mean() + 0.5)
    return _blend(np.full((1, 1, 1), mean, np.uint8), picture, factor)


def scale_brightness(picture: Picture, factor: float) -> Picture:
    """Towards black (0) or away from it (> 1)."""
    return _blend(np.zeros((1, 1, 1), np.uint8), picture, factor)


def scale_sharpness(picture: Picture, factor: float) -> Picture:
    """Towards a smoothed picture (0) or away from it (> 1); its edge stays as it is."""
    wide = picture.astype(np.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    sums = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    smooth = picture.copy()
    smooth[1:-1, 1:-1] = (sums + 6) // 13  # rounded: 13 is odd
    return _blend(smooth, picture, factor)


def affine(picture: Picture, matrix: tuple[float, float, float, float, float, float]) -> Picture:
    """The pixel (x, y) from (a x + b y + c, d x + e y + f) for (a, b, c, d, e, f); bicubic, the mean colour outside."""
    size = (picture.shape[1], picture.shape[0])
    image = Image.fromarray(picture)
    moved = image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)
    return np.asarray(moved)


def rotate(picture: Picture, degrees: float) -> Picture:
    """Turned about the middle, counter-clockwise."""
    turn = -math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    x, y = picture.shape[1] / 2, picture.shape[0] / 2
    return affine(picture, (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y))


def _factor(share: float, sign: int) -> float:
    return max(LEAST_FACTOR, 1 + sign * 0.9 * share)


CHANGES: Final[Mapping[str, Callable[[Picture, float, int], Picture]]] = {
    "auto_contrast": lambda picture, share, sign: auto_contrast(picture),
    "equalize": lambda picture, share, sign: equalize(picture),
    "invert": lambda picture, share, sign: invert(picture),
    "rotate": lambda picture, share, sign: rotate(picture, sign * share * MAX_TURN_DEGREES),
    "posterize": lambda picture, share, sign: posterize(picture, 4 - int(share * 4)),
    "solarize": lambda picture, share, sign: solarize(picture, 256 - min(256, int(share * 256))),
    "solarize_add": lambda picture, share, sign: solarize_add(picture, min(128, int(share * 110))),
    "colour": lambda picture, share, sign: scale_colour(picture, _factor(share, sign)),
    "contrast": lambda picture, share, sign: scale_contrast(picture, _factor(share, sign)),
    "brightness": lambda picture, share, sign: scale_brightness(picture, _factor(share, sign)),
    "sharpness": lambda picture, share, sign: scale_sharpness(picture, _factor(share, sign)),
    "shear_x": lambda picture, share, sign: affine(picture, (1, sign * share * MAX_SHEAR, 0, 0, 1, 0)),
    "shear_y": lambda picture, share, sign: affine(picture, (1, 0, 0, sign * share * MAX_SHEAR, 1, 0)),
    "shift_x": lambda picture, share, sign: affine(
        picture, (1, 0, sign * share * MAX_SHIFT * picture.shape[1], 0, 1, 0)
    ),
    "shift_y": lambda picture, share, sign: affine(
        picture, (1, 0, 0, 0, 1, sign * share * MAX_SHIFT * picture.shape[0])
    ),
}
"""The changes by name; each is told its strength as a share of the strongest, and its sign."""
_NAMES = tuple(CHANGES)


def draw_erased(side: int, rng: np.random.Generator) -> Box | None:
    """A rectangle of a square picture (arXiv 1708.04896), 2 to 33 % of its area; None if ten draws do not fit."""
    for _ in range(ERASE_TRIES):
        area = side**2 * rng.uniform(*ERASE_AREA)
        aspect = math.exp(rng.uniform(-math.log(ERASE_ASPECT), math.log(ERASE_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
            return Box(int(top), int(left), height, width)
    return None


def erase(image: Float[Tensor, "3 side side"], box: Box, rng: np.random.Generator) -> Float[Tensor, "3 side side"]:
    """A normalised image with noise, N(0, 1), in every pixel of `box`."""
    noise = rng.standard_normal((3, box.height, box.width), np.float32)
    erased = image.clone()
    erased[:, box.top : box.top + box.height, box.left : box.left + box.width] = from_numpy(noise)
    return erased


def _through(picture: Picture, tables: list[Table]) -> Picture:
    """Every level by its channel's table, or by the one of all."""
    if len(tables) == 1:
        return tables[0][picture]
    return np.stack([table[picture[..., channel]] for channel, table in enumerate(tables)], axis=-1)


def _gray(picture: Picture) -> UInt8[np.ndarray, "height width"]:
    return ((picture @ _LUMA + 0x8000) >> 16).astype(np.uint8)


def _blend(from_: NDArray[np.uint8], to: Picture, factor: float) -> Picture:
    """from + factor (to - from), clipped and cut off to whole levels, as PIL's blend."""
    start = from_.astype(np.float32)
    return (start + np.float32(factor) * (to - start)).clip(0, 255).astype(np.uint8)
