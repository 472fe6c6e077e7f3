"""Cross-entropy between student and teacher over prototypes, without a logits matrix that stands in memory whole.

A head with 131,072 prototypes makes 0.5 MB of fp32 logits a row, and the textbook form holds six or more such matrices
(logits, log-softmax, targets, Sinkhorn-Knopp's copies, gradient). Here the last layer, the teacher's targets, the
cross-entropy and their gradients are made for a few images at a time: the work is the same, the memory is one chunk.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.distributed import all_reduce_max, all_reduce_sum

CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 512 << 20}
"""Logits of a chunk, all copies together: enough rows that a product is worth reading the prototypes for."""

# fp16 holds nothing below 6e-8: gradients of logits are lifted into its range for the products, and lowered after.
_HALF_LIFT = 4096.0
_LOWEST = -1e30  # below every logit, and still a number: the difference of two is 0


class Projected(NamedTuple):
    """What a head says before its last product: logits are bottleneck @ weight.T."""

    bottleneck: Float[Tensor, "rows dim"]
    weight: Float[Tensor, "prototypes dim"]

    def logits(self) -> Float[Tensor, "rows prototypes"]:
        """The logits, whole."""
        return F.linear(self.bottleneck, self.weight)


class Targets(NamedTuple):
    """Teacher rows whose targets are softmax(bottleneck @ weight.T / temperature + bias)."""

    bottleneck: Float[Tensor, "rows dim"]
    weight: Float[Tensor, "prototypes dim"]
    temperature: float
    bias: Float[Tensor, " prototypes"]
    scaled_logits: Float[Tensor, "rows prototypes"] | None = None
    """bottleneck @ weight.T / temperature in half precision, where it was made and may be used again."""


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

    Memory: `chunk_bytes` (CHUNK_BYTES of the device if None), and the gradients of bottleneck and weight in fp32, made
    in the forward pass. Cost: the student's three products and the teacher's one, each once.
    Sources: DINO (arXiv 2104.14294) equation 3, iBOT (arXiv 2111.07832) equation 2.
    """
    crops, views = len(mix), len(mix[0])
    num_images = len(weights)
    if len(student.bottleneck) != crops * num_images or len(targets.bottleneck) != views * num_images:
        raise ValueError(
            f"{num_images} images with {crops} crops and {views} views need {crops * num_images} student and "
            f"{views * num_images} teacher rows, got {len(student.bottleneck)} and {len(targets.bottleneck)}"
        )
    plan = _Plan(tuple(map(tuple, mix)), temperature, chunk_bytes or CHUNK_BYTES[student.weight.device.type])
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
    z = F.linear(targets.bottleneck, targets.weight).float() / targets.temperature + targets.bias
    t = z.softmax(-1).unflatten(0, (len(mix[0]), -1)).detach()  # [views, images, prototypes]
    s = F.log_softmax(student.logits().float() / temperature, dim=-1).unflatten(0, (len(mix), -1))
    pairs = torch.tensor(mix, device=s.device)
    mixed = torch.einsum("cv,vik->cik", pairs, t)
    by_crop = -((mixed * s).sum(-1) * weights).sum(-1)
    rows = t.flatten(0, 1)
    return PrototypeLoss(by_crop.sum(), by_crop.detach(), torch.special.entr(rows).sum(-1).mean(), rows.mean(0))


@torch.no_grad()
def sinkhorn_targets(
    teacher: Projected, *, temperature: float, iterations: int = 3, chunk_bytes: int | None = None
) -> Targets:
    """Sinkhorn-Knopp's targets as a bias on the logits: softmax(logits / temperature + bias).

    Sinkhorn-Knopp scales the rows and columns of exp(logits / temperature) in turn, columns first, rows last. Scaling
    columns is adding to the logits, and the last scaling of rows is the softmax; so a bias [prototypes] is all that has
    to be kept. Every iteration reads the logits once, chunk by chunk: in half precision (autocast) they are kept as
    they were computed, 2 bytes each, and in fp32 made anew, `iterations` products more. The rows of all processes
    count as one matrix; a process may hold none.
    Source: SwAV (arXiv 2006.09882) section 3.2, DINOv2 (arXiv 2304.07193) section 4.
    """
    rows, weight = teacher
    compute = _compute_dtype(weight)
    scaled_rows, weight = (rows / temperature).to(compute), weight.to(compute)
    kept = None if compute == torch.float32 else F.linear(scaled_rows, weight)
    rows_per_chunk = _rows_per_chunk(len(weight), 2, chunk_bytes or CHUNK_BYTES[weight.device.type])

    def chunks() -> Iterator[Tensor]:
        for chunk in (scaled_rows if kept is None else kept).split(rows_per_chunk):
            yield (F.linear(chunk, weight) if kept is None else chunk).float()

    bias = -_log_column_sums(chunks(), len(weight), weight.device)
    for _ in range(iterations - 1):
        columns = torch.zeros_like(bias)
        for z in chunks():
            _softmax_(z.add_(bias))
            columns += z.sum(0)
        # What was summed up still has the old bias in it: dividing by it is taking its logarithm off.
        bias = bias - all_reduce_sum(columns).clamp_min(torch.finfo(columns.dtype).tiny).log()
    return Targets(teacher.bottleneck, teacher.weight, temperature, bias, kept)


def _log_column_sums(chunks: Iterator[Tensor], num_prototypes: int, device: torch.device) -> Tensor:
    """log of the sum over all rows of exp(logits), for each prototype: no scaling of rows bounds the logits yet."""
    largest = torch.full((num_prototypes,), _LOWEST, device=device)
    sums = torch.zeros_like(largest)
    for z in chunks:
        if len(z):
            new = torch.maximum(largest, z.amax(0))
            sums = sums * (largest - new).exp() + (z - new).exp_().sum(0)
            largest = new
    overall = all_reduce_max(largest.clone())
    sums = all_reduce_sum(sums * (largest - overall).exp())
    return overall + sums.clamp_min(torch.finfo(sums.dtype).tiny).log()


class _Plan(NamedTuple):
    mix: tuple[tuple[float, ...], ...]
    temperature: float
    chunk_bytes: int

    def groups(self) -> Iterator[tuple[slice, tuple[float, ...]]]:
        """Stretches of crops with the same share in the views: they have one target."""
        start = 0
        for crop in range(1, len(self.mix) + 1):
            if crop == len(self.mix) or self.mix[crop] != self.mix[start]:
                yield slice(start, crop), self.mix[start]
                start = crop


class _PrototypeLoss(torch.autograd.Function):
    """Gradients are made with the loss, chunk by chunk, while its logits are there; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, bottleneck: Tensor, weight: Tensor, targets: Targets, weights: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wants_gradient = bottleneck.requires_grad or weight.requires_grad
        sweep = _Sweep(bottleneck.detach(), weight.detach(), targets, weights, plan, wants_gradient)
        for images in sweep.chunks():
            sweep.add(images)
        ctx.grads = (sweep.grad_bottleneck, sweep.grad_weight)
        ctx.dtypes = (bottleneck.dtype, weight.dtype)
        by_crop, entropy, marginal = sweep.by_crop, sweep.entropy_sum, sweep.marginal_sum
        num_rows = max(len(targets.bottleneck), 1)
        out = (by_crop.sum(), by_crop, entropy / num_rows, marginal / num_rows)
        ctx.mark_non_differentiable(*out[1:])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_bottleneck, grad_weight = ctx.grads
        ctx.grads = None
        scale = grads[0]
        return (
            grad_bottleneck.flatten(0, 1).mul_(scale).to(ctx.dtypes[0]),
            grad_weight.mul_(scale).to(ctx.dtypes[1]),
            None,
            None,
            None,
        )


class _Sweep:
    """One pass over the images: loss, gradients and what is monitored, summed up chunk by chunk."""

    def __init__(
        self, bottleneck: Tensor, weight: Tensor, targets: Targets, weights: Tensor, plan: _Plan, with_gradient: bool
    ) -> None:
        self.plan, self.targets, self.with_gradient = plan, targets, with_gradient
        self.image_weights = weights.float()
        self.num_images, self.num_views = len(weights), len(plan.mix[0])
        compute = _compute_dtype(weight)
        self.lift = _HALF_LIFT if compute == torch.float16 else 1.0
        self.unlift = 1.0 / (plan.temperature * self.lift)
        largest = self.image_weights.max() if self.num_images else self.image_weights.new_tensor(1.0)
        self.heaviest = largest.clamp_min(torch.finfo(torch.float32).tiny)
        # Temperatures go into the small factors: no pass over the logits for them.
        self.student = bottleneck.unflatten(0, (len(plan.mix), -1))  # [crops, images, dim]
        self.student_scaled = (self.student / plan.temperature).to(compute)
        self.weight = weight.to(compute)
        self.teacher_weight = targets.weight.to(compute)
        made = targets.scaled_logits
        rows = (targets.bottleneck / targets.temperature).to(compute) if made is None else made
        self.teacher = rows.unflatten(0, (self.num_views, -1))  # rows, or logits that are there already
        self.by_crop = torch.zeros(len(plan.mix), device=weight.device)
        self.entropy_sum = torch.zeros((), device=weight.device)
        self.marginal_sum = torch.zeros(len(weight), device=weight.device)
        self.grad_bottleneck = torch.zeros(bottleneck.shape, device=weight.device).unflatten(0, self.student.shape[:2])
        self.grad_weight = torch.zeros(weight.shape, device=weight.device)
        if not with_gradient:
            self.grad_weight = self.grad_weight.new_empty(0)

    def chunks(self) -> Iterator[slice]:
        """Slices of images whose logits, targets and temporaries fit the plan's bytes."""
        copies = len(self.plan.mix) + 2 * self.num_views + 1
        step = _rows_per_chunk(len(self.weight), copies, self.plan.chunk_bytes)
        for start in range(0, self.num_images, step):
            yield slice(start, min(start + step, self.num_images))

    def add(self, images: slice) -> None:
        """Take in a chunk of images."""
        t = self._teacher_logits(images).add_(self.targets.bias)
        _softmax_(t)  # [views, chunk, prototypes]
        self.marginal_sum += t.sum((0, 1))
        self.entropy_sum += torch.special.entr(t).sum()
        z = F.linear(self.student_scaled[:, images], self.weight).float()  # [crops, chunk, prototypes]
        for crops, shares in self.plan.groups():
            self._take(z[crops], torch.tensordot(t.new_tensor(shares), t, dims=1), crops, images, sum(shares))
        del t
        if self.with_gradient:
            self._differentiate(z.to(self.weight.dtype), images)

    def _teacher_logits(self, images: slice) -> Tensor:
        rows = self.teacher[:, images]
        return (F.linear(rows, self.teacher_weight) if self.targets.scaled_logits is None else rows).float()

    def _take(self, z: Tensor, mixed: Tensor, crops: slice, images: slice, mass: float) -> None:
        """Loss of crops that share their target `mixed` [chunk, prototypes]; their logits become their gradients."""
        agreement = torch.einsum("ik,cik->ci", mixed, z)
        log_sums = _softmax_(z)
        # -sum_k t_k log softmax(z)_k = mass * log_sum - t . z
        self.by_crop[crops] += (mass * log_sums - agreement) @ self.image_weights[images]
        z.mul_(mass * self.lift).sub_(mixed.mul_(self.lift))

    def _differentiate(self, g: Tensor, images: slice) -> None:
        weights = self.image_weights[images]
        self.grad_bottleneck[:, images] = torch.matmul(g, self.weight).float() * (weights * self.unlift)[:, None]
        rows = self.student[:, images] * (weights / self.heaviest)[:, None]
        if g.dtype == torch.float32:
            self.grad_weight.addmm_(g.flatten(0, 1).T, rows.flatten(0, 1) * (self.heaviest * self.unlift))
        else:
            product = g.flatten(0, 1).T @ rows.flatten(0, 1).to(g.dtype)
            self.grad_weight.addcmul_(product, self.heaviest * self.unlift)


def _softmax_(z: Tensor) -> Tensor:
    """Softmax over the last dimension in place, one exponential and no copy; returns the log of the sums."""
    largest = z.amax(-1, keepdim=True)
    sums = z.sub_(largest).exp_().sum(-1, keepdim=True)
    z.div_(sums)
    return (largest + sums.log()).squeeze(-1)


def _rows_per_chunk(num_prototypes: int, copies: int, chunk_bytes: int) -> int:
    return max(1, chunk_bytes // (4 * num_prototypes * copies))


def _compute_dtype(weight: Tensor) -> torch.dtype:
    """What products are made in: autocast's type where it is on, the weights' own elsewhere."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
