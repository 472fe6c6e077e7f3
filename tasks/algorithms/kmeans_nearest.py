"""The nearest of many centroids, exactly, at the speed of low precision.

Products are made in 8 or 16 bits, which narrows every row down to the centroids that may be its nearest (a bound on the
rounding, by Cauchy and Schwarz, says which); those few are decided by exact products. So precision, tile, device and
number of threads change the speed and never the answer: it is a function of the row and the centroids alone.

Exact means: float16 vectors lie on the grid of 2^-24, and so do our centroids (`on_grid`). Their product lies on 2^-48,
a sum of them below 32 in magnitude has at most 53 bits, and float64 adds it up without rounding, in any order.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms import kmeans_kernels as kernels
from tasks.algorithms.blocks import Array, Floats
from tasks.algorithms.kmeans_device import DeviceCentroids, Reach, to_device

Precision = Literal["auto", "int8", "bfloat16", "float16", "float32"]
Labels = npt.NDArray[np.int32]

_TILE_ROWS = 512
_TILE_COLUMNS = 4096


def on_grid(array: Array) -> Floats:
    """Rounded to multiples of 2^-24: up to a magnitude of 1 these are float32 numbers."""
    return np.asarray(np.rint(np.asarray(array, dtype=np.float64) * kernels.GRID) / kernels.GRID, dtype=np.float32)


def fastest_precision(device: str = "cpu") -> Precision:
    """The product that this machine makes fastest: float16 on CUDA, what the CPU has instructions for elsewhere."""
    if torch.device(device).type == "cuda":
        return "float16"
    if torch.cpu._is_vnni_supported():
        return "int8"
    return "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"


class Centroids:
    """Centroids [num, dim] made ready for products: as they are, and rounded, with how far rounding moved the farthest.

    Memory: 5 (int8), 6 (16 bits) or 8 bytes per centroid and dimension.
    """

    def __init__(self, centroids: Floats, *, precision: Precision = "auto", device: str = "cpu") -> None:
        self.exact = np.ascontiguousarray(centroids, dtype=np.float32)
        self.device = torch.device(device)
        self.precision = fastest_precision(device) if precision == "auto" else precision
        if self.precision == "int8" and (self.device.type != "cpu" or not torch.cpu._is_vnni_supported()):
            raise ValueError(
                f"int8 products need a CPU with VNNI (others saturate); on {device} take float32, bfloat16 or auto."
            )
        if self.device.type != "cpu":
            self.on_device = DeviceCentroids(self.exact, self.precision, self.device)
            return
        if self.precision == "int8":
            self.rotation = kernels.Rotation(self.exact.shape[1])
            rounded = self.rotation.common_int8(self.exact)
            self.low, errors = torch.from_numpy(rounded.low), rounded.errors
            self.scale = float(rounded.scales.max(initial=np.float32(0.0)))
        else:
            exact = torch.from_numpy(self.exact)
            self.low, self.scale = exact.to(getattr(torch, self.precision)), 1.0
            errors = (exact - self.low.float()).norm(dim=1).numpy()
        error = float(errors.max(initial=0.0))
        length = float(np.linalg.norm(self.exact, axis=1).max(initial=0.0)) + error
        self.reach = Reach(length, error, self.exact.shape[1], self.precision)

    def nearest(self, block: Array) -> Labels:
        """The centroid with the largest product with each row of `block` [rows, dim]; of equal ones the lowest.

        Cost: rows * centroids * dim in low precision. Memory: 5 bytes per row and dimension; a tile of 8 MB per thread.
        Raises ValueError when the dimensions differ.
        """
        if block.shape[1] != self.exact.shape[1]:
            raise ValueError(f"vectors of {block.shape[1]} dimensions, centroids of {self.exact.shape[1]}")
        if self.device.type != "cpu":
            return self.on_device.nearest(to_device(block, self.device)).cpu().numpy().astype(np.int32)
        labels = np.zeros(len(block), dtype=np.int32)

        def fill(start: int) -> None:
            rows = np.asarray(block[start : start + _TILE_ROWS], dtype=np.float32, order="C")
            labels[start : start + len(rows)] = self._nearest_of_tile(rows)

        kernels.each(fill, range(0, len(block) if len(self.exact) > 1 else 0, _TILE_ROWS))
        return labels

    def _nearest_of_tile(self, rows: Floats) -> Labels:
        low, slack = self._lower(rows)
        found = kernels.no_candidates(len(rows), np.int32 if self.precision == "int8" else np.float32)
        for first in range(0, len(self.exact), _TILE_COLUMNS):
            tile = self._products(low, slice(first, first + _TILE_COLUMNS))
            kernels.in_slices(kernels.scan, len(rows), tile, slack, first, *found)
        labels = np.empty(len(rows), dtype=np.int32)
        kernels.in_slices(kernels.decide, len(rows), rows, self.exact, slack, *found, labels)
        return labels

    def _lower(self, rows: Floats) -> tuple[torch.Tensor, Floats]:
        """Rows in low precision, and for each how far below the best of its low products the exact best may lie."""
        if self.precision == "int8":
            rounded = self.rotation.int8(rows)
            slack = self.reach.slack(rounded.lengths, rounded.errors) / (rounded.scales * self.scale)
            return torch.from_numpy(rounded.low), np.ceil(slack).astype(np.float32)
        exact = torch.from_numpy(rows)
        low = exact.to(getattr(torch, self.precision))
        errors = (exact - low.float()).norm(dim=1).numpy()
        return low, np.asarray(self.reach.slack(np.linalg.norm(rows, axis=1), errors), dtype=np.float32)

    def _products(self, low: torch.Tensor, columns: slice) -> Array:
        centroids = self.low[columns].T
        return (torch._int_mm(low, centroids) if self.precision == "int8" else (low @ centroids).float()).numpy()


def own_cosines(block: Array, centroids: Floats, labels: Labels) -> npt.NDArray[np.float64]:
    """The product of each row with the centroid that it has: exact, for vectors on the grid."""
    rows = np.asarray(block, dtype=np.float32, order="C")
    products = np.empty(len(rows), dtype=np.float64)
    kernels.in_slices(kernels.own_products, len(rows), rows, np.ascontiguousarray(centroids), labels, products)
    return products
