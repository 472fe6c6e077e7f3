"""The nearest centroid on a GPU (or any torch device), by the same bound and the same exact products as on the CPU."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Array, Floats

_TILE_ROWS = 8192
_TILE_COLUMNS = 8192
_PAIRS = 1 << 16


class Prepared(Protocol):
    """`kmeans_nearest.Centroids`, as this module needs it."""

    exact: Floats
    low: torch.Tensor
    device: torch.device

    def slack(self, lengths: Floats, errors: Floats) -> Floats: ...


def nearest_on_device(centroids: Prepared, block: Array) -> npt.NDArray[np.int32]:
    """The centroid with the largest product with each row; of equal ones the lowest.

    Memory on the device: the centroids twice, 8192 x 8192 products, 65,536 pairs of vectors in float64.
    """
    exact = torch.from_numpy(centroids.exact).to(centroids.device)
    labels = [
        _nearest_of_tile(centroids, exact, torch.from_numpy(np.ascontiguousarray(block[start : start + _TILE_ROWS])))
        for start in range(0, len(block), _TILE_ROWS)
    ]
    return torch.cat(labels).cpu().numpy().astype(np.int32) if labels else np.zeros(0, dtype=np.int32)


def _nearest_of_tile(centroids: Prepared, exact: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    rows = rows.to(centroids.device).float()
    low = rows.to(centroids.low.dtype)
    errors = (rows - low.float()).norm(dim=1)
    slack = torch.from_numpy(centroids.slack(rows.norm(dim=1).cpu().numpy(), errors.cpu().numpy())).to(rows.device)
    best = torch.full((len(rows),), -torch.inf, device=rows.device)
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for first in range(0, len(exact), _TILE_COLUMNS):
        tile = _products(low, centroids.low[first : first + _TILE_COLUMNS])
        best = torch.maximum(best, tile.amax(dim=1))
        places = torch.nonzero(tile >= (best - slack)[:, None])
        row, column = places[:, 0], places[:, 1]
        found.append((row, column + first, tile[row, column]))
    row, column, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    still = value >= (best - slack)[row]  # the best so far was not yet the best of all
    return _decide(rows, exact, row[still], column[still])


def _products(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """float32 products; CUDA adds up half precision in float32 and can hand it over unrounded."""
    if rows.is_cuda and rows.dtype != torch.float32:
        return torch.mm(rows, centroids.T, out_dtype=torch.float32)
    return (rows @ centroids.T).float()


def _decide(rows: torch.Tensor, exact: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """Of each row's candidates, the one with the largest exact product; of equal ones the lowest."""
    product = torch.cat(
        [
            (rows[row[place : place + _PAIRS]].double() * exact[column[place : place + _PAIRS]].double()).sum(dim=1)
            for place in range(0, len(row), _PAIRS)
        ]
    )
    most = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
    most.scatter_reduce_(0, row, product, "amax")
    winner = product == most[row]
    labels = torch.full((len(rows),), len(exact), dtype=torch.int64, device=rows.device)
    return labels.scatter_reduce_(0, row[winner], column[winner], "amin")
