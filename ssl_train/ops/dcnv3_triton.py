"""DCNv3 as two Triton kernels, in float32, float16 or bfloat16, summed up in float32.

A program takes a block of bags (a group at an output pixel) and all of their channels, which lie together. The backward
kernel makes the gradients of offsets and masks without atomics, as each is one bag's own; those of the input meet where
samples fell, and are added atomically, but for corners of weight 0 (at offsets of 0, as a network begins, three of
four); on Hopper four channels at a time. TRITON_INTERPRET=1 runs the kernels on CPU tensors: slow, for tests.
"""

# mypy: disable-error-code="no-untyped-def"

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssl_train.ops.dcnv3_geometry import Geometry

_TILE = 1024  # numbers that a program holds of each corner: 8 a thread
_NUM_WARPS = 4


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """The operator, in the dtype of the input."""
    input, offset, mask = input.contiguous(), offset.contiguous(), mask.contiguous()
    out = input.new_empty(*offset.shape[:-1], input.shape[-1])
    grid, sizes, constants = _launch(input, out, geometry)
    with _on_device(input):
        _forward_kernel[grid](input, offset, mask, out, *sizes, **constants)
    return out


def backward(
    grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, offset and mask, each in its own dtype."""
    grad, input, offset, mask = grad.contiguous(), input.contiguous(), offset.contiguous(), mask.contiguous()
    grad_input = torch.zeros_like(input, dtype=torch.float32)
    grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
    grid, sizes, constants = _launch(input, grad, geometry)
    with _on_device(input):
        _backward_kernel[grid](grad, input, offset, mask, grad_input, grad_offset, grad_mask, *sizes, **constants)
    return grad_input.to(input.dtype), grad_offset, grad_mask


def _launch(input: Tensor, out: Tensor, geometry: Geometry) -> tuple[tuple[int], tuple[Any, ...], dict[str, int]]:
    """Grid, numbers and compile-time constants that both kernels take."""
    _, height, width, channels = input.shape
    batch, rows, columns, _ = out.shape
    num_bags, group_width = batch * rows * columns * geometry.groups, channels // geometry.groups
    padded_width = triton.next_power_of_2(group_width)
    block = max(_TILE // padded_width, 1)
    (first_row, first_column), (corner_row, corner_column) = geometry.origin(), _first_point(geometry)
    sizes = (num_bags, height, width, rows, columns, geometry.groups, first_row, first_column, geometry.offset_scale)
    constants = {
        "DOWN": geometry.stride[0],
        "RIGHT": geometry.stride[1],
        "DILATION_DOWN": geometry.dilation[0],
        "DILATION_RIGHT": geometry.dilation[1],
        "CORNER_ROW": corner_row,
        "CORNER_COLUMN": corner_column,
        "KERNEL_ROWS": geometry.kernel[0],
        "POINTS": geometry.num_points,
        "REMOVED": geometry.num_points // 2 if geometry.remove_center else geometry.num_points,
        "WIDTH": group_width,
        "PADDED_WIDTH": padded_width,
        "BLOCK": block,
        "num_warps": _NUM_WARPS,
    }
    return (triton.cdiv(num_bags, block),), sizes, constants


def _first_point(geometry: Geometry) -> tuple[int, int]:
    """(row, column) of the kernel's first point beside its middle."""
    row, column = (
        -(dilation * (kernel - 1) // 2) for kernel, dilation in zip(geometry.kernel, geometry.dilation, strict=True)
    )
    return row, column


def _on_device(input: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(input.device) if input.is_cuda else nullcontext()


@triton.jit
def _bags(num_bags, height, width, rows, columns, groups, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
          BLOCK: tl.constexpr):  # fmt: skip
    """Of this program's bags: their numbers, which exist, output pixel, where their image and channels begin."""
    bag = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = bag < num_bags
    pixel = bag // groups
    row = (pixel // columns) % rows
    image = pixel // (rows * columns)
    channel = tl.arange(0, PADDED_WIDTH)
    first = image * height * width * groups * WIDTH + (bag % groups) * WIDTH
    tile_exists = exists[:, None] & (channel < WIDTH)[None, :]
    return bag, exists, row.to(tl.float32), (pixel % columns).to(tl.float32), first[:, None] + channel, tile_exists


@triton.jit
def _locate(offset, mask, bag, exists, row, column, first_row, first_column, scale, point: tl.constexpr,
            DOWN: tl.constexpr, RIGHT: tl.constexpr, DILATION_DOWN: tl.constexpr, DILATION_RIGHT: tl.constexpr,
            CORNER_ROW: tl.constexpr, CORNER_COLUMN: tl.constexpr, KERNEL_ROWS: tl.constexpr, POINTS: tl.constexpr,
            REMOVED: tl.constexpr):  # fmt: skip
    """Of a kernel's point: upper left corner, the shares of the right and the lower neighbours, and the mask."""
    place: tl.constexpr = point + 1 if point >= REMOVED else point
    kernel_row: tl.constexpr = place % KERNEL_ROWS * DILATION_DOWN + CORNER_ROW
    kernel_column: tl.constexpr = place // KERNEL_ROWS * DILATION_RIGHT + CORNER_COLUMN
    sample = bag * POINTS + point
    offset_x = tl.load(offset + 2 * sample, mask=exists, other=0.0).to(tl.float32)
    offset_y = tl.load(offset + 2 * sample + 1, mask=exists, other=0.0).to(tl.float32)
    modulation = tl.load(mask + sample, mask=exists, other=0.0).to(tl.float32)
    y = row * DOWN + first_row + (kernel_row + offset_y) * scale
    x = column * RIGHT + first_column + (kernel_column + offset_x) * scale
    top, left = tl.floor(y), tl.floor(x)
    return top, left, x - left, y - top, modulation


@triton.jit
def _corner(top, left, down: tl.constexpr, right: tl.constexpr, height, width, groups, start, tile_exists,
            WIDTH: tl.constexpr):  # fmt: skip
    """Places of a corner's channels in the input, and which of them exist. What is no number exists nowhere."""
    y, x = top + down, left + right
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = tl.where(inside, y, 0.0).to(tl.int32) * width + tl.where(inside, x, 0.0).to(tl.int32)
    return start + (pixel.to(tl.int64) * groups * WIDTH)[:, None], tile_exists & inside[:, None]


@triton.jit
def _forward_kernel(input, offset, mask, out, num_bags, height, width, rows, columns, groups, first_row, first_column,
                    scale, DOWN: tl.constexpr, RIGHT: tl.constexpr, DILATION_DOWN: tl.constexpr,
                    DILATION_RIGHT: tl.constexpr, CORNER_ROW: tl.constexpr, CORNER_COLUMN: tl.constexpr,
                    KERNEL_ROWS: tl.constexpr, POINTS: tl.constexpr, REMOVED: tl.constexpr, WIDTH: tl.constexpr,
                    PADDED_WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    bag, exists, row, column, start, tile_exists = _bags(
        num_bags, height, width, rows, columns, groups, WIDTH, PADDED_WIDTH, BLOCK
    )
    value = tl.zeros((BLOCK, PADDED_WIDTH), dtype=tl.float32)
    for point in tl.static_range(POINTS):
        top, left, from_right, from_below, modulation = _locate(
            offset, mask, bag, exists, row, column, first_row, first_column, scale, point,
            DOWN, RIGHT, DILATION_DOWN, DILATION_RIGHT, CORNER_ROW, CORNER_COLUMN, KERNEL_ROWS, POINTS, REMOVED,
        )  # fmt: skip
        for down in tl.static_range(2):
            for right in tl.static_range(2):
                place, present = _corner(top, left, down, right, height, width, groups, start, tile_exists, WIDTH)
                share = (from_below if down else 1.0 - from_below) * (from_right if right else 1.0 - from_right)
                value += tl.load(input + place, mask=present, other=0.0).to(tl.float32) * (share * modulation)[:, None]
    place = bag[:, None] * WIDTH + tl.arange(0, PADDED_WIDTH)[None, :]
    tl.store(out + place, value, mask=tile_exists)


@triton.jit
def _backward_kernel(grad, input, offset, mask, grad_input, grad_offset, grad_mask, num_bags, height, width, rows,
                     columns, groups, first_row, first_column, scale, DOWN: tl.constexpr, RIGHT: tl.constexpr,
                     DILATION_DOWN: tl.constexpr, DILATION_RIGHT: tl.constexpr, CORNER_ROW: tl.constexpr,
                     CORNER_COLUMN: tl.constexpr, KERNEL_ROWS: tl.constexpr, POINTS: tl.constexpr,
                     REMOVED: tl.constexpr, WIDTH: tl.constexpr, PADDED_WIDTH: tl.constexpr,
                     BLOCK: tl.constexpr):  # fmt: skip
    bag, exists, row, column, start, tile_exists = _bags(
        num_bags, height, width, rows, columns, groups, WIDTH, PADDED_WIDTH, BLOCK
    )
    place = bag[:, None] * WIDTH + tl.arange(0, PADDED_WIDTH)[None, :]
    upstream = tl.load(grad + place, mask=tile_exists, other=0.0).to(tl.float32)
    for point in tl.static_range(POINTS):
        top, left, from_right, from_below, modulation = _locate(
            offset, mask, bag, exists, row, column, first_row, first_column, scale, point,
            DOWN, RIGHT, DILATION_DOWN, DILATION_RIGHT, CORNER_ROW, CORNER_COLUMN, KERNEL_ROWS, POINTS, REMOVED,
        )  # fmt: skip
        by_mask = tl.zeros((BLOCK,), dtype=tl.float32)
        by_x = tl.zeros((BLOCK,), dtype=tl.float32)
        by_y = tl.zeros((BLOCK,), dtype=tl.float32)
        for down in tl.static_range(2):
            for right in tl.static_range(2):
                place, present = _corner(top, left, down, right, height, width, groups, start, tile_exists, WIDTH)
                of_row = from_below if down else 1.0 - from_below
                of_column = from_right if right else 1.0 - from_right
                product = tl.sum(tl.load(input + place, mask=present, other=0.0).to(tl.float32) * upstream, axis=1)
                by_mask += of_row * of_column * product
                by_x += of_row * (product if right else -product)
                by_y += of_column * (product if down else -product)
                share = (of_row * of_column * modulation)[:, None]
                tl.atomic_add(grad_input + place, share * upstream, mask=present & (share != 0.0), sem="relaxed")
        sample = bag * POINTS + point
        tl.store(grad_mask + sample, by_mask, mask=exists)
        tl.store(grad_offset + 2 * sample, by_x * modulation * scale, mask=exists)
        tl.store(grad_offset + 2 * sample + 1, by_y * modulation * scale, mask=exists)
