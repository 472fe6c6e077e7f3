"""A similarity self-join: every pair of vectors whose cosine is above a threshold.

DINOv2 (arXiv 2304.07193, App. A.3) takes the k=64 nearest neighbours of each image and keeps the edges above the
threshold. Here the threshold alone decides: where all 64 neighbours of a vector are above it, its further ones are
edges too (a cut there would split components by chance), and such vectors are counted as saturated.

Every pair is decided by its cosine in float64, so that the edges are the same whatever the block size and whichever
product screened them. The exact form costs rows**2 / 2 products; the form by cells is linear in them, see `num_cells`.
"""

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Floats, InMemory, Rows, VectorSource, even_blocks
from tasks.algorithms.quantiser import Quantiser, assign_cells, fit_quantiser

__all__ = [
    "Edges",
    "Quantiser",
    "assign_cells",
    "fit_quantiser",
    "join_cells",
    "num_cells",
    "recall_of_cells",
    "similar_pairs",
    "similar_pairs_in_cells",
]

Product = Literal["auto", "float32", "bfloat16"]

# How far a screened product of unit vectors can lie from the true one. bfloat16 keeps 8 bits: rounding both factors
# moves a product by at most 2 * 2**-9 (Cauchy-Schwarz), rounding the result by 2**-9; together 0.0059.
_SCREEN_ERROR = {"float32": 1e-5, "bfloat16": 0.008}


class Edges(NamedTuple):
    """A block of pairs: left < right, and their cosine."""

    left: Rows
    right: Rows
    similarity: Floats


def similar_pairs(
    vectors: VectorSource, *, threshold: float, block_rows: int = 4096, product: Product = "auto"
) -> Iterator[Edges]:
    """All pairs of rows with cosine > threshold, each once, by blocked matrix products.

    Zero vectors are similar to nothing. Memory: block_rows * (12 * dim + 5 * block_rows) bytes, and 20 bytes per
    edge of one block. Raises ValueError for a threshold outside of (0, 1).
    """
    _check_threshold(threshold)
    num_rows = vectors.shape[0]
    for start in range(0, num_rows, block_rows):
        left = _unit_block(vectors, start, block_rows)
        for other in range(start, num_rows, block_rows):
            right = left if other == start else _unit_block(vectors, other, block_rows)
            edges = _pairs_between(left, right, threshold, product, upper=other == start)
            if len(edges.left):
                yield Edges(edges.left + start, edges.right + other, edges.similarity)


def num_cells(num_rows: int, *, assignments: int) -> int:
    """The number of cells of a flat quantiser with the fewest products: assigning costs rows * cells, joining
    assignments**2 * rows**2 / (2 * cells); their sum is least at assignments * sqrt(rows / 2)."""
    return max(1, round(assignments * (num_rows / 2) ** 0.5))


def similar_pairs_in_cells(
    vectors: VectorSource,
    cells: npt.NDArray[np.int32],
    *,
    threshold: float,
    block_rows: int = 4096,
    product: Product = "auto",
) -> Iterator[Edges]:
    """The pairs with cosine > threshold that share at least one of their cells, each once.

    `cells` [rows, assignments] is what `assign_cells` returns. Cells are independent of each other. Memory: the
    largest cell as float32, 8 * assignments bytes per row for the lists, and what `similar_pairs` needs.
    """
    _check_threshold(threshold)
    order, offsets = _members(cells)
    for cell in np.flatnonzero(np.diff(offsets) > 1):
        members = order[offsets[cell] : offsets[cell + 1]]
        inside = InMemory(vectors.take(members))
        for edges in similar_pairs(inside, threshold=threshold, block_rows=block_rows, product=product):
            left, right = members[edges.left], members[edges.right]
            # A pair that meets in several cells belongs to the first of them: no pair twice, and no memory of pairs.
            mine = _first_shared(cells[left], cells[right]) == cell
            if mine.any():
                yield Edges(left[mine], right[mine], edges.similarity[mine])


def join_cells(
    vectors: npt.NDArray[np.floating],
    cells: npt.NDArray[np.int32],
    *,
    threshold: float,
    first_cell: int,
    last_cell: int,
) -> Iterator[Edges]:
    """The pairs with cosine > threshold whose first shared cell is one of first_cell <= cell < last_cell.

    `vectors` [n, dim] float16 or float32 are the rows that have at least one cell in that range, held in memory, and
    `cells` [n, assignments] ALL the cells of each of them (`assign_cells`), also those outside of the range: a pair
    belongs to the first cell that both its rows are in, so that tasks over disjoint ranges of cells report no pair
    twice and, together, every pair that shares a cell. `left` < `right` are row numbers in `vectors`.
    """
    _check_threshold(threshold)
    order, offsets = _members(cells)
    for cell in range(first_cell, min(last_cell, len(offsets) - 1)):
        members = order[offsets[cell] : offsets[cell + 1]]
        for edges in similar_pairs(InMemory(vectors[members]), threshold=threshold):
            left, right = members[edges.left], members[edges.right]
            mine = _first_shared(cells[left], cells[right]) == cell
            if mine.any():
                yield Edges(left[mine], right[mine], edges.similarity[mine])


def recall_of_cells(
    vectors: VectorSource, cells: npt.NDArray[np.int32], rows: Rows, *, threshold: float, block_rows: int = 8192
) -> tuple[int, int]:
    """(found, all): of all true pairs of the sampled rows, by brute force, how many the join by cells finds."""
    _check_threshold(threshold)
    queries = _unit(vectors.take(rows))
    found = total = 0
    for start, block in even_blocks(vectors, block_rows):
        pairs = _pairs_between(queries, _unit(block), threshold, "float32", upper=False)
        left, right = rows[pairs.left], pairs.right + start
        true = left != right
        total += int(true.sum())
        found += int((_first_shared(cells[left[true]], cells[right[true]]) >= 0).sum())
    return found, total


def _check_threshold(threshold: float) -> None:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"the threshold of a cosine must lie between 0 and 1, got {threshold}")


def _unit_block(vectors: VectorSource, start: int, rows: int) -> Floats:
    return _unit(vectors.take(np.arange(start, min(start + rows, vectors.shape[0]))))


def _unit(block: npt.NDArray[np.floating]) -> Floats:
    """Rows of length 1 (float16 rounds the length by up to 2**-11); zero rows stay zero."""
    floats = np.asarray(block, dtype=np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.asarray(floats / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)


def _pairs_between(left: Floats, right: Floats, threshold: float, product: Product, *, upper: bool) -> Edges:
    """Pairs of a row of `left` [n, dim] with one of `right` [m, dim], both of unit length; `upper`: only i < j."""
    kind = _fastest_product() if product == "auto" else product
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    products = torch.from_numpy(left).to(dtype) @ torch.from_numpy(right).to(dtype).T  # [n, m]
    candidates = products > threshold - _SCREEN_ERROR[kind]
    if upper:
        candidates = torch.triu(candidates, diagonal=1)
    pairs = candidates.nonzero().numpy()
    i, j = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    similarity = _pair_products(left, right, i, j)
    above = similarity > threshold
    return Edges(i[above], j[above], similarity[above].astype(np.float32))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair_products(left: Floats, right: Floats, i: Rows, j: Rows) -> npt.NDArray[np.float64]:
    similarity = np.empty(len(i), dtype=np.float64)
    for pair in range(len(i)):
        total = 0.0
        for column in range(left.shape[1]):
            total += np.float64(left[i[pair], column]) * np.float64(right[j[pair], column])
        similarity[pair] = total
    return similarity


def _members(cells: npt.NDArray[np.int32]) -> tuple[Rows, Rows]:
    """The rows of each cell one after the other, and where each cell begins; a negative number is no cell."""
    flat = cells.ravel()
    order = np.argsort(flat, kind="stable")[int((flat < 0).sum()) :] // max(cells.shape[1], 1)
    sizes = np.bincount(flat[flat >= 0]) if len(order) else np.zeros(0, dtype=np.int64)
    return order.astype(np.int64), np.r_[0, np.cumsum(sizes)].astype(np.int64)


def _first_shared(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The smallest cell that both rows of each pair are in, or -1: [pairs, assignments] twice -> [pairs]."""
    shared = np.full(len(left), -1, dtype=np.int32)
    for column in reversed(range(left.shape[1])):
        common = ((left[:, column, None] == right) & (right >= 0)).any(axis=1)
        shared[common] = left[common, column]
    return shared


@lru_cache(maxsize=1)
def _fastest_product() -> Literal["float32", "bfloat16"]:
    """Which product this machine is faster at; measured once, because only some CPUs multiply bfloat16 natively."""
    seconds = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.ones(512, 256, dtype=dtype)
        torch.mm(matrix, matrix.T)
        started = time.perf_counter()
        for _ in range(3):
            torch.mm(matrix, matrix.T)
        seconds[name] = time.perf_counter() - started
    return "bfloat16" if seconds["bfloat16"] < 0.7 * seconds["float32"] else "float32"
