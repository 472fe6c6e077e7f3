"""What is watched of a step besides its losses: computed where the tensors are, read when the step's numbers are."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ssl_train.distributed import all_reduce_sum
from ssl_train.models import Backbone

NUM_PARTS = 4
"""Stretches of equally many blocks, each with a gradient norm of its own."""


@torch.no_grad()
def feature_rank(features: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """How many directions the rows of all processes spread over: (tr C)^2 / tr(C^2), C their covariance.

    In [1, dim]: 1 when all rows lie on a line, dim when they spread alike in all directions; 0 when they are equal.
    Two collectives (dim and dim x dim numbers), no decomposition. Source: Gao et al. 2017 (bioRxiv 214262),
    "participation ratio".
    """
    with torch.autocast(features.device.type, enabled=False):
        x = features.float()
        sums, count = all_reduce_sum(torch.cat([x.sum(0), x.new_full((1,), len(x))])).split([x.shape[1], 1])
        centred = x - sums / count
        scatter = all_reduce_sum(centred.T @ centred)
        scatter = scatter / scatter.trace().clamp_min(torch.finfo(x.dtype).tiny)  # the ratio does not change
        return scatter.trace().square() / scatter.square().sum().clamp_min(torch.finfo(x.dtype).tiny)


@torch.no_grad()
def part_gradient_norms(student: nn.ModuleDict, *, by_layer: bool = False) -> dict[str, Float[Tensor, ""]]:
    """Gradient norms of the backbone's embeddings and of each quarter of its blocks (the last with the final norm).

    Each is the norm over all processes' shards, before clipping: a place whose gradients vanish or explode shows
    here. One collective. The heads have their norms from clipping. `by_layer`: of the stem and of every layer instead
    (layer_00 are the other embeddings), as MoCo v3's figure 4 has them (arXiv 2104.02057).
    """
    squares: dict[str, list[Tensor]] = {}
    sharded = False
    for module in student.values():
        if isinstance(module, Backbone):
            stem = {id(parameter) for parameter in module.stem().parameters()} if by_layer else set()
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    sharded |= isinstance(parameter.grad, DTensor)
                    layer = "stem" if id(parameter) in stem else f"layer_{module.layer_of(name):02d}"
                    part = layer if by_layer else _part(module, name)
                    squares.setdefault(part, []).append(_local(parameter.grad))
    if not squares:
        return {}  # a backbone that is frozen as a whole
    sums = torch.stack([_square_sum(grads) for grads in squares.values()])
    norms = (all_reduce_sum(sums) if sharded else sums).sqrt()
    return {f"grad_norm_backbone_{part}": norm for part, norm in zip(squares, norms.unbind(), strict=True)}


def _part(backbone: Backbone, name: str) -> str:
    layer = backbone.layer_of(name)
    if layer == 0:
        return "embeddings"
    return f"blocks_{min((layer - 1) * NUM_PARTS // backbone.num_layers, NUM_PARTS - 1) + 1}"


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _square_sum(tensors: list[Tensor]) -> Float[Tensor, ""]:
    """The sum of all squares; a process may hold no part of some."""
    norms = torch._foreach_norm([tensor for tensor in tensors if tensor.numel()] or [tensors[0].new_zeros(1)])
    return torch.stack([norm.float() for norm in norms]).square().sum()
