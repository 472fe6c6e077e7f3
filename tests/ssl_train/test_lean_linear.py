"""Linear layers that keep less give the outputs and the gradients of those that keep all."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.ops.lean_linear import gelu_linear, norm_linear


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


def test_both_are_bit_for_bit_what_autograd_gives_and_keep_less() -> None:
    torch.manual_seed(0)
    norm, first, second = nn.LayerNorm(24, eps=1e-6), nn.Linear(24, 96), nn.Linear(96, 24)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(7, 24, requires_grad=True)
    weights = [x, *norm.parameters(), *first.parameters(), *second.parameters()]

    def lean() -> Tensor:
        return gelu_linear(norm_linear(x, norm, first), second)

    def plain() -> Tensor:
        return second(F.gelu(first(norm(x))))  # type: ignore[no-any-return]

    assert_close(lean(), plain(), rtol=0, atol=0)
    target = torch.randn(7, 24)
    expected = gradients((plain() * target).sum(), weights)
    assert_close(gradients((lean() * target).sum(), weights), expected, rtol=0, atol=0)
    assert kept_bytes(plain) - kept_bytes(lean) >= x.nbytes * 5  # the normed row, and four times its width activated


def test_in_double_precision_the_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 5).double()
    x = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: norm_linear(rows, norm, linear), (x,))
    assert torch.autograd.gradcheck(lambda rows: gelu_linear(rows, linear), (x,))


def test_frozen_weights_and_autocast_take_no_harm() -> None:
    norm, linear = nn.LayerNorm(6), nn.Linear(6, 5).requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)
    norm_linear(x, norm, linear).sum().backward()
    assert linear.weight.grad is None
    assert x.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(gelu_linear(x, linear), linear(F.gelu(x)), rtol=0, atol=0)
