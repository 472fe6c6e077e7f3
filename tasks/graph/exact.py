"""All pairs of a pool by comparing all with all, in independent tasks: blocks of rows against blocks of rows.

With an earlier graph to start from, only new rows are compared: with one another and with all. Cost: rows**2 / 2
products, or new * rows. Memory of a task: its two blocks as they lie on disk (`group_bytes` together), one block of
products, and the pairs of its rows (`EdgeLimiter`). Tasks: (rows * dim * 4 bytes / group_bytes)**2 / 2; 100 million
vectors of 512 dimensions and 1 GB make 19,000.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import InMemory, Rows
from tasks.algorithms.cross_join import BLOCK_ROWS, cross_pairs, oriented
from tasks.algorithms.edge_limit import EdgeLimiter
from tasks.algorithms.self_join import Edges, similar_pairs
from tasks.graph.files import select
from tasks.graph.limit import Ranges, write_pairs
from tasks.graph.rows import PoolFiles, Span, read_vectors, take_vectors
from tasks.graph.scratch import Files, load_array, save_array, scratch_map, whole
from tasks.stage import Outcome, Stage

_SMALLEST_BLOCK = 8_192
_BLOCKS_A_SIDE = 8


def exact_pairs(
    stage: Stage,
    pool: PoolFiles,
    *,
    ranges: Ranges,
    threshold: float,
    neighbours: int,
    group_bytes: int,
    new_rows: Rows | None,
) -> Files:
    """All pairs above the threshold; if `new_rows` are given, those with at least one of them."""
    rows = block_rows(pool.num_rows, pool.dim, group_bytes)
    blocks = pool.spans(rows)
    plain = {"ranges": ranges, "threshold": threshold, "neighbours": neighbours}
    if new_rows is None:
        pairs = [(left, right) for number, left in enumerate(blocks) for right in blocks[number:]]
        return scratch_map(stage, "pairs", join_block, pairs, **plain)[1]
    new = stage.path(f"scratch-new-{hashlib.sha256(new_rows.tobytes()).hexdigest()[:10]}.npy")
    save_array(new, new_rows)
    parts = [
        (pool.span(int(new_rows[first]), int(new_rows[last - 1]) + 1), right, first, last)
        for first, last in _slices(len(new_rows), rows)
        for right in blocks
    ]
    return scratch_map(stage, "pairs", join_new, parts, new=new, **plain)[1]


def block_rows(num_rows: int, dim: int, group_bytes: int) -> int:
    """Rows of a block: small enough for memory and for eight blocks a side, so that there are tasks to share out."""
    return max(1, min(group_bytes // (4 * dim), max(_SMALLEST_BLOCK, -(-num_rows // _BLOCKS_A_SIDE))))


def _slices(count: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, count)) for first in range(0, count, size)]


def join_block(part: tuple[Span, Span], out: str, *, ranges: Ranges, threshold: float, neighbours: int) -> Outcome:
    """The pairs between two blocks of rows, or within one."""
    left, right = part
    rows = np.union1d(np.arange(left.first, left.last), np.arange(right.first, right.last))
    limiter = EdgeLimiter(len(rows), neighbours=neighbours)
    if left == right:
        for found in similar_pairs(InMemory(read_vectors(left)), threshold=threshold, block_rows=BLOCK_ROWS):
            limiter.add(found)
    else:
        for found in cross_pairs(read_vectors(left), read_vectors(right), threshold=threshold):
            limiter.add(Edges(found.left, found.right + (left.last - left.first), found.similarity))
    return write_limited(out, limiter, rows, ranges)


def join_new(
    part: tuple[Span, Span, int, int], out: str, *, new: str, ranges: Ranges, threshold: float, neighbours: int
) -> Outcome:
    """The pairs between new rows (first <= number < last of the list `new`) and a block of rows."""
    span, right, first, last = part
    new_rows = np.asarray(load_array(new))
    left_rows, right_rows = new_rows[first:last], np.arange(right.first, right.last)
    rows = np.union1d(left_rows, right_rows)
    limiter = EdgeLimiter(len(rows), neighbours=neighbours)
    for found in _met_once(left_rows, new_rows, span, right, threshold):
        pairs = oriented(found, left_rows, right_rows)
        limiter.add(Edges(np.searchsorted(rows, pairs.left), np.searchsorted(rows, pairs.right), pairs.similarity))
    return write_limited(out, limiter, rows, ranges)


def _met_once(left_rows: Rows, new_rows: Rows, span: Span, right: Span, threshold: float) -> Iterator[Edges]:
    """A pair of two new rows is met from both sides: the side of the smaller row has it."""
    for found in cross_pairs(take_vectors(span, left_rows), read_vectors(right), threshold=threshold):
        others = found.right + right.first
        yield select(found, (left_rows[found.left] < others) | ~among(new_rows, others))


def write_limited(out: str, limiter: EdgeLimiter, rows: Rows, ranges: Ranges) -> Outcome:
    """A task's bounded pairs, numbered among its `rows`, as pairs of pool rows for `limit_pairs`."""
    edges = limiter.result()
    pairs = Edges(rows[edges.left], rows[edges.right], edges.similarity)
    return whole(0, [write_pairs(f"{out}.pairs", pairs, ranges)])


def among(sorted_rows: Rows, rows: Rows) -> npt.NDArray[np.bool_]:
    """Whether each row is one of the sorted ones."""
    if len(sorted_rows) == 0:
        return np.zeros(len(rows), dtype=np.bool_)
    place = np.minimum(np.searchsorted(sorted_rows, rows), len(sorted_rows) - 1)
    return np.asarray(sorted_rows[place] == rows)
