"""Where DCNv3 samples: the settings of the operator, its lattice of points, and which shapes fit together."""

from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Pair: TypeAlias = int | tuple[int, int]
"""A number for rows and columns alike, or (rows, columns)."""


class Geometry(NamedTuple):
    """The settings of DCNv3; pairs are (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_scale: float
    remove_center: bool

    @property
    def num_points(self) -> int:
        """Points that are sampled for one output pixel and group."""
        return self.kernel[0] * self.kernel[1] - int(self.remove_center)

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output."""
        rows, columns = (
            (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for side, kernel, stride, padding, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        return rows, columns

    def points(self) -> list[tuple[int, int]]:
        """(row, column) of every point beside the middle of its kernel; columns outermost, as in published weights.

        The middle of an even kernel is the earlier of the two.
        """
        rows, columns = (
            [index * dilation - dilation * (kernel - 1) // 2 for index in range(kernel)]
            for kernel, dilation in zip(self.kernel, self.dilation, strict=True)
        )
        points = [(row, column) for column in columns for row in rows]
        if self.remove_center:
            del points[len(points) // 2]
        return points

    def origin(self) -> tuple[int, int]:
        """(row, column) in the input, which may lie before it, of the kernel's middle for the first output pixel."""
        row, column = (
            dilation * (kernel - 1) // 2 - padding
            for kernel, padding, dilation in zip(self.kernel, self.padding, self.dilation, strict=True)
        )
        return row, column

    def lattice(self, rows: int, columns: int, like: Tensor) -> tuple[Float[Tensor, "pixels points"], ...]:
        """(row, column) of every sample where all offsets are 0, for an output of rows x columns."""
        points = like.new_tensor(self.points()) * self.offset_scale
        (first_row, first_column), (down, right) = self.origin(), self.stride
        row = torch.arange(rows, dtype=like.dtype, device=like.device) * down + first_row
        column = torch.arange(columns, dtype=like.dtype, device=like.device) * right + first_column
        row_of, column_of = row.repeat_interleave(columns), column.repeat(rows)  # [pixels]
        return row_of[:, None] + points[:, 0], column_of[:, None] + points[:, 1]

    def packed(self) -> list[int]:
        """All but the offset scale as one list: what an operator's schema can hold."""
        pairs = [*self.kernel, *self.stride, *self.padding, *self.dilation]
        return [*pairs, self.groups, int(self.remove_center)]


def unpacked(numbers: list[int], offset_scale: float) -> Geometry:
    """The settings that `Geometry.packed` wrote down."""
    kernel, stride, padding, dilation = ((numbers[i], numbers[i + 1]) for i in range(0, 8, 2))
    return Geometry(kernel, stride, padding, dilation, numbers[8], offset_scale, bool(numbers[9]))


def pair(value: Pair) -> tuple[int, int]:
    """(rows, columns)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def check_shapes(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> None:
    """ValueError, which names the shapes, where they do not fit the settings."""
    if geometry.remove_center and (geometry.kernel[0] != geometry.kernel[1] or geometry.kernel[0] % 2 == 0):
        raise ValueError(f"a {geometry.kernel} kernel has no centre to remove: take an odd, square one")
    batch, height, width, channels = input.shape
    if channels % geometry.groups:
        raise ValueError(f"{channels} channels do not part into {geometry.groups} groups")
    rows, columns = geometry.out_size(height, width)
    points = geometry.groups * geometry.num_points
    if rows < 1 or columns < 1:
        raise ValueError(f"a {height}x{width} input is smaller than the kernel; pad it, or take larger images")
    for name, tensor, numbers in (("offset", offset, 2 * points), ("mask", mask, points)):
        if tensor.shape != (batch, rows, columns, numbers):
            raise ValueError(f"{name} is {list(tensor.shape)}, should be {[batch, rows, columns, numbers]}")
