"""Rows of all processes in one matrix, rank by rank: with or without a way back for the gradient."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def num_ranks() -> int:
    """Processes of the run; 1 for one that is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def first_row(rows: Tensor) -> int:
    """Where this process's rows begin among all that were gathered."""
    return dist.get_rank() * len(rows) if dist.is_initialized() else 0


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half precision made single: sums over a batch, and exponentials, want it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def own_share(everyone: Float[Tensor, "all_rows dim"]) -> Float[Tensor, "rows dim"]:
    """This process's part of rows that all of them have, so that each row is in one part."""
    return everyone.tensor_split(num_ranks())[dist.get_rank()] if dist.is_initialized() else everyone


@torch.no_grad()
def gathered(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "all_rows dim"]:
    """The rows of all processes, rank by rank, without a gradient. Every process has equally many."""
    if num_ranks() == 1:
        return rows.detach()
    everyone = rows.new_empty(num_ranks() * len(rows), *rows.shape[1:])
    dist.all_gather_into_tensor(everyone, rows.detach().contiguous())
    return everyone


def gathered_with_gradient(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "all_rows dim"]:
    """The rows of all processes, through which every process's loss reaches the rows of every other.

    A row's gradient is the sum of what all processes' losses make it; gradients of weights are averaged over processes
    afterwards, so that they are those of the mean of the losses. Every process has equally many rows, and takes part
    in the backward pass.
    """
    if num_ranks() == 1:
        return rows
    everyone: Tensor = _Gather.apply(rows)
    return everyone


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own = slice(first_row(rows), first_row(rows) + len(rows))
        return gathered(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        everyone = grads[0].clone(memory_format=torch.contiguous_format)  # others may use what came in
        dist.all_reduce(everyone)
        own: Tensor = everyone[ctx.own]
        return own
