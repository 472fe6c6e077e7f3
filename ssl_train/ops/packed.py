"""Crops of several sizes as one run of tokens: LayerNorms and Linears see them all in one pass."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# (crops, tokens per crop) of each group of equally large crops, in the order in which they are packed.
Shapes = tuple[tuple[int, int], ...]


def pack(groups: Sequence[Float[Tensor, "_crops _tokens dim"]]) -> tuple[Float[Tensor, "total dim"], Shapes]:
    """Join groups of crops into one [total tokens, dim] tensor, and say how to part them again."""
    shapes = tuple((group.shape[0], group.shape[1]) for group in groups)
    return torch.cat([group.flatten(0, 1) for group in groups]), shapes


def unpack(packed: Float[Tensor, "total *rest"], shapes: Shapes) -> list[Float[Tensor, "_crops _tokens *rest"]]:
    """The groups that `pack` joined, as views of the packed tensor."""
    parts = packed.split([crops * tokens for crops, tokens in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]
