"""SwAV's loss: which prototypes one view is assigned to is guessed from the other crops of the image."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.prototype_loss import Projected, PrototypeLoss, Targets, prototype_loss, sinkhorn_targets

NUM_VIEWS = 2
"""Crops that are assigned: the global ones, which come first."""


def swapped_prediction(
    student: Projected,
    queues: Sequence[Float[Tensor, "_kept dim"]],
    *,
    num_images: int,
    temperature: float,
    epsilon: float,
    iterations: int = 3,
) -> PrototypeLoss:
    """The mean cross-entropy between each view's assignment and what every other crop says.

    Student rows are crop-major, [crops * images]; prototypes are assigned by Sinkhorn-Knopp over the rows of all
    processes, one view at a time, together with `queues` (rows of earlier batches for each view, or none at all).
    Assignments have no gradient. Equal to

        for view in range(2):
            rows = z[view] and those of queues[view]
            q = sinkhorn_knopp(rows @ weight.T / epsilon)[:images]
            for crop in range(crops):
                if crop != view:
                    p = log_softmax(z[crop] @ weight.T / temperature)
                    total += mean over images i of -sum_k q[i, k] * p[i, k]
        total /= 2 * (crops - 1)

    Source: SwAV (arXiv 2006.09882), equation 2 and section 3.3.
    """
    rows, weight = student
    num_crops = len(rows) // num_images
    even = torch.full((num_images,), 1 / num_images, device=rows.device)
    shares = [[1 / (NUM_VIEWS * (num_crops - 1))]] * (num_crops - 1)
    parts = []
    for view in range(NUM_VIEWS):
        own = slice(view * num_images, (view + 1) * num_images)
        others = torch.cat([rows[: own.start], rows[own.stop :]])
        seen = Projected(rows[own].detach(), weight.detach())
        kept = queues[view].to(rows.dtype) if queues else rows[:0].detach()
        targets = assigned(seen, kept, epsilon=epsilon, iterations=iterations)
        parts.append(prototype_loss(Projected(others, weight), targets, shares, even, temperature=temperature))
    return PrototypeLoss(
        parts[0].total + parts[1].total,
        _by_crop(parts),
        (parts[0].target_entropy + parts[1].target_entropy) / NUM_VIEWS,
        (parts[0].marginal + parts[1].marginal) / NUM_VIEWS,
    )


def assigned(seen: Projected, kept: Float[Tensor, "kept dim"], *, epsilon: float, iterations: int) -> Targets:
    """The assignments of `seen` where the rows of `kept` are assigned along: they share the columns' scaling."""
    everything = Projected(torch.cat([seen.bottleneck, kept]), seen.weight)
    targets = sinkhorn_targets(everything, temperature=epsilon, iterations=iterations)
    if not len(kept):
        return targets
    return Targets(seen.bottleneck, seen.weight, epsilon, targets.bias)


def _by_crop(parts: Sequence[PrototypeLoss]) -> Float[Tensor, " crops"]:
    """What each crop adds: the first view guesses the second one's assignment alone, local crops guess both."""
    first, second = parts
    return torch.cat([second.by_crop[:1], first.by_crop[:1], first.by_crop[1:] + second.by_crop[1:]])
