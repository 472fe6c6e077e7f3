"""One pass over the images of a loss over prototypes: value, gradients and what is monitored, a chunk at a time."""

from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.prototype_loss_budget import rows_within, tiles_of
from ssl_train.ops.prototype_loss_kernels import kernels_for
from ssl_train.ops.prototype_loss_targets import (
    LARGEST_EXPONENT,
    Targets,
    compute_dtype,
    largest_logit,
    softmax_,
)

# fp16 holds nothing below 6e-8: gradients of logits are lifted into its range for the products, and lowered after.
_HALF_LIFT = 4096.0


class Plan(NamedTuple):
    """What of a loss is not a tensor."""

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


class Sweep:
    """Sums over images. A chunk's logits are made by one product; what follows is done tile by tile of it."""

    def __init__(
        self, bottleneck: Tensor, weight: Tensor, targets: Targets, weights: Tensor, plan: Plan, with_gradient: bool
    ) -> None:
        self.plan, self.targets, self.with_gradient = plan, targets, with_gradient
        self.image_weights = weights.float()
        self.num_images, self.num_crops, self.num_views = len(weights), len(plan.mix), len(plan.mix[0])
        compute = compute_dtype(weight)
        self.lift = _HALF_LIFT if compute == torch.float16 else 1.0
        self.unlift = 1.0 / (plan.temperature * self.lift)
        largest = self.image_weights.max() if self.num_images else self.image_weights.new_tensor(1.0)
        self.heaviest = largest.clamp_min(torch.finfo(torch.float32).tiny)
        # Temperatures go into the small factors: no pass over the logits for them.
        self.student = _by_image(bottleneck, self.num_crops)  # [images, crops, dim]
        self.student_scaled = (self.student / plan.temperature).to(compute)
        self.weight = weight.to(compute)
        self.teacher_weight = targets.weight.to(compute)
        made = targets.masses if targets.scaled_logits is None else targets.scaled_logits
        self.is_made = made is not None
        rows = (targets.bottleneck / targets.temperature).to(compute) if made is None else made
        self.teacher = rows.unflatten(0, (self.num_views, -1)).transpose(0, 1)  # [images, views, dim or prototypes]
        self.kernels = kernels_for(weight.device) if targets.masses is None else None
        self._bound()
        self.by_crop = torch.zeros(self.num_crops, device=weight.device)
        self.entropy_sum = torch.zeros((), device=weight.device)
        self.marginal_sum = torch.zeros(len(weight), device=weight.device)
        self.grad_bottleneck = torch.zeros(self.student.shape, device=weight.device)
        self.grad_weight = torch.zeros(weight.shape if with_gradient else (0,), device=weight.device)

    def _bound(self) -> None:
        """Are exponentials of logits safe as they are? Asked where the answer is there at once: on a CPU."""
        self.student_is_bounded = self.teacher_is_bounded = False
        if self.weight.device.type == "cpu":
            self.student_is_bounded = bool(largest_logit(self.student_scaled, self.weight) <= LARGEST_EXPONENT)
            biased = self.targets.bias.abs().amax()
            if self.targets.masses is None:
                scaled = self.targets.bottleneck / self.targets.temperature
                biased = biased + largest_logit(scaled, self.targets.weight)
            self.teacher_is_bounded = self.targets.masses is not None or bool(biased <= 2 * LARGEST_EXPONENT)
        self.column_scales = self.targets.bias.exp()

    def run(self) -> None:
        """Take in all images."""
        buffers: dict[str, Tensor] = {}
        for images in self.chunks():
            z = _product(buffers, "student", self.student_scaled[images], self.weight)  # [chunk, crops, prototypes]
            told = self.teacher[images]
            if not self.is_made:
                told = _product(buffers, "teacher", told, self.teacher_weight)  # [chunk, views, prototypes]
            if self.kernels is None:
                self._take_tiles(z, told, self.image_weights[images])
            else:
                self._take_whole(self.kernels, z, told, self.image_weights[images])
            if self.with_gradient:
                self._differentiate(z, images)

    def chunks(self) -> Iterator[slice]:
        """Slices of images whose logits fit the plan's bytes."""
        copies = self.num_crops + (0 if self.is_made else self.num_views)
        step = rows_within(self.plan.chunk_bytes, len(self.weight), copies=copies)
        for start in range(0, self.num_images, step):
            yield slice(start, min(start + step, self.num_images))

    def _take_tiles(self, z: Tensor, told: Tensor, weights: Tensor) -> None:
        start = 0
        for tile in tiles_of(z):
            stop = start + len(tile)
            self._take(tile, self._read(told[start:stop]), weights[start:stop])
            start = stop

    def _take_whole(self, kernels: ModuleType, z: Tensor, told: Tensor, weights: Tensor) -> None:
        """What `_take_tiles` does, by kernels that need no copy of logits."""
        bias = self.targets.bias
        stats = [kernels.row_stats(view, bias) for view in told.unbind(1)]
        for view, of_view in zip(told.unbind(1), stats, strict=True):
            self.marginal_sum += kernels.column_sums(view, bias, of_view.log_sums)
            self.entropy_sum += of_view.entropies.sum()
        log_sums = torch.stack([of_view.log_sums for of_view in stats], dim=1)
        mix = _on_device(self.plan.mix, z.device)
        compared = kernels.compare_(z, told, bias, log_sums, mix, lift=self.lift)
        self.by_crop += weights @ (mix.sum(1) * compared.log_sums - compared.agreement)

    def _read(self, told: Float[Tensor, "tile views prototypes"]) -> Float[Tensor, "tile views prototypes"]:
        """Targets from a teacher's logits or masses."""
        if not self.teacher_is_bounded:
            t = told + self.targets.bias  # fp32, as the bias is
            softmax_(t)
        else:
            t = (told if self.targets.masses is not None else told.float().exp_()) * self.column_scales
            t.div_(t.sum(-1, keepdim=True))
        self.marginal_sum += t.sum((0, 1))
        logarithms = t.clamp_min(torch.finfo(t.dtype).tiny).log_()
        self.entropy_sum -= torch.dot(t.flatten(), logarithms.flatten())
        return t

    def _take(self, z: Tensor, t: Tensor, weights: Tensor) -> None:
        """Losses of a tile; its logits [tile, crops, prototypes] become their gradients."""
        own = z.float()
        for crops, shares in self.plan.groups():
            log_sums, agreement = self._compare(own[:, crops], t, shares)
            # -sum_k t_k log softmax(z)_k = mass * log_sum - t . z
            self.by_crop[crops] += weights @ (sum(shares) * log_sums - agreement)
        if own is not z:
            z.copy_(own)

    def _compare(self, z: Tensor, t: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """(log of the sum of exponentials, target . logits), each [tile, crops], of crops that share their target;
        their logits become mass * softmax - target."""
        mass, told = sum(shares), [view for view, share in enumerate(shares) if share]
        if len(told) == 1:  # no copy of a target that is there
            mixed, share = t[:, told[0]], shares[told[0]]
        else:
            mixed, share = torch.matmul(t.new_tensor(shares), t), 1.0
        agreement = torch.matmul(z, mixed.unsqueeze(-1)).squeeze(-1) * share
        if self.student_is_bounded:
            sums = z.exp_().sum(-1, keepdim=True)
            log_sums = sums.log()
        else:
            largest = z.amax(-1, keepdim=True)
            sums = z.sub_(largest).exp_().sum(-1, keepdim=True)
            log_sums = largest + sums.log()
        z.mul_(mass * self.lift / sums).sub_(mixed.unsqueeze(1), alpha=share * self.lift)
        return log_sums.squeeze(-1), agreement

    def _differentiate(self, g: Tensor, images: slice) -> None:
        weights = self.image_weights[images, None, None]
        self.grad_bottleneck[images] = torch.matmul(g, self.weight).float() * (weights * self.unlift)
        rows, g = (self.student[images] * (weights / self.heaviest)).flatten(0, 1), g.flatten(0, 1)
        if g.dtype == torch.float32:
            self.grad_weight.addmm_(g.T, rows * (self.heaviest * self.unlift))
        else:
            self.grad_weight.addcmul_(g.T @ rows.to(g.dtype), self.heaviest * self.unlift)

    def gradients(self) -> tuple[Float[Tensor, "rows dim"], Float[Tensor, "prototypes dim"]]:
        """Of the total by bottleneck, its rows crop-major again, and by weight."""
        return self.grad_bottleneck.transpose(0, 1).flatten(0, 1), self.grad_weight


@lru_cache(maxsize=8)
def _on_device(mix: tuple[tuple[float, ...], ...], device: torch.device) -> Float[Tensor, "crops views"]:
    return torch.tensor(mix, device=device)  # once: a copy from the host would be waited for


def _by_image(rows: Float[Tensor, "crops_x_images dim"], num_crops: int) -> Float[Tensor, "images crops dim"]:
    return rows.unflatten(0, (num_crops, -1)).transpose(0, 1).contiguous()


def _product(
    buffers: dict[str, Tensor], name: str, rows: Float[Tensor, "images crops dim"], weight: Float[Tensor, "k dim"]
) -> Float[Tensor, "images crops k"]:
    """rows @ weight.T, into the buffer of its name: fresh memory would cost as much as a pass over it."""
    flat = rows.flatten(0, 1)
    if name not in buffers:
        buffers[name] = flat.new_empty(len(flat), len(weight))
    made = torch.mm(flat, weight.T, out=buffers[name][: len(flat)])
    return made.unflatten(0, rows.shape[:2])
