"""MLP heads with BatchNorm, whose statistics are those of all processes' rows on any device; published names."""

import itertools
from dataclasses import dataclass
from typing import Annotated, Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_train.ops.gather import at_least_fp32, num_ranks
from ssl_train.ops.prototype_loss import Projected

NORM_EPS = 1e-6  # in half precision 1e-12 is zero, and a zero row would become NaN
MOMENTUM = 0.1
"""What a batch counts in BatchNorm's running statistics."""


class BatchNorm(_BatchNorm):
    """BatchNorm of rows [rows, channels] or maps [n, channels, height, width] over those of all processes.

    In training mode mean and variance are those of every process's rows together, and so is the gradient: N processes
    give what one gives. torch's SyncBatchNorm does this on GPUs only. Statistics are made in fp32 from each process's
    count, mean and summed squares around it (Chan et al. 1979): one collective forward, one backward. A process may
    hold another number of rows than the others, also none.
    """

    keeps_statistics: bool = True
    """Whether the running statistics move in training mode; not while activations are made a second time."""

    def __init__(self, num_features: int, *, affine: bool = True) -> None:
        super().__init__(num_features, eps=1e-5, momentum=MOMENTUM, affine=affine)

    def forward(self, input: Tensor) -> Tensor:
        """Normalised, in the input's own type. ValueError for an input that is neither rows nor maps."""
        if input.ndim not in (2, 4):
            raise ValueError(f"rows [rows, channels] or maps [n, channels, height, width], not {list(input.shape)}")
        if not self.training:
            return self._alone(input, self.running_mean, self.running_var)
        if self.keeps_statistics:
            cast(Tensor, self.num_batches_tracked).add_(1)
        if num_ranks() == 1:
            kept = (self.running_mean, self.running_var) if self.keeps_statistics else (None, None)
            return self._alone(input, *kept)
        count, mean, variance = all_moments(_rows_of(input))
        if self.keeps_statistics:
            self._follow(count, mean, variance)
        normalised: Tensor = _Normalise.apply(input, count, mean, torch.rsqrt(variance + self.eps))
        if self.affine:
            normalised = normalised * _as_channels(self.weight, input) + _as_channels(self.bias, input)
        return normalised.to(input.dtype)

    def _alone(self, x: Tensor, mean: Tensor | None, variance: Tensor | None) -> Tensor:
        # FSDP hands weights in half precision to statistics in fp32, which torch's function refuses to mix.
        weight, bias = (None if one is None else at_least_fp32(one) for one in (self.weight, self.bias))
        out: Tensor = F.batch_norm(x, mean, variance, weight, bias, self.training, MOMENTUM, self.eps)
        return out

    @torch.no_grad()
    def _follow(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """The running statistics move a step; their variance is the unbiased one, as in torch."""
        cast(Tensor, self.running_mean).lerp_(mean, MOMENTUM)
        cast(Tensor, self.running_var).lerp_(variance * (count / (count - 1).clamp_min(1)), MOMENTUM)


@torch.no_grad()
def all_moments(rows: Float[Tensor, "rows channels"]) -> tuple[Tensor, Tensor, Tensor]:
    """Number of rows of all processes, their mean [channels] and their (biased) variance [channels]."""
    rows = at_least_fp32(rows)
    count = rows.new_full((1,), len(rows))
    mean = rows.sum(0) / count.clamp_min(1)
    squares = (rows - mean).square_().sum(0)
    own = torch.cat([count, mean, squares])
    everyone = own.new_empty(num_ranks() * len(own))
    dist.all_gather_into_tensor(everyone, own)
    counts, means, sums = everyone.view(-1, len(own)).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    overall = (counts * means).sum(0) / total
    spread = sums.sum(0) + (counts * (means - overall).square()).sum(0)
    return total, overall, spread / total


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, where both come from the rows of all processes, and so does the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(x, count, mean, inverse)
        return _normalised(x, mean, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, count, mean, inverse = ctx.saved_tensors
        grad, normalised = at_least_fp32(grads[0]), _normalised(x, mean, inverse)
        sums = torch.cat([_rows_of(grad).sum(0), _rows_of(grad * normalised).sum(0)])
        dist.all_reduce(sums)
        grad_mean, grad_tilt = (_as_channels(part, x) for part in (sums / count).chunk(2))
        grad_x = (grad - grad_mean - normalised * grad_tilt) * _as_channels(inverse, x)
        return grad_x.to(x.dtype), None, None, None


def _normalised(x: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    return (at_least_fp32(x) - _as_channels(mean, x)) * _as_channels(inverse, x)


def _as_channels(numbers: Float[Tensor, " channels"], x: Tensor) -> Tensor:
    return numbers.view([1, -1] + [1] * (x.ndim - 2))


def _rows_of(x: Tensor) -> Float[Tensor, "rows channels"]:
    """Every place of every map a row."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


@dataclass(frozen=True)
class MlpHead:
    """Linear layers with BatchNorm and ReLU between them; the defaults are the projector of MoCo v3's ViTs."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    hidden_dim: Annotated[int, Field(ge=1)] = 4096
    """Width between the layers."""
    out_dim: Annotated[int, Field(ge=1)] = 256
    """Width of the space in which views are compared."""
    num_layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Linear layers."""
    last_norm: bool = True
    """BatchNorm after the last layer too, without weights of its own."""
    bias: bool = False
    """Whether linear layers have a bias; before a BatchNorm it has no effect."""

    def widths(self, in_dim: int) -> list[int]:
        """Of the input, and of every layer's output."""
        return [in_dim, *[self.hidden_dim] * (self.num_layers - 1), self.out_dim]

    def row_flops(self, in_dim: int) -> float:
        """Operations of one row's forward pass."""
        return 2.0 * sum(narrow * wide for narrow, wide in itertools.pairwise(self.widths(in_dim)))

    def build(self, in_dim: int) -> "MlpHeadNet":
        """The head, freshly initialised from torch's global random state."""
        return MlpHeadNet(self.widths(in_dim), last_norm=self.last_norm, bias=self.bias)


class MlpHeadNet(nn.Sequential):
    """[rows, in] to [rows, out]; tensors are numbered as in the published checkpoints of MoCo v3.

    Source: MoCo v3 (arXiv 2104.02057), section 3.
    """

    def __init__(self, widths: list[int], *, last_norm: bool, bias: bool) -> None:
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths[:-1]):
            layers += [nn.Linear(narrow, wide, bias=bias), BatchNorm(wide), nn.ReLU(inplace=True)]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=bias))
        if last_norm:
            layers.append(BatchNorm(widths[-1], affine=False))
        super().__init__(*layers)


@dataclass(frozen=True)
class SwavHead:
    """An MLP, unit-length outputs, and prototypes of unit length; the defaults are SwAV's for ResNet-50."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    mlp: MlpHead = MlpHead(hidden_dim=2048, out_dim=128, num_layers=2, last_norm=False, bias=True)
    """What comes before the prototypes."""
    num_prototypes: Annotated[int, Field(ge=2)] = 3000
    """Prototypes that an image can be assigned to."""

    def row_flops(self, in_dim: int) -> float:
        """Operations of one row's forward pass, prototypes included."""
        return self.mlp.row_flops(in_dim) + 2.0 * self.mlp.out_dim * self.num_prototypes

    def build(self, in_dim: int) -> "SwavHeadNet":
        """The head, freshly initialised from torch's global random state."""
        return SwavHeadNet(self.mlp.build(in_dim), self.mlp.out_dim, self.num_prototypes)


class SwavHeadNet(nn.Module):
    """[rows, dim] features to prototypes, short of the last product, under SwAV's published names (arXiv 2006.09882).

    The prototypes' lengths are 1 because `normalise` makes them so after every step, not by what the forward pass
    computes: their gradient is that of a free weight, as published.
    """

    def __init__(self, projection_head: MlpHeadNet, dim: int, num_prototypes: int) -> None:
        super().__init__()
        self.projection_head = projection_head
        self.prototypes = nn.Linear(dim, num_prototypes, bias=False)
        self.normalise()

    def forward(self, x: Float[Tensor, "rows dim"]) -> Projected:
        # A tensor of its own: a sharded head's gathered weight is gone after the forward pass.
        return Projected(F.normalize(self.projection_head(x), dim=-1, eps=NORM_EPS), self.prototypes.weight.clone())

    @torch.no_grad()
    def normalise(self) -> None:
        """Make every prototype one long; of a sharded head, those that this process holds."""
        weight = self.prototypes.weight
        rows = weight.to_local() if isinstance(weight, DTensor) else weight
        rows.copy_(F.normalize(rows, dim=-1))
