"""A similarity self-join: every pair of vectors whose cosine is above a threshold.

DINOv2 (arXiv 2304.07193, App. A.3) takes the k=64 nearest neighbours of each image and keeps the edges above the
threshold. Here the threshold alone decides: where all 64 neighbours of a vector are above it, its further ones are
edges too (a cut there would split components by chance).

Two forms. All rows with all rows: rows**2 / 2 products, exact. By cells of a coarse quantiser (`quantiser`), each row
in several of them: exact inside of every cell, and recall set by the number of cells a row is in (`join_cost` says
what it costs). Either way a pair is screened by 8-bit products that lose none (`join_codes`) and decided by its cosine
in float64, so that the edges are the same whatever the block size and the number of threads. (Another kind of processor
adds up in another order: a cosine can differ by 1e-16, an edge only where it is that near to the threshold.)
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array, InMemory, Rows, VectorSource
from tasks.algorithms.join_backend import Backend, backend_for
from tasks.algorithms.join_codes import take_rows
from tasks.algorithms.join_edges import Cells, Edges
from tasks.algorithms.join_screen import first_shared_cell
from tasks.algorithms.quantiser import Quantiser, assign_cells, fit_quantiser

__all__ = [
    "Edges",
    "Quantiser",
    "assign_cells",
    "cross_pairs",
    "first_shared_cell",
    "fit_quantiser",
    "join_cells",
    "recall_of_cells",
    "similar_pairs",
    "similar_pairs_in_cells",
]


def similar_pairs(
    vectors: VectorSource, *, threshold: float, block_rows: int = 8192, device: str = "auto"
) -> Iterator[Edges]:
    """All pairs of rows with cosine > threshold, each once, by blocked matrix products.

    Zero vectors are similar to nothing. Cost: rows**2 / 2 products, and rows**2 / (2 * block_rows) rows read. Memory:
    per thread block_rows * (5 * dim + 2,100) bytes, and 20 bytes per edge of one block. `device`: "cpu", "cuda", or
    "auto" for a GPU where torch has one (there, blocks of 65,536 rows and more pay: see `join_device`).
    Raises ValueError for a threshold outside of (0, 1), and for vectors that are not finite.
    """
    backend = _backend(threshold, device)
    num_rows = vectors.shape[0]
    for start in range(0, num_rows, block_rows):
        left = backend.prepare(_consecutive(vectors, start, block_rows))

        def compare(other: int, start: int = start, left: Any = left) -> Edges:
            upper = other == start
            right = left if upper else backend.prepare(_consecutive(vectors, other, block_rows))
            return _moved(backend.pairs(left, right, threshold, upper=upper), start, other)

        yield from _some(backend.map(compare, range(start, num_rows, block_rows)))


def cross_pairs(
    left: VectorSource, right: VectorSource, *, threshold: float, block_rows: int = 8192, device: str = "auto"
) -> Iterator[Edges]:
    """Every pair of a row of `left` and a row of `right` with cosine > threshold: numbers of rows in their own source.

    The similarity of a pair has the same bits as in `similar_pairs`. Cost, memory, device and errors: as there.
    """
    backend = _backend(threshold, device)
    for start in range(0, left.shape[0], block_rows):
        queries = backend.prepare(_consecutive(left, start, block_rows))

        def compare(other: int, start: int = start, queries: Any = queries) -> Edges:
            block = backend.prepare(_consecutive(right, other, block_rows))
            return _moved(backend.pairs(queries, block, threshold, upper=False), start, other)

        yield from _some(backend.map(compare, range(0, right.shape[0], block_rows)))


def join_cells(
    vectors: npt.NDArray[np.floating],
    cells: Cells,
    *,
    threshold: float,
    first_cell: int,
    last_cell: int,
    device: str = "auto",
) -> Iterator[Edges]:
    """The pairs with cosine > threshold whose first shared cell is one of first_cell <= cell < last_cell.

    `vectors` [n, dim] float16 or float32 are the rows that have at least one cell in that range, held in memory, and
    `cells` [n, assignments] ALL the cells of each of them (`assign_cells`), also those outside of the range: a pair
    belongs to the first cell that both its rows are in, so that tasks over disjoint ranges of cells report no pair
    twice and, together, every pair that shares a cell. `left` < `right` are row numbers in `vectors`.
    Memory beside the two arrays: 12 bytes per row and assignment, and per thread 5 * dim + 2,100 bytes per row of the
    largest cell. Cells are read in runs of 8,192 rows (of 262,144 on a GPU).
    Raises ValueError for a threshold outside of (0, 1), and for vectors that are not finite.
    """
    backend = _backend(threshold, device)
    if len(vectors) != len(cells):
        raise ValueError(f"{len(vectors)} vectors, but the cells of {len(cells)}")
    yield from _join(backend, lambda rows: take_rows(vectors, rows), cells, threshold, first_cell, last_cell)


def similar_pairs_in_cells(
    vectors: VectorSource, cells: Cells, *, threshold: float, device: str = "auto"
) -> Iterator[Edges]:
    """The pairs with cosine > threshold that share at least one of their cells, each once.

    `cells` [rows, assignments] is what `assign_cells` returns. Memory: as `join_cells`, but `vectors` need not fit.
    """
    yield from _join(_backend(threshold, device), vectors.take, cells, threshold, 0, int(cells.max(initial=-1)) + 1)


def recall_of_cells(
    vectors: VectorSource, cells: Cells, rows: Rows, *, threshold: float, block_rows: int = 8192
) -> tuple[int, int]:
    """(found, all): of all true pairs of the sampled rows, by brute force, how many the join by cells finds.

    Cost: len(rows) * rows products. Raises what `cross_pairs` raises.
    """
    found = total = 0
    for pairs in cross_pairs(InMemory(vectors.take(rows)), vectors, threshold=threshold, block_rows=block_rows):
        left, right = rows[pairs.left], pairs.right
        true = left != right
        total += int(true.sum())
        found += int((first_shared_cell(cells[left[true]], cells[right[true]]) >= 0).sum())
    return found, total


def _join(
    backend: Backend,
    take: Callable[[Rows], Array],
    cells: Cells,
    threshold: float,
    first_cell: int,
    last_cell: int,
) -> Iterator[Edges]:
    order, offsets = _members(cells, first_cell, last_cell)

    def join(run: range) -> list[Edges]:
        rows, places = np.unique(order[offsets[run.start] : offsets[run.stop]], return_inverse=True)
        ready = backend.prepare(take(rows), cells[rows])
        found = []
        for cell in run:
            members = places[offsets[cell] - offsets[run.start] : offsets[cell + 1] - offsets[run.start]]
            if len(members) > 1:
                inside = backend.subset(ready, members)
                edges = backend.pairs(inside, inside, threshold, upper=True, cell=first_cell + cell)
                found.append(Edges(rows[members[edges.left]], rows[members[edges.right]], edges.similarity))
        return found

    for found in backend.map(join, _runs(offsets, backend.run_rows)):
        yield from _some(iter(found))


def _runs(offsets: Rows, most: int) -> Iterator[range]:
    """Consecutive cells, so many that they hold at most `most` rows together, and always one: cells that follow each
    other are near each other and share rows, which are then read and coded once."""
    first, last = 0, len(offsets) - 1
    while first < last:
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1)
        yield range(first, min(stop, last))
        first = stop


def _members(cells: Cells, first_cell: int, last_cell: int) -> tuple[Rows, Rows]:
    """The rows of each cell of the range one after the other, in increasing order, and where each cell begins."""
    flat = cells.ravel()
    places = np.flatnonzero((flat >= max(first_cell, 0)) & (flat < last_cell))
    numbers = flat[places] - first_cell
    order = places[np.argsort(numbers, kind="stable")] // max(cells.shape[1], 1)
    sizes = np.bincount(numbers, minlength=max(last_cell - first_cell, 0))
    return order.astype(np.int64), np.r_[0, np.cumsum(sizes)].astype(np.int64)


def _consecutive(vectors: VectorSource, start: int, rows: int) -> Array:
    return vectors.take(np.arange(start, min(start + rows, vectors.shape[0])))


def _some(blocks: Iterator[Edges]) -> Iterator[Edges]:
    return (edges for edges in blocks if len(edges.left))


def _moved(edges: Edges, left: int, right: int) -> Edges:
    return Edges(edges.left + left, edges.right + right, edges.similarity)


def _backend(threshold: float, device: str) -> Backend:
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"the threshold of a cosine must lie between 0 and 1, got {threshold}")
    return backend_for(device)
