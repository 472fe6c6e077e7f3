"""The peer of bench/loader.py: DINOv2's multi-crop on PIL images, as torchvision's transforms do it there.

torchvision cannot be installed everywhere; these are its operations on PIL images by the same Pillow calls
(RandomResizedCrop, ColorJitter, RandomGrayscale, GaussianBlur through a tensor, RandomSolarize, ToTensor, Normalize).
"""

import io
import math
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from ssl_train.data.augment import MultiCrop, View

_MEAN, _STD = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def pil_crops(data: bytes, settings: MultiCrop) -> list[Tensor]:
    """All crops of one encoded image."""
    return crops_of(Image.open(io.BytesIO(data)).convert("RGB"), settings)


def crops_of(image: Image.Image, settings: MultiCrop) -> list[Tensor]:
    """All crops of one decoded image."""
    return [_crop(image, view) for view in settings.views()]


def _crop(image: Image.Image, view: View) -> Tensor:
    part = _random_resized_crop(image, view)
    if random.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.8:
        part = _jitter(part)
    if random.random() < 0.2:
        part = part.convert("L").convert("RGB")
    if random.random() < view.blur:
        part = _blur(part, random.uniform(0.1, 2.0))
    if random.random() < view.solarize:
        part = ImageOps.solarize(part, 128)
    return (_to_tensor(part) - _MEAN) / _STD


def _random_resized_crop(image: Image.Image, view: View) -> Image.Image:
    width, height = image.size
    size = (view.pixels, view.pixels)
    for _ in range(10):
        area = width * height * random.uniform(*view.scale)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return image.crop((left, top, left + w, top + h)).resize(size, Image.Resampling.BICUBIC)
    return image.resize(size, Image.Resampling.BICUBIC)


def _jitter(image: Image.Image) -> Image.Image:
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda x: ImageEnhance.Brightness(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: ImageEnhance.Contrast(x).enhance(random.uniform(0.6, 1.4)),
        lambda x: ImageEnhance.Color(x).enhance(random.uniform(0.8, 1.2)),
        lambda x: _shift_hue(x, random.uniform(-0.1, 0.1)),
    ]
    random.shuffle(changes)
    for change in changes:
        image = change(image)
    return image


def _shift_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(turn * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def _blur(image: Image.Image, sigma: float) -> Image.Image:
    taps = torch.linspace(-4, 4, 9)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights = weights / weights.sum()
    kernel = torch.outer(weights, weights).expand(3, 1, 9, 9)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().unsqueeze(0)
    blurred = F.conv2d(F.pad(pixels, [4, 4, 4, 4], mode="reflect"), kernel, groups=3).squeeze(0)
    return Image.fromarray(blurred.round_().to(torch.uint8).permute(1, 2, 0).numpy())


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
