"""DCNv3 in plain PyTorch, for any device: weighted sums of rows of channels, no sample standing in memory.

A group's channels at one pixel are a row of 16 or 32 numbers that lie together. The input is framed by zeros two pixels
wide and sampling locations are held inside the frame: no corner needs a check of its own, and one index serves all
four, whose rows lie at fixed distances. The output is then a bag of rows per pixel and group (`embedding_bag`). In the
backward pass, which makes locations anew, the input's gradient is a bag of upstream rows per input row, once samples
are sorted by where they fell: no two writes meet, and the sum has one order on every device.
"""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_train.ops.dcnv3_geometry import Geometry

BLOCK_SAMPLES = {"cpu": 1 << 16, "cuda": 1 << 21}
"""Samples that are computed together: what a CPU's cache holds; few launches on a GPU."""
_FRAME = 2  # pixels of zeros on every side: a sample held in the outer half has no value and no gradient

_RADIX_SORT = 1 << 15

# Output pixels that are computed together, of all that there are: some images whole, or a part of one.
_Block = tuple[slice, slice]

with warnings.catch_warnings():  # torch says once that CSR tensors are in beta; what is used of them here is tested
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.long), torch.tensor([]), (1, 1))


class _Frame(NamedTuple):
    """Sizes of the input, which is framed, and of the output."""

    height: int
    width: int
    groups: int
    points: int
    out: tuple[int, int]

    @property
    def framed_width(self) -> int:
        return self.width + 2 * _FRAME

    @property
    def rows_per_image(self) -> int:
        return (self.height + 2 * _FRAME) * self.framed_width * self.groups

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Distance of the four corners' rows from the upper left one."""
        down = self.framed_width * self.groups
        return 0, self.groups, down, down + self.groups


class _Samples(NamedTuple):
    """Where a block samples; all [bags, points], a bag being one group at one output pixel."""

    row: Tensor
    """Row of the framed input that holds the upper left corner."""
    right: Tensor
    """Share of the right neighbours, in [0, 1)."""
    below: Tensor
    """Share of the lower neighbours, in [0, 1)."""

    def corner_weights(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bilinear weights times the mask, row by row of the four corners."""
        lower = mask * self.below
        lower_right = lower * self.right
        upper_right = torch.addcmul(-lower_right, mask, self.right)
        return mask - lower - upper_right, upper_right, lower - lower_right, lower_right


def forward(input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry) -> Tensor:
    """The operator, in the dtype of the input; computed in float32, or in float64 for a float64 input."""
    frame, compute = _frame(input, geometry), _compute_dtype(input)
    lattice = geometry.lattice(*frame.out, like=input.new_empty(0, dtype=compute))
    out = input.new_empty(len(input), frame.out[0] * frame.out[1], input.shape[-1])
    offset, mask = _by_point(offset, frame, 2), _by_point(mask, frame, 1)
    for images, blocks in _blocks(input, frame):
        table = _framed(input[images], frame, compute)
        for block in blocks:
            samples = _sample(offset[block], lattice, block, frame, geometry.offset_scale)
            weights = samples.corner_weights(_bags(mask[block], compute).squeeze(-1))
            value: Tensor | float = 0.0
            for start, weight in zip(frame.corners, weights, strict=True):
                value = value + F.embedding_bag(samples.row, table[start:], mode="sum", per_sample_weights=weight)
            _write(out, block, value)
    return out.unflatten(1, frame.out)


def backward(
    grad: Tensor, input: Tensor, offset: Tensor, mask: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, offset and mask, each in its own dtype."""
    frame, compute = _frame(input, geometry), _compute_dtype(input)
    lattice = geometry.lattice(*frame.out, like=input.new_empty(0, dtype=compute))
    grad_input, grad_offset, grad_mask = (x.new_empty(x.shape) for x in (input, offset, mask))
    by_offset, by_mask = _by_point(grad_offset, frame, 2), _by_point(grad_mask, frame, 1)
    offset, mask = _by_point(offset, frame, 2), _by_point(mask, frame, 1)
    grad = grad.flatten(1, 2).unflatten(-1, (frame.groups, -1))  # [batch, pixels, groups, width]
    for images, blocks in _blocks(input, frame):
        table = _framed(input[images], frame, compute)
        sums = torch.zeros_like(table)
        for block in blocks:
            samples = _sample(offset[block], lattice, block, frame, geometry.offset_scale)
            weight, upstream = _bags(mask[block], compute).squeeze(-1), _bags(grad[block], compute).squeeze(1)
            products = _products(table, samples.row, upstream, frame)
            by_point = _sample_gradients(products, samples, weight, geometry.offset_scale)
            for place, values in zip((by_offset[..., 0], by_offset[..., 1], by_mask[..., 0]), by_point, strict=True):
                _write(place, block, values)
            _spread(sums, samples, weight, upstream, frame)
        framed = sums.view(-1, frame.height + 2 * _FRAME, frame.framed_width, input.shape[-1])
        grad_input[images] = framed[:, _FRAME:-_FRAME, _FRAME:-_FRAME].to(input.dtype)
    return grad_input, grad_offset, grad_mask


def _sample(offset: Tensor, lattice: tuple[Tensor, ...], block: _Block, frame: _Frame, scale: float) -> _Samples:
    """Locations, held inside the frame, as a row of the table and two shares."""
    below, right = (
        torch.add(base[block[1], None], displacement, alpha=scale).clamp_(-_FRAME, side)
        for base, displacement, side in (
            (lattice[0], offset[..., 1].to(lattice[0].dtype), frame.height),
            (lattice[1], offset[..., 0].to(lattice[1].dtype), frame.width),
        )
    )  # [images, pixels, groups, points]
    top, left = below.floor(), right.floor()
    below -= top
    right -= left
    pixel = top.to(torch.int32).add_(_FRAME).mul_(frame.framed_width).add_(left.to(torch.int32)).add_(_FRAME)
    # What is no number has no row; its shares carry it on into the output.
    pixel.clamp_(0, frame.rows_per_image // frame.groups - frame.framed_width - 2)
    group = torch.arange(frame.groups, dtype=torch.int32, device=pixel.device)[:, None]
    image = torch.arange(len(pixel), dtype=torch.int32, device=pixel.device).view(-1, 1, 1, 1)
    row = pixel.mul_(frame.groups).add_(group).add_(image * frame.rows_per_image)
    return _Samples(row.flatten(0, 2), right.flatten(0, 2), below.flatten(0, 2))


def _products(table: Tensor, row: Tensor, upstream: Tensor, frame: _Frame) -> list[Tensor]:
    """Upstream gradient times the row of each of the four corners, summed over channels: each [bags, points]."""
    if not table.is_cpu:
        rows = row.flatten()
        return [
            (table[start:].index_select(0, rows).view(*row.shape, -1) @ upstream[..., None]).squeeze(-1)
            for start in frame.corners
        ]
    # Entries of upstream @ table.T where a sparse matrix has its own: the only fused form of it that torch has.
    ends = torch.arange(0, row.numel() + 1, frame.points, dtype=row.dtype)
    columns, values = row.flatten(), upstream.new_zeros(row.numel())
    products = []
    for start in frame.corners:
        shape = (len(row), len(table) - start)
        wanted = torch.sparse_csr_tensor(ends, columns, values, shape, check_invariants=False)
        product = torch.sparse.sampled_addmm(wanted, upstream, table[start:].t(), beta=0.0)
        products.append(product.values().view(row.shape))
    return products


def _sample_gradients(
    products: list[Tensor], samples: _Samples, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of offsets in x, offsets in y and masks, each [bags, points]."""
    upper_left, upper_right, lower_left, lower_right = products
    upper = torch.lerp(upper_left, upper_right, samples.right)
    lower = torch.lerp(lower_left, lower_right, samples.right)
    across = torch.lerp(upper_right - upper_left, lower_right - lower_left, samples.below)
    steepness = mask * scale
    return across * steepness, (lower - upper) * steepness, torch.lerp(upper, lower, samples.below)


def _spread(sums: Tensor, samples: _Samples, mask: Tensor, upstream: Tensor, frame: _Frame) -> None:
    """Add to every row of `sums` what the samples that fell on it, as any of their corners, send back."""
    rows, order = _sorted(samples.row.flatten())
    first, last = int(rows[0]), int(rows[-1])
    counts = torch.bincount(rows - first, minlength=last - first + 1)
    starts, bags = counts.cumsum(0) - counts, order // frame.points
    for start, weight in zip(frame.corners, samples.corner_weights(mask), strict=True):
        sorted_weight = weight.flatten().index_select(0, order)
        sums[first + start : last + start + 1] += F.embedding_bag(
            bags, upstream, starts, mode="sum", per_sample_weights=sorted_weight
        )


def _sorted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in rising order, and where each was. Torch's radix sort, many times faster, begins at so many numbers."""
    missing = _RADIX_SORT - len(rows)
    if not rows.is_cpu or not 0 < missing < 3 * len(rows):
        return rows.sort(stable=True)
    ordered, order = F.pad(rows, (0, missing), value=torch.iinfo(rows.dtype).max).sort(stable=True)
    return ordered[: len(rows)], order[: len(rows)]


def _framed(images: Tensor, frame: _Frame, dtype: torch.dtype) -> Tensor:
    """[rows, width of a group], with zeros around every image."""
    framed = F.pad(images.to(dtype), (0, 0, _FRAME, _FRAME, _FRAME, _FRAME))
    return framed.view(-1, images.shape[-1] // frame.groups)


def _frame(input: Tensor, geometry: Geometry) -> _Frame:
    _, height, width, _ = input.shape
    return _Frame(height, width, geometry.groups, geometry.num_points, geometry.out_size(height, width))


def _by_point(numbers: Tensor, frame: _Frame, per_point: int) -> Tensor:
    """[batch, pixels, groups, points, per_point], a view."""
    return numbers.flatten(1, 2).unflatten(-1, (frame.groups, frame.points, per_point))


def _bags(block: Tensor, dtype: torch.dtype) -> Tensor:
    """[bags, ...] of [images, pixels, groups, ...], in the dtype of the computation."""
    return block.to(dtype).flatten(0, 2)


def _write(whole: Tensor, block: _Block, values: Tensor | float) -> None:
    """Put a block's values in their place, in the dtype that the place has."""
    place = whole[block]
    place.copy_(torch.as_tensor(values).view(place.shape))


def _blocks(input: Tensor, frame: _Frame) -> Iterator[tuple[slice, list[_Block]]]:
    """Images to frame together, and the blocks to compute on them."""
    num_pixels = frame.out[0] * frame.out[1]
    samples = BLOCK_SAMPLES.get(input.device.type, BLOCK_SAMPLES["cuda"])
    pixels_per_block = max(samples // (frame.groups * frame.points), 1)
    step = max(pixels_per_block // num_pixels, 1)
    for start in range(0, len(input), step):
        images = slice(start, min(start + step, len(input)))
        firsts = range(0, num_pixels, pixels_per_block)
        yield images, [(images, slice(first, min(first + pixels_per_block, num_pixels))) for first in firsts]


def _compute_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32
