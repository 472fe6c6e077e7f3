"""What a teacher says over prototypes, short of the product that would make it large; Sinkhorn-Knopp's targets."""

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.distributed import all_reduce_max, all_reduce_sum
from ssl_train.ops.prototype_loss_budget import Budget, rows_within, tiles_of
from ssl_train.ops.prototype_loss_kernels import kernels_for

_LOWEST = -1e30  # below every logit, and still a number: the difference of two is 0
LARGEST_EXPONENT = 30.0
"""Logits between this and its negative have exponentials that fp32 can hold, add up and multiply without a maximum
taken off first. Rows of unit length and prototypes as they begin have logits of at most 1 / temperature, 25 at 0.04."""


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
    """Empty where `masses` say all: the prototypes need not stay in memory until the student has been heard."""
    temperature: float
    bias: Float[Tensor, " prototypes"]
    scaled_logits: Float[Tensor, "rows prototypes"] | None = None
    """bottleneck @ weight.T / temperature in the precision of products, where it was made and may be used again."""
    masses: Float[Tensor, "rows prototypes"] | None = None
    """exp(bottleneck @ weight.T / temperature) in fp32, where that was made instead."""


@torch.no_grad()
def sinkhorn_targets(
    teacher: Projected, *, temperature: float, iterations: int = 3, chunk_bytes: int | None = None
) -> Targets:
    """Sinkhorn-Knopp's targets as a bias on the logits: softmax(logits / temperature + bias).

    Sinkhorn-Knopp scales the rows and columns of exp(logits / temperature) in turn, columns first, rows last. Scaling
    columns is adding to the logits, and the last scaling of rows is the softmax; so a bias [prototypes] is all that has
    to be kept. Every iteration reads the logits once, chunk by chunk. They are kept where they were made in half
    precision (autocast; 2 bytes each), or in fp32 if they fit the budget's `kept_bytes`; larger ones are made anew,
    `iterations` products more. Kept ones on a CPU that are bounded (LARGEST_EXPONENT) are raised to powers once, and
    an iteration is two products with a vector. The rows of all processes count as one matrix; a process may hold none.
    Source: SwAV (arXiv 2006.09882) section 3.2, DINOv2 (arXiv 2304.07193) section 4.
    """
    rows, weight = teacher
    device = weight.device.type
    budget = Budget.current()
    compute = compute_dtype(weight)
    scaled_rows, weight = (rows / temperature).to(compute), weight.to(compute)
    keeps = compute != torch.float32 or 4 * len(rows) * len(weight) <= budget.kept_on(device)
    rows_per_chunk = rows_within(chunk_bytes or budget.chunk_on(device), len(weight), copies=2)
    kernels = kernels_for(weight.device)
    if compute == torch.float32 and device == "cpu" and kernels is None:
        # All processes go one way: theirs are not the same collectives.
        bound = all_reduce_max(largest_logit(scaled_rows, weight).nan_to_num(torch.inf, torch.inf))
        fits = all_reduce_max(torch.tensor(float(not keeps))) == 0
        if fits and bound <= LARGEST_EXPONENT:
            masses, columns = _balanced(scaled_rows, weight, iterations, rows_per_chunk)
            return Targets(rows, weight[:0].clone(), temperature, -columns.log(), masses=masses)
    kept = F.linear(scaled_rows, weight) if keeps else None
    if kept is not None and kernels is not None:
        bias = _balancing_bias_by(kernels, kept, iterations)
    else:
        bias = _balancing_bias(scaled_rows, weight, kept, iterations, rows_per_chunk)
    return Targets(*teacher, temperature, bias, scaled_logits=kept)


def _balanced(rows: Tensor, weight: Tensor, iterations: int, rows_per_chunk: int) -> tuple[Tensor, Tensor]:
    """(E, c): E = exp(rows @ weight.T), and E / c, its rows made to sum to one, is what Sinkhorn-Knopp gives."""
    masses = rows.new_empty(len(rows), len(weight))
    columns = rows.new_zeros(len(weight))
    for made, chunk in zip(masses.split(rows_per_chunk), rows.split(rows_per_chunk), strict=True):
        torch.mm(chunk, weight.T, out=made)
        for tile in tiles_of(made):
            columns += tile.exp_().sum(0)
    columns = _positive(all_reduce_sum(columns))
    for _ in range(iterations - 1):
        scales, columns = columns.reciprocal(), torch.zeros_like(columns)
        for tile in tiles_of(masses):
            columns += (tile @ scales).reciprocal() @ tile
        columns = _positive(all_reduce_sum(columns))
    return masses, columns


def _balancing_bias(
    rows: Tensor, weight: Tensor, kept: Tensor | None, iterations: int, rows_per_chunk: int
) -> Float[Tensor, " prototypes"]:
    """The same by logarithms, whatever the logits: minus log c."""

    def chunks() -> Iterator[Tensor]:
        for chunk in (rows if kept is None else kept).split(rows_per_chunk):
            yield F.linear(chunk, weight) if kept is None else chunk.to(torch.float32, copy=True)

    bias = -_log_column_sums(chunks(), len(weight), weight.device)
    for _ in range(iterations - 1):
        columns = torch.zeros_like(bias)
        for z in chunks():
            softmax_(z.add_(bias))
            columns += z.sum(0)
        # What was summed up still has the old bias in it: dividing by it is taking its logarithm off.
        bias = bias - _positive(all_reduce_sum(columns)).log()
    return bias


def _log_column_sums(chunks: Iterator[Tensor], num_prototypes: int, device: torch.device) -> Tensor:
    """log of the sum over all rows of exp(logits), for each prototype: no scaling of rows bounds the logits yet."""
    largest = torch.full((num_prototypes,), _LOWEST, device=device)
    sums = torch.zeros_like(largest)
    for z in chunks:
        if len(z):
            new = torch.maximum(largest, z.amax(0))
            sums = sums * (largest - new).exp() + z.sub_(new).exp_().sum(0)
            largest = new
    return _all_log_sums(largest, sums)


def _balancing_bias_by(kernels: ModuleType, kept: Tensor, iterations: int) -> Float[Tensor, " prototypes"]:
    """`_balancing_bias` of logits that are there, by kernels that read them as they are."""
    bias = -_all_log_sums(*kernels.column_log_sums(kept))
    for _ in range(iterations - 1):
        columns = kernels.column_sums(kept, bias, kernels.row_stats(kept, bias).log_sums)
        bias = bias - _positive(all_reduce_sum(columns)).log()
    return bias


def _all_log_sums(largest: Tensor, sums: Tensor) -> Float[Tensor, " prototypes"]:
    """Of the rows of all processes: `sums` are those of exp(logits - largest) of each."""
    overall = all_reduce_max(largest.clone())
    return overall + _positive(all_reduce_sum(sums * (largest - overall).exp())).log()


def _positive(sums: Tensor) -> Tensor:
    return sums.clamp_min(torch.finfo(sums.dtype).tiny)


def softmax_(z: Tensor) -> Tensor:
    """Softmax over the last dimension in place, one exponential and no copy; returns the log of the sums."""
    largest = z.amax(-1, keepdim=True)
    sums = z.sub_(largest).exp_().sum(-1, keepdim=True)
    z.div_(sums)
    return (largest + sums.log()).squeeze(-1)


def largest_logit(rows: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """What no |row . prototype| exceeds (Cauchy and Schwarz); 0 without rows."""
    if not len(rows):
        return torch.zeros((), device=rows.device)
    return (rows.norm(dim=-1).amax() * weight.norm(dim=-1).amax()).float()


def compute_dtype(weight: Tensor) -> torch.dtype:
    """What products are made in: autocast's type where it is on, the weights' own elsewhere."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
