"""k-means' pass over rows on a GPU (or any torch device), with torch alone: the same bound, the same exact products and
the same integer sums as on the CPU, so the same labels and sums."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from tasks.algorithms.blocks import Array, Floats

_TILE_ROWS = 8192
_TILE_COLUMNS = 16_384
_GROUP = 64  # columns whose largest product is found first
_PAIRS = 1 << 16
_GRID = 2.0**24
_RESULT_UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-10}


class Reach(NamedTuple):
    """How far rounding can move a product: the largest length of a centroid, how far rounding moved the farthest."""

    length: float
    error: float
    dim: int
    precision: str

    def slack(self, lengths: Any, errors: Any) -> Any:
        """Twice a bound on |low product - exact product| for rows of these lengths that rounding moved so far.

        x.c - x'.c' = x.(c - c') + (x - x').c'; then the rounding of float32 sums (or of a rotation), of the result.
        Arrays or tensors [rows].
        """
        rounding = 2.0**-22 * self.dim + _RESULT_UNIT.get(self.precision, 0.0)
        bound = lengths * self.error + errors * self.length + rounding * (lengths + errors) * self.length
        return 2.0 * bound * (1.0 + 1e-5)


class DeviceCentroids:
    """Centroids [num, dim] on a device: exact, and in the precision of the products.

    Memory on the device: 6 bytes per centroid and dimension, 256 MB of products, 65,536 pairs of vectors in float64.
    """

    def __init__(self, exact: Floats, precision: str, device: torch.device) -> None:
        self.exact = torch.from_numpy(np.ascontiguousarray(exact, dtype=np.float32)).to(device)
        low = self.exact.to(getattr(torch, precision))
        error = float((self.exact - low.float()).norm(dim=1).max())
        self.reach = Reach(float(self.exact.norm(dim=1).max()) + error, error, exact.shape[1], precision)
        padding = low[-1:].expand(-len(low) % _GROUP, -1)  # the last one again: it changes no row's largest product
        self.low = torch.cat([low, padding])

    def nearest(self, rows: torch.Tensor) -> torch.Tensor:
        """The centroid [rows] with the largest product with each row [rows, dim] on the device; of equal the lowest."""
        found = [self._nearest_of_tile(tile.float()) for tile in rows.split(_TILE_ROWS)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=rows.device)

    def _nearest_of_tile(self, rows: torch.Tensor) -> torch.Tensor:
        low = rows.to(self.low.dtype)
        slack = self.reach.slack(rows.norm(dim=1), (rows - low.float()).norm(dim=1))
        best = torch.full((len(rows),), -torch.inf, device=rows.device)
        found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for first in range(0, len(self.low), _TILE_COLUMNS):
            with sums_in_float32():
                tile = (low @ self.low[first : first + _TILE_COLUMNS].T).view(len(rows), -1, _GROUP)
            peaks = tile.amax(dim=2).float()
            best = torch.maximum(best, peaks.amax(dim=1))
            row, group = torch.nonzero(peaks >= (best - slack)[:, None], as_tuple=True)
            values = tile[row, group].float()
            place, column = torch.nonzero(values >= (best - slack)[row, None], as_tuple=True)
            found.append((row[place], first + group[place] * _GROUP + column, values[place, column]))
        row, column, value = (torch.cat(parts) for parts in zip(*found, strict=True))
        still = (value >= (best - slack)[row]) & (
            column < len(self.exact)
        )  # the best so far was not yet the best of all
        return self._decide(rows, row[still], column[still])

    def _decide(self, rows: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Of each row's candidates, the one with the largest exact product; of equal ones the lowest."""
        product = torch.cat(
            [
                (rows[mine].double() * self.exact[theirs].double()).sum(dim=1)
                for mine, theirs in zip(row.split(_PAIRS), column.split(_PAIRS), strict=True)
            ]
        )
        most = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        most.scatter_reduce_(0, row, product, "amax")
        winner = product == most[row]
        labels = torch.full((len(rows),), len(self.exact), dtype=torch.int64, device=rows.device)
        return labels.scatter_reduce_(0, row[winner], column[winner], "amin")


@contextmanager
def sums_in_float32() -> Iterator[None]:
    """Products of half precision add up in float32, as the bound supposes: cuBLAS is otherwise free to round parts."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_fp16_reduced_precision_reduction, settings.allow_bf16_reduced_precision_reduction
    settings.allow_fp16_reduced_precision_reduction = settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_fp16_reduced_precision_reduction, settings.allow_bf16_reduced_precision_reduction = before


class DeviceSums:
    """The sum of the rows of each cluster, in units of 2^-24, and their number, on the device: integers, so that the
    order in which a GPU adds does not show. Memory: 8 bytes per cluster and dimension, 16 per one of a tile's rows."""

    def __init__(self, num_clusters: int, dim: int, device: torch.device) -> None:
        self.sums = torch.zeros((num_clusters, dim), dtype=torch.int64, device=device)
        self.counts = torch.zeros(num_clusters, dtype=torch.int64, device=device)

    def add(self, rows: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds rows[r] to the cluster labels[r]."""
        for tile, mine in zip(rows.split(_TILE_ROWS), labels.split(_TILE_ROWS), strict=True):
            self.sums.index_add_(0, mine, (tile.double() * _GRID).round().long())
            self.counts += torch.bincount(mine, minlength=len(self.counts))


def to_device(block: Array, device: torch.device) -> torch.Tensor:
    """A block of rows as a tensor there, float16 or float32 as it was."""
    return torch.from_numpy(np.ascontiguousarray(block)).to(device, non_blocking=True)
