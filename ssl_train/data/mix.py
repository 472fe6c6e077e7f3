"""Mixup and CutMix: every image with another one of its batch, and the targets that follow.

Drawn on the host as numbers, applied where the batch lies.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]
Alpha = Annotated[float, Field(ge=0)]
MIXES = np.dtype(
    [
        ("partner", np.int32),  # the other image, by its place in the batch
        ("share", np.float32),  # of the image itself, in pixels and in the target
        ("top", np.int16),  # the rectangle that the other one gives; without height it gives a part of every pixel
        ("left", np.int16),
        ("height", np.int16),
        ("width", np.int16),
    ]
)
"""How one image is mixed, 16 bytes."""
Mixes = NDArray[np.void]


@dataclass(frozen=True)
class Mix:
    """Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899); the defaults are DeiT's, as InternImage has them too."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    mixup: Alpha = 0.8
    """An image keeps a share from Beta(mixup, mixup) in a blend; 0 never blends."""
    cutmix: Alpha = 1.0
    """An image keeps about a share from Beta(cutmix, cutmix) where a rectangle is pasted in; 0 never pastes."""
    chance: Share = 1.0
    """How often a draw mixes at all."""
    cutmix_chance: Share = 0.5
    """How often it pastes, where both are on."""
    each: Literal["batch", "image"] = "batch"
    """For whom is drawn: once for all images that are mixed among each other, as published, or for each of them."""

    def draw(self, num_images: int, side: int, rng: np.random.Generator) -> Mixes:
        """How each of `num_images` square images is mixed: image i with image num_images - 1 - i; `side` in pixels.

        The share of a pasted rectangle is that of the pixels which it covers within the image.
        """
        num_draws = 1 if self.each == "batch" else num_images
        chances = rng.random((2, num_draws))
        pastes = chances[1] < (self.cutmix_chance if self.mixup and self.cutmix else float(self.cutmix > 0))
        pastes &= chances[0] < self.chance
        blends = (chances[0] < self.chance) & ~pastes & (self.mixup > 0)
        kept = rng.beta(self.mixup or 1.0, self.mixup or 1.0, num_draws)
        left_over = rng.beta(self.cutmix or 1.0, self.cutmix or 1.0, num_draws)
        half = (side * np.sqrt(1 - left_over)).astype(np.int64) // 2
        centres = rng.integers(0, side, (2, num_draws))
        (top, left), (bottom, right) = np.clip(centres - half, 0, side), np.clip(centres + half, 0, side)
        mixes = np.zeros(num_images, MIXES)
        mixes["partner"] = np.arange(num_images)[::-1]
        mixes["top"], mixes["left"] = top * pastes, left * pastes
        mixes["height"], mixes["width"] = (bottom - top) * pastes, (right - left) * pastes
        pasted = (bottom - top) * (right - left) / side**2
        mixes["share"] = np.where(pastes, 1 - pasted, np.where(blends, kept, 1.0))
        return mixes


@torch.no_grad()
def mix_images(images: Float[Tensor, "n 3 side side"], mixes: Mixes) -> Float[Tensor, "n 3 side side"]:
    """The images mixed, where they lie; a pixel inside of an image's rectangle is its partner's.

    The loop it equals: for every image i and pixel (y, x), w = mixes[i].share where image i has no rectangle, else 0
    within it and 1 elsewhere; out[i, :, y, x] = w images[i, :, y, x] + (1 - w) images[partner, :, y, x].
    """
    if (mixes["share"] == 1).all():
        return images
    names = ("partner", "share", "top", "left", "height", "width")
    numbers = torch.from_numpy(np.stack([mixes[name] for name in names]).astype(np.float32))  # exact below 2^24
    if images.is_cuda:
        numbers = numbers.pin_memory().to(images.device, non_blocking=True)
    partner, share, top, left, height, width = numbers[:, :, None, None, None].unbind()
    weight = share
    if mixes["height"].any():  # known on the host: the device is not waited for
        rows, columns = (torch.arange(size, device=images.device) for size in images.shape[-2:])
        in_rows = (rows[:, None] >= top) & (rows[:, None] < top + height)  # [n, 1, side, 1]
        in_columns = (columns >= left) & (columns < left + width)  # [n, 1, 1, side]
        weight = torch.where(height > 0, (~(in_rows & in_columns)).to(images.dtype), share)
    return torch.lerp(images[partner.flatten().long()], images, weight.to(images.dtype))


def soft_targets(
    labels: Int[Tensor, " n"],
    mixed_labels: Int[Tensor, " n"] | None = None,
    shares: Float[Tensor, " n"] | None = None,
    *,
    num_classes: int,
    smoothing: float = 0.0,
) -> Float[Tensor, "n classes"]:
    """Distributions over classes: `shares` of an image's own label and the rest of its partner's.

    Of each, a part `smoothing` goes to all classes alike (label smoothing, Szegedy et al. 2016, arXiv 1512.00567).
    """
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    own = torch.ones(len(labels), device=labels.device) if shares is None else shares
    targets.scatter_add_(1, labels[:, None], (1 - smoothing) * own[:, None])
    if mixed_labels is not None:
        targets.scatter_add_(1, mixed_labels[:, None], (1 - smoothing) * (1 - own)[:, None])
    return targets
