"""Stochastic depth that skips the work: a residual branch runs on a random subset of the crops only."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssl_train.ops.packed import Shapes

Branch = Callable[[Tensor, Shapes], Tensor]


def residual(
    x: Float[Tensor, "total dim"], shapes: Shapes, branch: Branch, *, drop: float
) -> Float[Tensor, "total dim"]:
    """x + branch(x), where each group of crops keeps a random subset of its crops and scales it up.

    Of a group of b crops, max(int(b (1 - drop)), 1) are drawn without replacement; the branch runs on them alone and
    is added with weight b / kept, so that the expectation is the plain residual. The count is constant: shapes are
    static. Source: DINOv2 (arXiv 2304.07193), section 5 "Efficient stochastic depth".
    """
    if drop == 0.0:
        return x + branch(x, shapes)
    rows, kept_shapes = _draw_rows(shapes, drop, x.device)
    out = branch(x.index_select(0, rows), kept_shapes)
    if torch.compiler.is_compiling():  # the compiler sees that nothing has to be kept
        return x.index_add(0, rows, _scale_up(out, shapes, kept_shapes).to(x.dtype))
    added: Tensor = _AddRows.apply(x, out, rows, shapes, kept_shapes)
    return added


class _AddRows(torch.autograd.Function):
    """x.index_add(0, rows, out scaled up), which autograd would keep `out` for, to know its shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor, rows: Tensor, shapes: Shapes, kept_shapes: Shapes) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shapes, ctx.dtype = (shapes, kept_shapes), out.dtype
        return x.index_add(0, rows, _scale_up(out, shapes, kept_shapes).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        return gradient, _scale_up(gradient.index_select(0, rows).to(ctx.dtype), *ctx.shapes), None, None, None


def num_kept(crops: int, drop: float) -> int:
    """How many of `crops` run through the branch."""
    return max(int(crops * (1 - drop)), 1)


def _draw_rows(shapes: Shapes, drop: float, device: torch.device) -> tuple[Int[Tensor, " kept"], Shapes]:
    rows, kept_shapes, start = [], [], 0
    for crops, tokens in shapes:
        kept = torch.randperm(crops, device=device)[: num_kept(crops, drop)]
        rows.append((start + kept[:, None] * tokens + torch.arange(tokens, device=device)).flatten())
        kept_shapes.append((kept.numel(), tokens))
        start += crops * tokens
    return torch.cat(rows), tuple(kept_shapes)


def _scale_up(out: Tensor, shapes: Shapes, kept_shapes: Shapes) -> Tensor:
    scales = [crops / kept for (crops, _), (kept, _) in zip(shapes, kept_shapes, strict=True)]
    if len(set(scales)) == 1:
        return out * scales[0]
    parts = out.split([kept * tokens for kept, tokens in kept_shapes])
    return torch.cat([part * scale for part, scale in zip(parts, scales, strict=True)])
