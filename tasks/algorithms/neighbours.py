"""The nearest neighbours of queries in a pool: exact, or by the cells of a clustering that is there already."""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows, VectorSource, even_blocks

_QUERY_ROWS = 4096


class Neighbours(NamedTuple):
    """For every query its neighbours, the most similar first: rows of the pool (-1: none) and their products."""

    rows: Rows  # [queries, n]
    similarity: Floats  # [queries, n]


def nearest(pool: VectorSource, queries: Floats, *, num: int, block_rows: int = 65536) -> Neighbours:
    """The `num` rows of the pool with the largest product with each query [queries, dim]; equal ones by row.

    One pass over the pool. Memory: block_rows * dim * 4 bytes, and 24 * num bytes per query.
    """
    _check_dims(pool.shape[1], queries)
    best = _nothing(len(queries), num)
    for start, block in even_blocks(pool, block_rows):
        for rows in _slices(len(queries)):
            found = _search(block, queries[rows], num)
            _merge(best, np.arange(rows.start, rows.stop), found.rows + start, found.similarity)
    return best


def nearest_in_cells(
    pool: VectorSource,
    queries: Floats,
    *,
    num: int,
    centroids: Floats,
    assignments: npt.NDArray[np.integer],
    num_probes: int,
) -> Neighbours:
    """As `nearest`, but a query looks only into its `num_probes` nearest cells; cell by cell, each read once.

    `assignments` [pool rows] is the cell of each row of the pool. With as many probes as cells the result is exact.
    Memory: the largest cell, 8 bytes per pool row, 24 * num bytes per query.
    """
    _check_dims(pool.shape[1], queries)
    probes = _search(centroids, queries, min(num_probes, len(centroids))).rows  # [queries, probes]
    order = np.argsort(assignments, kind="stable").astype(np.int64)
    offsets = np.r_[0, np.cumsum(np.bincount(assignments, minlength=len(centroids)))]
    best = _nothing(len(queries), num)
    for cell, asking in _by_cell(probes):
        members = order[offsets[cell] : offsets[cell + 1]]
        if len(members) == 0:
            continue
        block = np.asarray(pool.take(members), dtype=np.float32)
        for rows in _slices(len(asking)):
            found = _search(block, queries[asking[rows]], num)
            _merge(best, asking[rows], members[found.rows], found.similarity)
    return best


def _check_dims(dim: int, queries: Floats) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise ValueError(f"queries of shape {queries.shape} cannot be compared with vectors of {dim} dimensions")


def _nothing(num_queries: int, num: int) -> Neighbours:
    return Neighbours(np.full((num_queries, num), -1), np.full((num_queries, num), -np.inf, dtype=np.float32))


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, _QUERY_ROWS):
        yield slice(start, min(start + _QUERY_ROWS, count))


def _search(block: Floats, queries: Floats, num: int) -> Neighbours:
    similarity, rows = faiss.knn(
        np.ascontiguousarray(queries, dtype=np.float32),
        np.ascontiguousarray(block, dtype=np.float32),
        min(num, len(block)),
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    return Neighbours(rows, similarity)


def _merge(best: Neighbours, asking: Rows, rows: Rows, similarity: Floats) -> None:
    """Puts what was found for the queries `asking` among their best so far, in place."""
    num = best.rows.shape[1]
    rows = np.concatenate([best.rows[asking], rows], axis=1)
    similarity = np.concatenate([best.similarity[asking], similarity], axis=1)
    order = np.lexsort((rows, -similarity), axis=1)[:, :num]
    best.rows[asking] = np.take_along_axis(rows, order, axis=1)
    best.similarity[asking] = np.take_along_axis(similarity, order, axis=1)


def _by_cell(probes: Rows) -> Iterator[tuple[int, Rows]]:
    """Every probed cell, with the queries that look into it."""
    flat = probes.ravel()
    order = np.argsort(flat, kind="stable")
    changes = np.flatnonzero(flat[order][1:] != flat[order][:-1]) + 1
    for queries in np.split(order, changes):
        if len(queries):
            yield int(flat[queries[0]]), queries // probes.shape[1]
