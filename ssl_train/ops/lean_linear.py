"""Linear layers after a norm or a GELU that keep the smaller input for the backward pass, and make the rest anew.

Autograd keeps what a layer norm or a GELU gives, because the linear layer after it wants it for its weights' gradient:
six of the twenty widths that a block keeps for a token. Making them again costs an elementwise pass. The numbers are
the same to the last bit. What is compiled needs none of this (the compiler makes them again by itself), and under
autocast the plain form is taken.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def norm_linear(x: Float[Tensor, "total dim"], norm: nn.LayerNorm, linear: nn.Linear) -> Float[Tensor, "total out"]:
    """linear(norm(x)); keeps x, and two numbers a row."""
    if not _pays(x):
        out: Tensor = linear(norm(x))
        return out
    kept: Tensor = _NormLinear.apply(x, norm.weight, norm.bias, norm.eps, linear.weight, linear.bias)
    return kept


def gelu_linear(x: Float[Tensor, "total dim"], linear: nn.Linear) -> Float[Tensor, "total out"]:
    """linear(gelu(x)); keeps x."""
    if not _pays(x):
        out: Tensor = linear(F.gelu(x))
        return out
    kept: Tensor = _GeluLinear.apply(x, linear.weight, linear.bias)
    return kept


def _pays(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type) and not torch.compiler.is_compiling()
    )


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
        normed, mean, scale = torch.native_layer_norm(x, (x.shape[-1],), gain, shift, eps)
        ctx.save_for_backward(x, gain, shift, mean, scale, weight)
        ctx.eps = eps
        return F.linear(normed, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, mean, scale, weight = ctx.saved_tensors
        normed = torch.native_layer_norm(x, (x.shape[-1],), gain, shift, ctx.eps)[0]
        of_weight, of_bias, of_normed = _linear_gradients(gradient, normed, weight)
        of_x, of_gain, of_shift = torch.ops.aten.native_layer_norm_backward(
            of_normed, x, (x.shape[-1],), mean, scale, gain, shift, [True, True, True]
        )
        return of_x, of_gain, of_shift, None, of_weight, of_bias


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        of_weight, of_bias, of_activated = _linear_gradients(gradient, F.gelu(x), weight)
        return torch.ops.aten.gelu_backward(of_activated, x), of_weight, of_bias


def _linear_gradients(gradient: Tensor, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = gradient.reshape(-1, gradient.shape[-1])
    return rows.T @ inputs.reshape(-1, inputs.shape[-1]), rows.sum(0), gradient @ weight
