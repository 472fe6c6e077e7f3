"""DCNv3, InternImage's operator: a deformable convolution whose weights depend on the input (arXiv 2211.05778, 3.1).

One operator for torch, with two forms: plain PyTorch for any device, and Triton kernels where Triton is installed and
the input lies on a CUDA device. Compilation sees one node, and sharding none of it: it has no weights.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops import dcnv3_plain
from ssl_train.ops.dcnv3_geometry import Geometry, Pair, check_shapes, pair, unpacked

Form = Literal["auto", "plain", "triton"]


def dcnv3(
    input: Float[Tensor, "batch height width channels"],
    offset: Float[Tensor, "batch rows columns groups_points_2"],
    mask: Float[Tensor, "batch rows columns groups_points"],
    *,
    kernel: Pair = 3,
    stride: Pair = 1,
    padding: Pair = 1,
    dilation: Pair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    form: Form = "auto",
) -> Float[Tensor, "batch rows columns channels"]:
    """y_g(p0) = sum over points k of mask_gk(p0) x_g(p0 + offset_scale (p_k + offset_gk(p0))), bilinear, 0 outside.

    `channels` part into `groups` that share offsets and masks. The last axis of `offset` is groups, points, then (x,
    y) in pixels of the input; that of `mask` is groups, points. Points run down the kernel's columns, and
    `offset_scale` moves the kernel's own points too. `remove_center` leaves the middle one out. Inputs may be of
    several dtypes; the sum is made in float32 (float64 for a float64 input), the output has the input's dtype.

    `auto` takes Triton for a CUDA input, where it can be imported; plain PyTorch else, for float64, and where torch is
    asked for deterministic algorithms (Triton adds up the input's gradient in no fixed order). Raises ValueError for
    shapes that do not fit, and RuntimeError where Triton is asked for and cannot run.

    Source: equation 2 of the paper; `textbook_dcnv3` is the same, read off it.
    """
    geometry = Geometry(
        pair(kernel), pair(stride), pair(padding), pair(dilation), groups, float(offset_scale), remove_center
    )
    check_shapes(input, offset, mask, geometry)
    out: Tensor = _dcnv3(input, offset, mask, geometry.packed(), geometry.offset_scale, form)
    return out


def textbook_dcnv3(
    input: Float[Tensor, "batch height width channels"],
    offset: Float[Tensor, "batch rows columns groups_points_2"],
    mask: Float[Tensor, "batch rows columns groups_points"],
    geometry: Geometry,
) -> Float[Tensor, "batch rows columns channels"]:
    """The same by torch's grid sampling, every sample of every channel standing in memory at once.

    What `dcnv3` is tested and measured against. Memory: num_points times the output, and as much for its gradient.
    """
    check_shapes(input, offset, mask, geometry)
    batch, height, width, _ = input.shape
    rows, columns = geometry.out_size(height, width)
    split = (batch, rows * columns, geometry.groups, geometry.num_points)
    row, column = geometry.lattice(rows, columns, like=offset)  # each [pixels, points]
    x, y = (geometry.offset_scale * offset).view(*split, 2).unbind(-1)
    # grid_sample measures in half images from the middle, and calls the first pixel's middle half a pixel.
    grid = torch.stack([(column[:, None] + x + 0.5) * 2 / width, (row[:, None] + y + 0.5) * 2 / height], dim=-1) - 1
    by_group = input.unflatten(-1, (geometry.groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    sampled = F.grid_sample(by_group, grid.transpose(1, 2).flatten(0, 1), align_corners=False)
    weighted = sampled * mask.view(split).transpose(1, 2).flatten(0, 1)[:, None]
    return weighted.sum(-1).view(batch, -1, rows, columns).permute(0, 2, 3, 1)


def chosen_form(input: Tensor, form: Form = "auto") -> Form:
    """The form that `dcnv3` takes for this input."""
    if form == "auto":
        half_or_single = input.dtype != torch.float64
        deterministic = torch.are_deterministic_algorithms_enabled()
        return "triton" if input.is_cuda and half_or_single and triton_imports() and not deterministic else "plain"
    if form == "triton" and not triton_imports():
        raise RuntimeError("dcnv3's Triton form needs the triton package, which is not installed; use form='auto'")
    return form


@cache
def triton_imports() -> bool:
    """Whether Triton is installed: it comes with torch's CUDA wheels alone."""
    return find_spec("triton") is not None


def _implementation(input: Tensor, form: str) -> Any:
    if chosen_form(input, form) == "triton":  # type: ignore[arg-type]
        from ssl_train.ops import dcnv3_triton

        return dcnv3_triton
    return dcnv3_plain


@torch.library.custom_op("ssl_train::dcnv3", mutates_args=())
def _dcnv3(input: Tensor, offset: Tensor, mask: Tensor, geometry: list[int], offset_scale: float, form: str) -> Tensor:
    with torch.autocast(input.device.type, enabled=False):
        out: Tensor = _implementation(input, form).forward(input, offset, mask, unpacked(geometry, offset_scale))
    return out


@torch.library.custom_op("ssl_train::dcnv3_backward", mutates_args=())
def _dcnv3_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: list[int],
    offset_scale: float,
    form: str,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(input.device.type, enabled=False):
        grads: tuple[Tensor, Tensor, Tensor] = _implementation(input, form).backward(
            grad, input, offset, mask, unpacked(geometry, offset_scale)
        )
    return grads


@_dcnv3.register_fake
def _(input: Tensor, offset: Tensor, mask: Tensor, geometry: list[int], offset_scale: float, form: str) -> Tensor:
    return input.new_empty(*offset.shape[:-1], input.shape[-1])


@_dcnv3_backward.register_fake
def _(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    mask: Tensor,
    geometry: list[int],
    offset_scale: float,
    form: str,
) -> tuple[Tensor, Tensor, Tensor]:
    one, two, three = (x.new_empty(x.shape) for x in (input, offset, mask))
    return one, two, three


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_dcnv3_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None, None


_dcnv3.register_autograd(_gradients, setup_context=_keep)
