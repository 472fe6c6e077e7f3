"""Cross-entropy between student and teacher over prototypes, without a logits matrix that stands in memory whole.

A head with 131,072 prototypes makes 0.5 MB of fp32 logits a row, and the textbook form holds six or more such matrices
(logits, log-softmax, targets, Sinkhorn-Knopp's copies, gradient). Here the last layer, the teacher's targets, the
cross-entropy and their gradients are made for a few images at a time: the work is the same, the memory is one chunk.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.prototype_loss_budget import Budget
from ssl_train.ops.prototype_loss_sweep import Plan, Sweep
from ssl_train.ops.prototype_loss_targets import Projected, Targets, sinkhorn_targets

__all__ = [
    "Budget",
    "Projected",
    "PrototypeLoss",
    "Targets",
    "plain_prototype_loss",
    "prototype_loss",
    "sinkhorn_targets",
]


class PrototypeLoss(NamedTuple):
    """`total` alone has a gradient; the others are only looked at."""

    total: Float[Tensor, ""]
    by_crop: Float[Tensor, " crops"]
    """What each student crop adds to the total."""
    target_entropy: Float[Tensor, ""]
    """Mean entropy of a target, in nats."""
    marginal: Float[Tensor, " prototypes"]
    """Mean target: how much each prototype is used."""


def prototype_loss(
    student: Projected,
    targets: Targets,
    mix: Sequence[Sequence[float]],
    weights: Float[Tensor, " images"],
    *,
    temperature: float,
    chunk_bytes: int | None = None,
) -> PrototypeLoss:
    """Weighted cross-entropies of student crops with teacher views of the same images.

    Student rows are crop-major, [crops * images], teacher rows view-major, [views * images]; `mix` [crops][views] says
    how much each pair counts, `weights` how much each image does. Equal to

        t = softmax(teacher logits / teacher temperature + bias); s = log_softmax(student logits / temperature)
        total = sum over images i, crops c, views v of weights[i] * mix[c][v] * -sum_k t[v, i, k] * s[c, i, k]

    Memory: `chunk_bytes` (those of the current Budget if None), and the gradients of bottleneck and weight in fp32,
    made in the forward pass. Cost: the student's three products and the teacher's one, each once.
    Sources: DINO (arXiv 2104.14294) equation 3, iBOT (arXiv 2111.07832) equation 2.
    """
    crops, views = len(mix), len(mix[0])
    num_images = len(weights)
    if len(student.bottleneck) != crops * num_images or len(targets.bottleneck) != views * num_images:
        raise ValueError(
            f"{num_images} images with {crops} crops and {views} views need {crops * num_images} student and "
            f"{views * num_images} teacher rows, got {len(student.bottleneck)} and {len(targets.bottleneck)}"
        )
    chunk_bytes = chunk_bytes or Budget.current().chunk_on(student.weight.device.type)
    plan = Plan(tuple(map(tuple, mix)), temperature, chunk_bytes)
    total, by_crop, entropy, marginal = _PrototypeLoss.apply(student.bottleneck, student.weight, targets, weights, plan)
    return PrototypeLoss(total, by_crop, entropy, marginal)


def plain_prototype_loss(
    student: Projected,
    targets: Targets,
    mix: Sequence[Sequence[float]],
    weights: Float[Tensor, " images"],
    *,
    temperature: float,
) -> PrototypeLoss:
    """The same by the textbook, every matrix whole: what `prototype_loss` is tested and measured against."""
    if targets.masses is None:
        z = F.linear(targets.bottleneck, targets.weight).float() / targets.temperature + targets.bias
        rows = z.softmax(-1).detach()
    else:
        rows = targets.masses * targets.bias.exp()
        rows = rows / rows.sum(-1, keepdim=True)
    t = rows.unflatten(0, (len(mix[0]), -1))  # [views, images, prototypes]
    s = F.log_softmax(student.logits().float() / temperature, dim=-1).unflatten(0, (len(mix), -1))
    pairs = torch.tensor(mix, device=s.device)
    mixed = torch.einsum("cv,vik->cik", pairs, t)
    by_crop = -((mixed * s).sum(-1) * weights).sum(-1)
    return PrototypeLoss(by_crop.sum(), by_crop.detach(), torch.special.entr(rows).sum(-1).mean(), rows.mean(0))


class _PrototypeLoss(torch.autograd.Function):
    """Gradients are made with the loss, chunk by chunk, while its logits are there; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, bottleneck: Tensor, weight: Tensor, targets: Targets, weights: Tensor, plan: Plan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wants_gradient = bottleneck.requires_grad or weight.requires_grad
        sweep = Sweep(bottleneck.detach(), weight.detach(), targets, weights, plan, wants_gradient)
        sweep.run()
        ctx.grads = sweep.gradients()
        ctx.dtypes = (bottleneck.dtype, weight.dtype)
        num_rows = max(len(targets.bottleneck), 1)
        out = (sweep.by_crop.sum(), sweep.by_crop, sweep.entropy_sum / num_rows, sweep.marginal_sum / num_rows)
        ctx.mark_non_differentiable(*out[1:])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_bottleneck, grad_weight = ctx.grads
        ctx.grads = None
        scale = grads[0]
        return (
            grad_bottleneck.mul_(scale).to(ctx.dtypes[0]),
            grad_weight.mul_(scale).to(ctx.dtypes[1]),
            None,
            None,
            None,
        )
