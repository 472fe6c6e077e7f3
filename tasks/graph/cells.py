"""Pairs by the cells of a coarse quantiser: vectors travel to their cells, cells are joined independently.

fit -> assign (per span of rows) -> exchange (per span: one file, each vector once for every group of cells that it has
a cell in) -> join (per group of cells). A cell that is larger than a group (a picture that a crawl met a million times)
is joined tile by tile.

Memory of a task: `group_bytes` of vectors, one block of products, the pairs of its rows (`EdgeLimiter`); the quantiser
while assigning (dim bytes per cell). Disk, until the graph is published: at most assignments * (2 * dim + 8 + 4 *
assignments) bytes per image for vectors (8.5 KB at 512 dimensions and 8 assignments; a row's cells are often neighbours
and then share one copy: fact `copies`), 4 * assignments for cells, 4 per cell and span.
1.2 billion images of 512 dimensions, 8 assignments, 1 GB: 3.9 million cells (2 GB), 1,229 spans with four tasks each,
at most 10,200 groups, each of which reads one range of every span's file, 0.8 MB on average.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from storage.filesystem import file_sha256, read_bytes, write_bytes
from storage.manifest import FileEntry
from tasks.algorithms.blocks import InMemory
from tasks.algorithms.cross_join import BLOCK_ROWS, cross_pairs, first_shared_cell
from tasks.algorithms.edge_limit import EdgeLimiter
from tasks.algorithms.self_join import Edges, Quantiser, assign_cells, fit_quantiser, join_cells, similar_pairs
from tasks.graph.exact import write_limited
from tasks.graph.files import select
from tasks.graph.limit import Ranges
from tasks.graph.rows import PoolFiles, Span, read_vectors
from tasks.graph.scratch import (
    Array,
    Files,
    bucket_size,
    load_array,
    read_bucket,
    save_array,
    scratch_map,
    whole,
    write_buckets,
)
from tasks.stage import Outcome, Stage

QUANTISER = "quantiser.safetensors"
_WRITE_ROWS = 16_384
_LARGE_CELL_ROWS = 8_192
"""Above this a cell is a group of its own and its pairs come block by block: they may be copies, all of each other."""


class Group(NamedTuple):
    """A task of the join: cells first <= cell < last, and for a cell in tiles which two tiles meet (else -1)."""

    number: int
    first: int
    last: int
    left: int = -1
    right: int = -1


def fit(stage: Stage, sample: Array, *, num_rows: int, assignments: int, cell_rows: int, seed: int) -> FileEntry:
    """The quantiser of the pool from a sample of its vectors, as a file of the stage."""
    path = stage.path(QUANTISER)
    fitted = fit_quantiser(InMemory(sample), num_rows=num_rows, assignments=assignments, seed=seed, cell_rows=cell_rows)
    write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in fitted._asdict().items()}))
    size, digest = file_sha256(path)
    return FileEntry(QUANTISER, len(fitted.centroids), size, digest)


@lru_cache(maxsize=1)
def load_quantiser(path: str) -> Quantiser:
    """The quantiser of a stage; a worker that assigns many parts reads it once."""
    return Quantiser(**load(read_bytes(path)))


def assign(stage: Stage, pool: PoolFiles, *, assignments: int, rows: int, new: str) -> tuple[list[Span], Files]:
    """The cells of all rows, span by span of `rows`. `new` names a list of new rows; empty: all are new."""
    spans = pool.spans(rows)
    plain: dict[str, Any] = {"quantiser": stage.path(QUANTISER), "assignments": assignments, "new": new}
    return spans, scratch_map(stage, "cells", assign_span, spans, **plain)[1]


def assign_span(span: Span, out: str, *, quantiser: str, assignments: int, new: str) -> Outcome:
    """One span: its rows' cells [rows, assignments], and how many of its rows each cell has, all and, if told, new."""
    levels = load_quantiser(quantiser)
    cells = assign_cells(read_vectors(span), levels, assignments=assignments)
    counts = [_sizes(cells, len(levels.centroids))]
    if new:
        rows = np.asarray(load_array(new))
        low, high = np.searchsorted(rows, [span.first, span.last])
        counts.append(_sizes(cells[rows[low:high] - span.first], len(levels.centroids)))
    return whole(len(cells), [save_array(f"{out}.npy", cells), save_array(f"{out}.counts.npy", np.stack(counts))])


def _sizes(cells: npt.NDArray[np.int32], num_cells: int) -> npt.NDArray[np.int32]:
    return np.bincount(cells[cells >= 0], minlength=num_cells).astype(np.int32)


def cell_sizes(cells: Files) -> npt.NDArray[np.int64]:
    """Rows of every cell, and its new rows if not all are: [1 or 2, cells]."""
    paths = cells.paths(".counts.npy")
    total = np.zeros(load_array(paths[0]).shape, dtype=np.int64)
    for path in paths:
        total += load_array(path)
    return total


def plan_groups(sizes: npt.NDArray[np.int64], group_rows: int) -> tuple[list[Group], npt.NDArray[np.int32]]:
    """(tasks of the join, which group each cell's rows are sent to or -1). `sizes` [1 or 2, cells]: rows, new rows.

    Consecutive cells fill a group up to `group_rows` rows, a large cell is a group of its own; cells without a new row,
    or with one row, are left out.
    """
    group_of = np.full(sizes.shape[1], -1, dtype=np.int32)
    wanted = np.flatnonzero((sizes[-1] > 0) & (sizes[0] > 1))
    groups: list[Group] = []
    number = rows = 0
    members: list[int] = []

    def close() -> None:
        nonlocal number, rows, members
        if members:
            groups.extend(_tasks(number, members[0], members[-1] + 1, rows, group_rows))
            number, rows, members = number + 1, 0, []

    for cell in wanted.tolist():
        large = sizes[0, cell] > _LARGE_CELL_ROWS
        if rows + sizes[0, cell] > group_rows or large:
            close()
        group_of[cell] = number
        members.append(cell)
        rows += int(sizes[0, cell])
        if large:
            close()
    close()
    return groups, group_of


def _tasks(number: int, first: int, last: int, rows: int, group_rows: int) -> list[Group]:
    if rows <= group_rows:
        return [Group(number, first, last)]
    tiles = -(-rows // max(1, group_rows // 2))
    return [Group(number, first, last, left, right) for left in range(tiles) for right in range(left, tiles)]


def record_type(dim: int, assignments: int) -> np.dtype[Any]:
    """A vector on its way to a group of cells: its row, all its cells, and itself."""
    return np.dtype([("row", "<i8"), ("cells", "<i4", (assignments,)), ("vector", "<f2", (dim,))])


def exchange(stage: Stage, spans: Sequence[Span], cells: Files, group_of: npt.NDArray[np.int32]) -> tuple[int, Files]:
    """Every span's vectors in the order of the groups that they belong to, one file a span; how many were written."""
    routes = stage.path(f"scratch-routes-{hashlib.sha256(group_of.tobytes()).hexdigest()[:10]}.npy")
    save_array(routes, group_of)
    parts = [(span, cells.path(number, ".npy")) for number, span in enumerate(spans)]
    outcomes, files = scratch_map(stage, "exchange", exchange_span, parts, routes=routes)
    return sum(outcome.facts["copies"] for outcome in outcomes), files


def exchange_span(part: tuple[Span, str], out: str, *, routes: str) -> Outcome:
    """The bucket file of one span; a row with several cells in one group goes there once."""
    span, cells_path = part
    cells, group_of = np.asarray(load_array(cells_path)), np.asarray(load_array(routes))
    groups = np.sort(np.where(cells >= 0, group_of[cells], -1), axis=1)
    groups[:, 1:][groups[:, 1:] == groups[:, :-1]] = -1
    rows, column = np.nonzero(groups >= 0)
    targets = groups[rows, column]
    rows = rows[np.argsort(targets, kind="stable")]
    vectors = read_vectors(span)
    dtype = record_type(vectors.shape[1], cells.shape[1])

    def records() -> Iterator[Array]:
        for start in range(0, len(rows), _WRITE_ROWS):
            mine = rows[start : start + _WRITE_ROWS]
            block = np.empty(len(mine), dtype=dtype)
            block["row"], block["cells"], block["vector"] = mine + span.first, cells[mine], vectors[mine]
            yield block

    sizes = np.bincount(targets, minlength=int(group_of.max(initial=-1)) + 1)
    return whole(0, [write_buckets(f"{out}.rows", sizes, records())], copies=len(rows))


def join_groups(
    stage: Stage,
    groups: Sequence[Group],
    files: Files,
    *,
    ranges: Ranges,
    threshold: float,
    neighbours: int,
    shape: tuple[int, int, int],
) -> Files:
    """The pairs that share a cell, group by group; `shape`: dim, assignments, rows of a tile."""
    plain: dict[str, Any] = {
        "files": files,
        "num_groups": groups[-1].number + 1 if groups else 0,
        "threshold": threshold,
        "neighbours": neighbours,
        "ranges": ranges,
        "shape": shape,
    }
    return scratch_map(stage, "pairs", join_group, groups, **plain)[1]


def join_group(
    group: Group,
    out: str,
    *,
    files: Files,
    num_groups: int,
    threshold: float,
    neighbours: int,
    ranges: Ranges,
    shape: tuple[int, int, int],
) -> Outcome:
    """The pairs whose first shared cell is in one group, or between two tiles of one large cell."""
    dim, assignments, tile_rows = shape
    dtype = record_type(dim, assignments)
    if group.left < 0 or group.left == group.right:
        records = _members(files, group.number, num_groups, dtype, tile_rows, group.left)
        rows = np.ascontiguousarray(records["row"])
        cells, vectors = np.ascontiguousarray(records["cells"]), records["vector"]
        if group.last - group.first > 1 or len(rows) <= _LARGE_CELL_ROWS:
            found = join_cells(vectors, cells, threshold=threshold, first_cell=group.first, last_cell=group.last)
        else:
            found = _within(vectors, cells, threshold, group.first)
    else:
        left = _members(files, group.number, num_groups, dtype, tile_rows, group.left)
        right = _members(files, group.number, num_groups, dtype, tile_rows, group.right)
        rows = np.concatenate([left["row"], right["row"]])
        found = _between(left, right, threshold, group.first)
    limiter = EdgeLimiter(len(rows), neighbours=neighbours)
    for edges in found:
        limiter.add(edges)
    return write_limited(out, limiter, rows, ranges)


def _members(files: Files, group: int, num_groups: int, dtype: np.dtype[Any], tile_rows: int, tile: int) -> Array:
    """The records of one group in increasing row, or those of one tile of them."""
    low, high = (0, None) if tile < 0 else (tile * tile_rows, (tile + 1) * tile_rows)
    found, passed = [], 0
    for path in files.paths(".rows"):
        size = bucket_size(path, group)
        stop = size if high is None else min(size, high - passed)
        start = max(0, low - passed)
        if start < stop:
            found.append(read_bucket(path, group, num_buckets=num_groups, dtype=dtype, start=start, stop=stop))
        passed += size
    return np.concatenate(found)


def _within(vectors: Array, cells: Array, threshold: float, cell: int) -> Iterator[Edges]:
    for edges in similar_pairs(InMemory(vectors), threshold=threshold, block_rows=BLOCK_ROWS):
        yield select(edges, first_shared_cell(cells[edges.left], cells[edges.right]) == cell)


def _between(left: Array, right: Array, threshold: float, cell: int) -> Iterator[Edges]:
    left_cells, right_cells = np.ascontiguousarray(left["cells"]), np.ascontiguousarray(right["cells"])
    for edges in cross_pairs(left["vector"], right["vector"], threshold=threshold):
        mine = first_shared_cell(left_cells[edges.left], right_cells[edges.right]) == cell
        found = select(edges, mine)
        yield Edges(found.left, found.right + len(left), found.similarity)
