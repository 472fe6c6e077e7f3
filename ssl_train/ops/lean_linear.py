"""Linear layers that keep less for the backward pass than autograd would, and make the rest anew.

Autograd keeps what a layer norm or a GELU gives, because the linear layer after it wants it for its weights' gradient,
and what a linear layer gives, because the gain of a LayerScale after it does: eight of the twenty widths that a block
keeps for a token. The former cost an elementwise pass to make again. The latter is not needed: with y = W x + b and
g the gradient of gain * y, the gain's gradient is sum_i g_i y_i = sum_k W_k (g^T x)_k + b sum_i g_i, and g^T x is what
the weights' gradient asks for anyway. Outputs are the same to the last bit; so are gradients, to rounding with a gain.
What is compiled needs none of this (the compiler makes them again by itself), and under autocast the plain form is
taken.
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


def gelu_linear(
    x: Float[Tensor, "total dim"], linear: nn.Linear, gain: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "total out"]:
    """linear(gelu(x)), times `gain` if there is one; keeps x."""
    if not _pays(x):
        return _scaled(linear(F.gelu(x)), gain)
    kept: Tensor = _LeanLinear.apply(x, linear.weight, linear.bias, gain, True)
    return kept


def scaled_linear(
    x: Float[Tensor, "total dim"], linear: nn.Linear, gain: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "total out"]:
    """linear(x), times `gain` if there is one; keeps x."""
    if gain is None or not _pays(x):
        return _scaled(linear(x), gain)
    kept: Tensor = _LeanLinear.apply(x, linear.weight, linear.bias, gain, False)
    return kept


def _scaled(out: Tensor, gain: Tensor | None) -> Tensor:
    return out if gain is None else out * gain


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


class _LeanLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None, activates: bool) -> Tensor:
        ctx.activates = activates
        ctx.save_for_backward(x, weight, bias, gain)
        out = F.linear(F.gelu(x) if activates else x, weight, bias)
        return out if gain is None else out.mul_(gain)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, gain = ctx.saved_tensors
        inputs = F.gelu(x) if ctx.activates else x
        of_gain, shown = None, weight
        if gain is not None:
            shown = weight * gain[:, None]
        of_weight, of_bias, of_inputs = _linear_gradients(gradient, inputs, shown)
        if gain is not None:
            of_gain = torch.linalg.vecdot(weight, of_weight) + bias * of_bias
            of_weight, of_bias = of_weight.mul_(gain[:, None]), of_bias * gain
        of_x = torch.ops.aten.gelu_backward(of_inputs, x) if ctx.activates else of_inputs
        return of_x, of_weight, of_bias, of_gain, None


def _linear_gradients(gradient: Tensor, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = gradient.reshape(-1, gradient.shape[-1])
    return rows.T @ inputs.reshape(-1, inputs.shape[-1]), rows.sum(0), gradient @ weight
