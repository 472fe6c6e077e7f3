"""Changes of pixels, as torchvision makes them to a PIL image; float images [3, height, width] in [0, 1]."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

Image = Float[Tensor, "3 height width"]

GRAY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601, as PIL's mode L has it."""
SOLARIZE_THRESHOLD = 128 / 255
BLUR_TAPS = 9
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CROP_TRIES = 10
ASPECTS = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_box(height: int, width: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A rectangle whose share of the area is uniform in `scale` and whose aspect is log-uniform in 3/4 .. 4/3.

    Where ten draws do not fit the image, the largest central rectangle of an allowed aspect.
    """
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    aspect = min(max(width / height, ASPECTS[0]), ASPECTS[1])
    w, h = min(width, max(1, round(height * aspect))), min(height, max(1, round(width / aspect)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def crop_and_resize(image: NDArray[np.uint8], box: Box, size: int) -> UInt8[Tensor, "3 size size"]:
    """The box of a [height, width, 3] image, resized bicubically with antialiasing."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    pixels = torch.from_numpy(part.copy()).permute(2, 0, 1).unsqueeze(0)
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).squeeze(0)


def to_unit(image: UInt8[Tensor, "3 height width"]) -> Image:
    """Bytes to floats in [0, 1]."""
    return image.float().div_(255)


def normalise(image: Image) -> Image:
    """Subtract ImageNet's mean and divide by its standard deviation, channel by channel."""
    return (image - image.new_tensor(MEAN)[:, None, None]) / image.new_tensor(STD)[:, None, None]


def to_gray(image: Image) -> Image:
    """Every channel the luma."""
    return _luma(image).expand(3, -1, -1)


def solarize(image: Image) -> Image:
    """Invert what is at least half bright."""
    return torch.where(image >= SOLARIZE_THRESHOLD, 1 - image, image)


def gaussian_blur(image: Image, sigma: float) -> Image:
    """Nine taps each way, edges reflected; `sigma` in pixels."""
    taps = torch.arange(BLUR_TAPS, dtype=image.dtype) - BLUR_TAPS // 2
    kernel = (-0.5 * (taps / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(image.unsqueeze(0), [BLUR_TAPS // 2] * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=3)
    return F.conv2d(rows, kernel.unsqueeze(3), groups=3).squeeze(0)


def scale_brightness(image: Image, factor: float) -> Image:
    """Towards black (0) or brighter (> 1)."""
    return (image * factor).clamp_(0, 1)


def scale_contrast(image: Image, factor: float) -> Image:
    """Towards the mean gray (0) or away from it (> 1)."""
    mean = _luma(image).mean()
    return ((image - mean) * factor + mean).clamp_(0, 1)


def scale_saturation(image: Image, factor: float) -> Image:
    """Towards gray (0) or more colourful (> 1)."""
    return torch.lerp(_luma(image), image, factor).clamp_(0, 1)


def shift_hue(image: Image, turn: float) -> Image:
    """Turn the hue by a share of the full circle, in HSV."""
    red, green, blue = image
    value = image.amax(0)
    chroma = value - image.amin(0)
    safe = torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    # Back to RGB: each channel falls from the value by the chroma, by its distance to the hue on the circle.
    distance = (sextant + 6 * turn + image.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6
    return value - chroma * torch.minimum(distance, 4 - distance).clamp(0, 1)


class Jitter(NamedTuple):
    """Strengths of a random change of colour: factors are drawn from 1 - x .. 1 + x, the turn from -hue .. hue."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1

    def apply(self, image: Image, rng: np.random.Generator) -> Image:
        """The four changes in random order."""
        changes: list[tuple[Callable[[Image, float], Image], float]] = [
            (scale_brightness, rng.uniform(1 - self.brightness, 1 + self.brightness)),
            (scale_contrast, rng.uniform(1 - self.contrast, 1 + self.contrast)),
            (scale_saturation, rng.uniform(1 - self.saturation, 1 + self.saturation)),
            (shift_hue, rng.uniform(-self.hue, self.hue)),
        ]
        for index in rng.permutation(len(changes)):
            change, amount = changes[index]
            image = change(image, amount)
        return image


def _luma(image: Image) -> Float[Tensor, "1 height width"]:
    red, green, blue = image
    return (GRAY_WEIGHTS[0] * red + GRAY_WEIGHTS[1] * green + GRAY_WEIGHTS[2] * blue).unsqueeze(0)
