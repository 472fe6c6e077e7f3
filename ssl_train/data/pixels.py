"""Changes of pixels, as torchvision makes them to PIL images; float images [n, 3, height, width] in [0, 1].

An amount is one number for all images or a tensor of one for each. Where a mask would be natural there is arithmetic:
`torch.where` costs five times as much on a CPU.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

Images = Float[Tensor, "*n 3 height width"]
Amount = Float[Tensor, " n"] | float

GRAY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of ITU-R BT.601, as PIL's mode L has it."""
SOLARIZE_THRESHOLD = 128 / 255
BLUR_TAPS = 9
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CROP_TRIES = 10
ASPECTS = (3 / 4, 4 / 3)
_NO_CHROMA = 1e-12


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
    """The box of a [height, width, 3] image, resized bicubically with antialiasing; nothing else of it is touched."""
    part = np.require(image[box.top : box.top + box.height, box.left : box.left + box.width], requirements=("C", "W"))
    pixels = torch.from_numpy(part).permute(2, 0, 1).unsqueeze(0)
    return F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=True).squeeze(0)


def to_unit(images: UInt8[Tensor, "*n 3 height width"]) -> Images:
    """Bytes to floats in [0, 1]."""
    return images.float().div_(255)


def normalise(images: Images) -> Images:
    """Subtract ImageNet's mean and divide by its standard deviation, channel by channel."""
    mean, std = (_along_channels(numbers, images) for numbers in (MEAN, STD))
    return (images - mean).div_(std)


def to_gray(images: Images) -> Images:
    """Every channel the luma."""
    return _luma(images).expand_as(images)


def solarize(images: Images) -> Images:
    """Invert what is at least half bright."""
    bright = (images >= SOLARIZE_THRESHOLD).to(images.dtype)
    return torch.addcmul(images, bright, 1 - 2 * images)


def gaussian_blur(images: Images, sigma: Amount) -> Images:
    """Nine taps each way, edges reflected; `sigma` in pixels."""
    taps = torch.arange(BLUR_TAPS, dtype=images.dtype, device=images.device) - BLUR_TAPS // 2
    kernel = (-0.5 * (taps / _per_image(sigma, images)) ** 2).exp()  # [n, 1, 1, taps] or [taps]
    weights = (kernel / kernel.sum(-1, keepdim=True)).unbind(-1)
    height, width = images.shape[-2:]
    margin = BLUR_TAPS // 2
    padded = F.pad(images.reshape(-1, 3, height, width), [margin] * 4, mode="reflect")
    rows = _weighted_sum([padded[..., i : i + height, :] for i in range(BLUR_TAPS)], weights)
    return _weighted_sum([rows[..., i : i + width] for i in range(BLUR_TAPS)], weights).view_as(images)


def scale_brightness(images: Images, factor: Amount) -> Images:
    """Towards black (0) or brighter (> 1)."""
    return (images * _per_image(factor, images)).clamp_(0, 1)


def scale_contrast(images: Images, factor: Amount) -> Images:
    """Towards the mean gray (0) or away from it (> 1)."""
    mean = _luma(images).mean((-3, -2, -1), keepdim=True)
    return torch.lerp(mean, images, _per_image(factor, images)).clamp_(0, 1)


def scale_saturation(images: Images, factor: Amount) -> Images:
    """Towards gray (0) or more colourful (> 1)."""
    return torch.lerp(_luma(images), images, _per_image(factor, images)).clamp_(0, 1)


def shift_hue(images: Images, turn: Amount) -> Images:
    """Turn the hue by a share of the full circle, in HSV.

    The hue of a colour, in sextants from red, is 1 + (green + blue - red - least) / chroma, up if green is more than
    blue, down if less: on each of the six edges of the HSV hexagon this is its usual piecewise form. Red, green and
    blue of a hue are 1 within one sextant of 0, 2 and -2, and fall to 0 within another.
    """
    red, green, blue = images.unbind(-3)
    value = torch.maximum(torch.maximum(red, green), blue)
    least = torch.minimum(torch.minimum(red, green), blue)
    chroma = value.sub_(least)
    around = (green + blue).sub_(red).sub_(least).div_(chroma.clamp(min=_NO_CHROMA)).add_(1)
    hue = torch.copysign(around, green - blue).div_(6).unsqueeze(-3)
    turned = hue + (_per_image(turn, images) - _along_channels((0, 1 / 3, -1 / 3), images))
    away = turned.sub_(turned.round()).abs_()
    return away.mul_(-6).add_(2).clamp_(0, 1).mul_(chroma.unsqueeze(-3)).add_(least.unsqueeze(-3))


def _luma(images: Images) -> Float[Tensor, "*n 1 height width"]:
    red, green, blue = images.split(1, -3)
    return (red * GRAY_WEIGHTS[0]).add_(green, alpha=GRAY_WEIGHTS[1]).add_(blue, alpha=GRAY_WEIGHTS[2])


def _weighted_sum(parts: list[Tensor], weights: tuple[Tensor, ...]) -> Tensor:
    total = parts[0] * weights[0].unsqueeze(-1)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.addcmul_(part, weight.unsqueeze(-1))
    return total


def _per_image(amount: Amount, images: Images) -> Tensor:
    """Amounts such that they meet their images: [n, 1, 1, 1], or a single number []."""
    if isinstance(amount, Tensor):
        return amount.view(-1, 1, 1, 1)
    return torch.full((), amount, dtype=images.dtype, device=images.device)


def _along_channels(numbers: tuple[float, ...], images: Images) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(numbers, dtype=images.dtype, device=images.device)[:, None, None]
