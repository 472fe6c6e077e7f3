"""Crops into which another image of the batch is mixed: laid over each other, or one pasted into the other."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Blends:
    """How often and how crops are mixed with others (SSCD, arXiv 2202.10261, section 4.2: its mixup and CutMix)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    chance: Share = 0.05
    """Share of crops that another crop is mixed into."""
    alpha: Annotated[float, Field(gt=0)] = 2.0
    """The crop's own share is drawn from Beta(alpha, alpha)."""
    pasted: Share = 0.5
    """Share of the mixed crops into which a rectangle of the other is pasted (CutMix); in the rest all pixels are
    mixed (mixup)."""

    def draw(self, num_crops: int, side: int) -> "Blended":
        """Which crops [num_crops, 3, side, side] are mixed with which, by torch's global random state of the host.

        Always as many numbers: what comes after does not depend on what was mixed.
        """
        shift = int(torch.randint(1, max(num_crops, 2), ()))
        chances = torch.rand(4, num_crops)
        own = torch.distributions.Beta(self.alpha, self.alpha).sample((num_crops,))
        rows = (chances[0] < self.chance).nonzero().flatten() if num_crops > 1 else torch.empty(0, dtype=torch.long)
        kept, is_pasted = own[rows], chances[1, rows] < self.pasted
        places = torch.arange(side)
        # A rectangle of the other's share of the area, wherever it fits; one pixel at least, all of them never.
        length = ((1 - kept).sqrt() * side).long().clamp(1, max(side - 1, 1))
        corners = (chances[2:, rows] * (side - length + 1)).long()  # [2, mixed]
        inside = (places >= corners[..., None]) & (places < (corners + length)[..., None])  # [2, mixed, side]
        rectangle = inside[0, :, :, None] & inside[1, :, None, :]
        weights = torch.where(is_pasted[:, None, None], (~rectangle).float(), kept[:, None, None])
        return Blended(num_crops, rows, (rows + shift) % max(num_crops, 1), weights)


class Blended(NamedTuple):
    """What is mixed in one batch."""

    num_crops: int
    rows: Int[Tensor, " mixed"]
    """The crops that are changed."""
    partners: Int[Tensor, " mixed"]
    """The crop that is mixed into each, as it was before."""
    weights: Float[Tensor, "mixed side side"]
    """What is left of the crop itself, pixel by pixel."""

    def applied(self, crops: Float[Tensor, "crops 3 side side"]) -> Float[Tensor, "crops 3 side side"]:
        """The crops, mixed; those given stay as they are."""
        if not len(self.rows):
            return crops
        rows, partners = (index.to(crops.device, non_blocking=True) for index in (self.rows, self.partners))
        weights = self.weights.to(crops.device, crops.dtype, non_blocking=True).unsqueeze(1)
        mixed = torch.lerp(crops[partners], crops[rows], weights)
        return crops.index_copy(0, rows, mixed)

    def contents(self, num_images: int) -> Bool[Tensor, "crops images"]:
        """Which images each crop shows; crops are crop-major, crop c of image i in row c * num_images + i."""
        shows = torch.eye(num_images, dtype=torch.bool).repeat(self.num_crops // num_images, 1)
        shows[self.rows, self.partners % num_images] = True
        return shows
