"""Linear layers that keep less give the outputs and the gradients of those that keep all."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.ops.lean_linear import gelu_linear, norm_linear, scaled_linear


def gradients(loss: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, tensors))


def kept_bytes(build: object) -> int:
    """Bytes of distinct storages that autograd keeps, weights left out."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        build()  # type: ignore[operator]
    return sum(seen.values())


@pytest.mark.parametrize("with_gain", [False, True])
def test_outputs_are_bit_for_bit_what_autograd_gives_gradients_too_and_less_is_kept(with_gain: bool) -> None:
    torch.manual_seed(0)
    norm, first, second, third = nn.LayerNorm(24, eps=1e-6), nn.Linear(24, 96), nn.Linear(96, 24), nn.Linear(24, 24)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(7, 24, requires_grad=True)
    gains = [nn.Parameter(torch.randn(24)), nn.Parameter(torch.randn(24))] if with_gain else [None, None]
    modules = (norm, first, second, third)
    weights = [x, *(one for module in modules for one in module.parameters()), *(g for g in gains if g is not None)]

    def lean() -> Tensor:
        return scaled_linear(gelu_linear(norm_linear(x, norm, first), second, gains[0]), third, gains[1])

    def plain() -> Tensor:
        out = second(F.gelu(first(norm(x))))
        out = third(out if gains[0] is None else out * gains[0])
        return out if gains[1] is None else out * gains[1]

    assert_close(lean(), plain(), rtol=0, atol=0)
    target = torch.randn(7, 24)
    expected = gradients((plain() * target).sum(), weights)
    found = gradients((lean() * target).sum(), weights)
    if with_gain:
        assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert_close(found, expected, rtol=0, atol=0)
    # the normed row, and four times its width activated; with gains what either is multiplied with
    assert kept_bytes(plain) - kept_bytes(lean) >= x.nbytes * (7 if with_gain else 5)


def test_in_double_precision_the_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 5).double()
    gain = torch.randn(5, dtype=torch.double, requires_grad=True)
    x = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: norm_linear(rows, norm, linear), (x,))
    assert torch.autograd.gradcheck(lambda rows, _w, _b: gelu_linear(rows, linear), (x, linear.weight, linear.bias))
    assert torch.autograd.gradcheck(
        lambda rows, by, _w, _b: gelu_linear(rows, linear, by), (x, gain, linear.weight, linear.bias)
    )
    assert torch.autograd.gradcheck(
        lambda rows, by, _w, _b: scaled_linear(rows, linear, by), (x, gain, linear.weight, linear.bias)
    )


def test_frozen_weights_and_autocast_take_no_harm() -> None:
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 5).requires_grad_(False)
    gain = torch.randn(5)
    x = torch.randn(3, 6, requires_grad=True)
    gelu_linear(norm_linear(x, norm, nn.Linear(6, 6)), linear, gain).sum().backward()
    assert linear.weight.grad is None
    assert x.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(gelu_linear(x, linear, gain), linear(F.gelu(x)) * gain, rtol=0, atol=0)
        assert_close(scaled_linear(x, linear, gain), linear(x) * gain, rtol=0, atol=0)
