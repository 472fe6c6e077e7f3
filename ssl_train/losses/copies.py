"""What tells copies from other images: contrast among all processes' descriptors, and their spread over the sphere."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MIN_SQUARED_DISTANCE = 1e-6


class CopyLosses(NamedTuple):
    """The two parts of SSCD's loss, and what they do to similarities."""

    contrast: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    """Minus an estimate of the descriptors' differential entropy, in nats per dimension but for constants."""
    positive_similarity: Float[Tensor, ""]
    """Mean cosine of two pictures that share an image."""
    nearest_similarity: Float[Tensor, ""]
    """Mean cosine of a picture and the most similar one that shares nothing with it."""


def copy_losses(
    own: Float[Tensor, "rows dim"],
    everyone: Float[Tensor, "all_rows dim"],
    related: Bool[Tensor, "rows rows"],
    *,
    first: int,
    temperature: float,
) -> CopyLosses:
    """SSCD's losses of this process's unit descriptors against those of all processes.

    `own` are rows `first` and following of `everyone`; `related[i, j]` says whether two of them share an image (every
    row with itself, and with one more at least). Rows of other processes share none. Equal to

        for i in own rows:
            positives, negatives = related rows but i itself, rows that are not related (of all processes)
            outside = sum over k in negatives of exp(own[i] . everyone[k] / temperature)
            contrast_i = mean over j in positives of -log(p / (p + outside)), p = exp(own[i] . own[j] / temperature)
            nearest = max over k in negatives of own[i] . everyone[k]
            entropy_i = -log(sqrt(max(2 - 2 nearest, 1e-6)))
        contrast, entropy = means over i

    A picture that shows two images (a blend) has more than one positive, and none of them is another's negative.
    Source: Pizzi et al. (arXiv 2202.10261), equations 2, 3 and 5, section 4.2 ("mixed" images); the authors' settings.
    """
    with torch.autocast(own.device.type, enabled=False):
        similarity = own.float() @ everyone.float().T  # [rows, all_rows]
        strangers = torch.ones_like(similarity, dtype=torch.bool)
        strangers[:, first : first + len(own)] = ~related
        at_home = similarity[:, first : first + len(own)]
        positive = related.clone().fill_diagonal_(False)
        outside = (similarity / temperature).masked_fill(~strangers, float("-inf")).logsumexp(1, keepdim=True)
        pairs = F.softplus(outside - at_home / temperature)  # -log(p / (p + outside))
        count = positive.sum(1)
        contrast = ((pairs * positive).sum(1) / count).mean()
        nearest = similarity.masked_fill(~strangers, -1.0).amax(1)
        entropy = -0.5 * (2 - 2 * nearest).clamp(min=MIN_SQUARED_DISTANCE).log().mean()
        shared = (at_home * positive).sum() / count.sum()
    return CopyLosses(contrast, entropy, shared.detach(), nearest.mean().detach())
