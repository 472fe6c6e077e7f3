"""Cross-entropy between the student's and the teacher's tokens of masked patches."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def ibot_loss(
    student: Float[Tensor, "masked prototypes"],
    teacher: Float[Tensor, "masked prototypes"],
    weights: Float[Tensor, " masked"],
    *,
    num_crops: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean over crops of the mean cross-entropy over each crop's masked patches.

    `weights` holds, for every masked patch, 1 / (masked patches of its crop); `num_crops` counts all crops, those
    without a mask too: they add nothing and are divided by. No masked patch at all gives 0 with a gradient of 0.
    Equal to

        total = 0
        for crop in crops:
            losses = [-sum_k t[p, k] * log softmax(s[p] / temperature)[k] for p in masked patches of crop]
            total += mean(losses) if losses else 0
        total / num_crops

    Source: iBOT (arXiv 2111.07832), equation 2, with DINOv2's denominator.
    """
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    return -((log_probabilities * teacher).sum(-1) * weights).sum() / num_crops
