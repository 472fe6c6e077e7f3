"""Random inputs of DCNv3, and as a command (with TRITON_INTERPRET=1): Triton's kernels beside the plain form."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.ops.dcnv3 import Form, dcnv3
from ssl_train.ops.dcnv3_geometry import Geometry

GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1), (1, 1), 3, 1.0, False),
    Geometry((2, 5), (1, 2), (0, 3), (2, 1), 2, 0.7, False),
    Geometry((3, 3), (2, 1), (1, 2), (1, 2), 2, 2.0, True),
    Geometry((4, 1), (1, 1), (3, 0), (1, 1), 1, 1.0, False),
    Geometry((5, 5), (1, 1), (2, 2), (1, 1), 1, 1.5, True),
]


class Inputs(NamedTuple):
    """What goes in, and what comes back from above."""

    input: Tensor
    offset: Tensor
    mask: Tensor
    grad: Tensor


def draw(geometry: Geometry, dtype: torch.dtype, seed: int, *, side: int = 7) -> Inputs:
    """Two images of side x (side - 1) pixels; points lie up to a few pixels off, some outside."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = geometry.out_size(side, side - 1)
    points, channels = geometry.groups * geometry.num_points, 3 * geometry.groups

    def normal(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)

    return Inputs(
        normal(side, side - 1, channels),
        2 * normal(rows, columns, 2 * points),
        normal(rows, columns, points),
        normal(rows, columns, channels),
    )


def results(function: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: Inputs) -> list[Tensor]:
    """Output, and the gradients of input, offset and mask."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs[:3]]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, inputs.grad)]


def by_form(form: Form, geometry: Geometry, inputs: Inputs) -> list[Tensor]:
    """`results` of one form."""
    return results(lambda *x: dcnv3(*x, **geometry._asdict(), form=form), inputs)


def main() -> None:
    """AssertionError where Triton's kernels say otherwise than the plain form."""
    for geometry in GEOMETRIES[:3]:
        inputs = draw(geometry, torch.float32, 0, side=5)
        for one, other in zip(*(by_form(form, geometry, inputs) for form in ("triton", "plain")), strict=True):
            assert_close(one, other, rtol=1e-4, atol=2e-5)
        halves = Inputs(*(tensor.half() for tensor in inputs))
        for one, other in zip(*(by_form(form, geometry, halves) for form in ("triton", "plain")), strict=True):
            assert one.dtype == torch.float16
            assert_close(one, other, rtol=4e-3, atol=4e-3)


if __name__ == "__main__":
    main()
