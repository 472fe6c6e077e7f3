"""The join's products on a GPU: half precision to screen, the same decision in float64.

Products of 16-bit rows lie within 0.004 of the cosine, so a screen that much below the threshold loses no pair. They
are read once: the largest of every 64 says whether those 64 are looked at, so that what follows the matrix product
moves 2 bytes per pair and not the several passes of `nonzero` over a mask. A GPU wants cells of 16,384 rows and more
(`fit_quantiser(cell_rows=)`): a smaller product ends before the next one is launched.
"""

from typing import NamedTuple

import numpy as np
import torch

from tasks.algorithms.blocks import Array
from tasks.algorithms.join_edges import NO_EDGES, Cells, Edges, not_finite

Tensor = torch.Tensor

# Rounding two unit rows to 11 bits moves a product by at most 2 * 2**-11 (Cauchy-Schwarz), the result's rounding by
# 2**-12, sums of parts in half precision (cuBLAS may split the inner dimension) by a few more: 8 * 2**-11 in all.
SCREEN_ERROR = 8 * 2.0**-11
TILE_ROWS = 16_384
_CHUNK = 64
_EXACT_PAIRS = 16_384


class OnDevice(NamedTuple):
    """Rows on a device: rows [n, dim] as they came, half [n, dim] float16 of unit length, lengths [n] float64, cells
    [n, assignments] int32 (or [n, 0]). Memory: 4 * dim + 8 + 4 * assignments bytes per float16 row."""

    rows: Tensor
    half: Tensor
    lengths: Tensor
    cells: Tensor

    def subset(self, members: Tensor) -> "OnDevice":
        """Some of the rows."""
        return OnDevice(*(column.index_select(0, members) for column in self))


def to_device(vectors: Array, cells: Cells | None, device: str) -> OnDevice:
    """`vectors` [n, dim] float16 or float32 and their cells. Raises ValueError for rows that are not finite."""
    rows = torch.from_numpy(np.array(vectors)).to(device)
    lengths = rows.double().square().sum(dim=1).sqrt()
    if not bool(lengths.isfinite().all()):
        bad = int((~lengths.isfinite()).nonzero()[0, 0])
        raise not_finite(bad)
    half = (rows.double() / lengths.clamp_min(1e-300)[:, None]).half()
    known = np.zeros((len(vectors), 0), dtype=np.int32) if cells is None else np.array(cells)
    return OnDevice(rows, half, lengths, torch.from_numpy(known).to(device))


def pairs_on_device(
    left: OnDevice, right: OnDevice, threshold: float, *, upper: bool, cell: int = -1, tile_rows: int = TILE_ROWS
) -> Edges:
    """What `join_screen.pairs_between` returns, computed where the rows are.

    Memory beside the rows: 2.2 * tile_rows**2 bytes (0.6 GB), and 16,384 pairs of rows in float64 (0.2 GB at 512).
    """
    found = []
    for start in range(0, len(left.rows), tile_rows):
        for other in range(start if upper else 0, len(right.rows), tile_rows):
            i, j = _screened(left.half[start : start + tile_rows], right.half[other : other + tile_rows], threshold)
            i, j = i + start, j + other
            if upper:
                i, j = i[i < j], j[i < j]
            found.append(_decided(left, right, i, j, threshold, cell))
    return Edges(*(np.concatenate(column) for column in zip(*found, strict=True))) if found else NO_EDGES


def _screened(left: Tensor, right: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Pairs of half-precision rows [n, dim], [m, dim] whose cosine may be above the threshold: row and column."""
    num_right = len(right)
    width = -(-num_right // _CHUNK) * _CHUNK
    if width != num_right:
        right = torch.nn.functional.pad(right, (0, 0, 0, width - num_right))
    products = (left @ right.T).view(len(left), width // _CHUNK, _CHUNK)
    limit = threshold - SCREEN_ERROR
    row, chunk = (products.amax(dim=2) > limit).nonzero(as_tuple=True)
    hit, column = (products[row, chunk] > limit).nonzero(as_tuple=True)
    i, j = row[hit], chunk[hit] * _CHUNK + column
    return i[j < num_right], j[j < num_right]


def _decided(left: OnDevice, right: OnDevice, i: Tensor, j: Tensor, threshold: float, cell: int) -> Edges:
    """The pairs whose first shared cell is `cell` (any, if negative) and whose cosine is above the threshold."""
    parts = []
    for start in range(0, len(i), _EXACT_PAIRS):
        a, b = i[start : start + _EXACT_PAIRS], j[start : start + _EXACT_PAIRS]
        if cell >= 0:
            mine = _first_shared(left.cells[a], right.cells[b]) == cell
            a, b = a[mine], b[mine]
        cosine = (left.rows[a].double() * right.rows[b].double()).sum(dim=1) / (left.lengths[a] * right.lengths[b])
        above = cosine > threshold
        parts.append((a[above], b[above], cosine[above].float()))
    if not parts:
        return NO_EDGES
    return Edges(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


def _first_shared(left: Tensor, right: Tensor) -> Tensor:
    """The smallest cell in both lists [pairs, assignments] of each pair, or the largest number there is."""
    shared = (left[:, :, None] == right[:, None, :]).any(dim=2) & (left >= 0)  # [pairs, assignments]
    none = torch.iinfo(left.dtype).max
    return torch.where(shared, left, none).amin(dim=1)
