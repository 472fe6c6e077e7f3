"""Pairs above a threshold between two sets of coded rows: screened by integer products, decided in float64."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array, Floats, Rows
from tasks.algorithms.join_codes import Coded, Float64, Int8, integer_products
from tasks.algorithms.join_edges import NO_EDGES, Cells, Edges


class Candidates(NamedTuple):
    """n rows to be compared: candidate i is rows[places[i]] (which need not be copied), and the other columns are its.

    rows [m, dim] float32; cells [m, assignments] int32 ([m, 0] where cells do not matter); places [n]; codes [n, dim],
    scales, errors and lengths [n]: see `Coded`.
    """

    rows: Floats
    cells: Cells
    places: Rows
    codes: Int8
    scales: Floats
    errors: Floats
    lengths: Float64

    @classmethod
    def of(cls, coded: Coded, cells: Cells) -> "Candidates":
        """All the rows."""
        places = np.arange(len(coded.rows), dtype=np.int64)
        return cls(coded.rows, cells, places, coded.codes, coded.scales, coded.errors, coded.lengths)

    def subset(self, members: Rows) -> "Candidates":
        """Some of them; their rows are not copied."""
        return Candidates(
            self.rows,
            self.cells,
            self.places[members],
            self.codes[members],
            self.scales[members],
            self.errors[members],
            self.lengths[members],
        )


def pairs_between(left: Candidates, right: Candidates, threshold: float, *, upper: bool, cell: int = -1) -> Edges:
    """Pairs of a row of `left` with one of `right` whose cosine is above the threshold, in order of (left, right).

    `upper`: both are the same rows and only i < j counts. `cell` >= 0: only pairs whose first shared cell it is.
    Memory: 512 * rows of `right` * 4 bytes of products at most, and 20 bytes per pair.
    """
    num_left, num_right = len(left.places), len(right.places)
    found = []
    start = 0
    while start < num_left:
        first = start if upper else 0
        height = max(128, min(512, (num_right - first) // 8))
        products = integer_products(left.codes[start : start + height], right.codes[first:])
        pairs = _scan(products, start, first, left, right, threshold, upper, cell)
        if len(pairs[0]):
            found.append(Edges(*pairs))
        start += height
    if len(found) < 2:
        return found[0] if found else NO_EDGES
    return Edges(*(np.concatenate(column) for column in zip(*found, strict=True)))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _scan(
    products: npt.NDArray[np.int32],
    start: int,
    first: int,
    left: Candidates,
    right: Candidates,
    threshold: float,
    upper: bool,
    cell: int,
) -> tuple[Rows, Rows, Floats]:
    """The pairs of a strip of products: rows from `start` on of `left`, from `first` on of `right`.

    With x = x' + a, y = y' + b, |a| <= e, |b| <= f and |x| = |y| = 1: xy <= x'y' + e + f + e * f (Cauchy-Schwarz), so
    only pairs with x'y' > threshold - e - f - e * f can be above the threshold.
    """
    height, width = products.shape
    worst = np.float32(right.errors[first:].max()) if width else np.float32(0.0)
    scales = right.scales[first:]
    found = 0
    lefts, rights = np.empty(64, dtype=np.int64), np.empty(64, dtype=np.int64)
    similarity = np.empty(64, dtype=np.float32)
    for row in range(height):
        i = start + row
        if left.lengths[i] == 0.0:
            continue
        error = left.errors[i]
        limit = np.float32((threshold - error - worst * (1.0 + error) - 1e-6) / left.scales[i])
        begin = row + 1 if upper else 0
        for chunk in range(begin, width, 64):
            end = min(chunk + 64, width)
            if not _any_above(products[row, chunk:end], scales[chunk:end], limit):
                continue
            for column in range(chunk, end):
                if np.float32(products[row, column]) * scales[column] <= limit:
                    continue
                j = first + column
                if right.lengths[j] == 0.0:
                    continue
                a, b = left.places[i], right.places[j]
                if cell >= 0 and _first_shared(left.cells[a], right.cells[b]) != cell:
                    continue
                cosine = _dot(left.rows[a], right.rows[b]) / (left.lengths[i] * right.lengths[j])
                if cosine <= threshold:
                    continue
                if found == len(lefts):
                    lefts, rights = _doubled(lefts), _doubled(rights)
                    similarity = _doubled(similarity)
                lefts[found], rights[found], similarity[found] = i, j, cosine
                found += 1
    return lefts[:found].copy(), rights[:found].copy(), similarity[:found].copy()


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _any_above(products: npt.NDArray[np.int32], scales: Floats, limit: np.float32) -> bool:
    hits = np.int32(0)
    for column in range(len(products)):  # without a branch, so that it becomes vector instructions
        hits |= np.int32(np.float32(products[column]) * scales[column] > limit)
    return hits != 0


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})  # type: ignore[untyped-decorator]
def _dot(left: Floats, right: Floats) -> float:
    total = 0.0
    for column in range(len(left)):
        total += np.float64(left[column]) * np.float64(right[column])
    return total


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _first_shared(left: Cells, right: Cells) -> int:
    """The smallest number in both of two increasing lists, or -1; negative numbers are no cells."""
    a = b = 0
    while a < len(left) and b < len(right):
        if left[a] == right[b] and left[a] >= 0:
            return int(left[a])
        if left[a] < right[b] or left[a] < 0:
            a += 1
        else:
            b += 1
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _doubled(array: Array) -> Array:
    larger = np.empty(2 * len(array), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def first_shared_cell(left: Cells, right: Cells) -> npt.NDArray[np.int32]:
    """The smallest cell that both rows of each pair are in, or -1: [pairs, assignments] twice -> [pairs]."""
    shared = np.empty(len(left), dtype=np.int32)
    for pair in range(len(left)):
        shared[pair] = _first_shared(left[pair], right[pair])
    return shared
