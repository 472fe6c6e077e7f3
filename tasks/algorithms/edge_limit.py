"""A bound on the edges of a similarity graph that changes none of its components, at any threshold.

DINOv2 (arXiv 2304.07193, App. A.3) keeps the k=64 nearest neighbours of an image and so cuts where there are more.
Here an edge stays when it is among the `neighbours` most similar ones of either end. Of the edges that this leaves
over, those stay that their maximum spanning forest needs (Kruskal, descending similarity): so two images hang together
above any threshold if and only if they did before, and an image brings in at most `neighbours` + 1 edges.

The order of edges is total: descending similarity, then increasing left, then right. Hence the bounded graph is unique,
and it can be had piece by piece: limiting the union of limited pieces gives what limiting the whole gives. (A piece
keeps every edge that is among the first of the whole; an edge that a piece's forest drops closes a cycle of better
edges that are left over in the whole too.)
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows
from tasks.algorithms.self_join import Edges

Mask = npt.NDArray[np.bool_]

NO_EDGES = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class Cuts(NamedTuple):
    """Where the edges of the rows end that have more than `neighbours`: increasing rows, the last edge that each of
    them keeps by its similarity and its other end."""

    rows: Rows
    similarity: Floats
    others: Rows


def join_blocks(blocks: list[Edges]) -> Edges:
    """Several blocks of edges as one."""
    if not blocks:
        return NO_EDGES
    left, right, similarity = zip(*blocks, strict=True)
    return Edges(np.concatenate(left), np.concatenate(right), np.concatenate(similarity))


def by_rows(edges: Edges) -> Edges:
    """The edges in increasing (left, right), each pair once."""
    order = np.lexsort((edges.right, edges.left))
    left, right = edges.left[order], edges.right[order]
    first = np.r_[True, (left[1:] != left[:-1]) | (right[1:] != right[:-1])][: len(left)]
    return Edges(left[first], right[first], edges.similarity[order][first])


def find_cuts(edges: Edges, *, neighbours: int, first_row: int, last_row: int) -> Cuts:
    """The cuts of rows first_row <= row < last_row. `edges` holds all edges of these rows, each pair once.

    Memory: 4 bytes per row, 20 bytes per end of an edge, and 20 more per end in a row with a cut.
    """
    rows = np.concatenate([edges.left, edges.right]) - first_row
    inside = (rows >= 0) & (rows < last_row - first_row)
    counts = np.bincount(rows[inside], minlength=last_row - first_row)
    inside[inside] = counts[rows[inside]] > neighbours
    rows = rows[inside]
    others = np.concatenate([edges.right, edges.left])[inside]
    similarity = np.concatenate([edges.similarity, edges.similarity])[inside]
    order = np.lexsort((others, -similarity, rows))
    rows = rows[order]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]][: len(rows)])
    last = order[starts + neighbours - 1]
    return Cuts(rows[starts] + first_row, similarity[last], others[last])


def among_first(cuts: Cuts, rows: Rows, others: Rows, similarity: Floats) -> Mask:
    """Whether each edge is among those that its end `rows` keeps; a row without a cut keeps all."""
    if len(cuts.rows) == 0:
        return np.ones(len(rows), dtype=np.bool_)
    place = np.minimum(np.searchsorted(cuts.rows, rows), len(cuts.rows) - 1)
    cut = cuts.similarity[place]
    kept = (similarity > cut) | ((similarity == cut) & (others <= cuts.others[place]))
    return np.asarray(kept | (cuts.rows[place] != rows))


def split(edges: Edges, cuts: Cuts) -> tuple[Edges, Edges]:
    """(edges among the first of either end, edges left over). `cuts` must hold those of all ends that have one."""
    first = among_first(cuts, edges.left, edges.right, edges.similarity)
    first |= among_first(cuts, edges.right, edges.left, edges.similarity)
    return _select(edges, first), _select(edges, ~first)


def spanning_forest(edges: Edges) -> Edges:
    """The maximum spanning forest of the edges by Kruskal's algorithm, in increasing (left, right).

    Its components above any threshold are those of `edges`. Memory: 60 bytes per edge.
    """
    order = np.lexsort((edges.right, edges.left, -edges.similarity))
    ends, compact = np.unique(np.concatenate([edges.left[order], edges.right[order]]), return_inverse=True)
    joins = _joins(compact[: len(order)], compact[len(order) :], len(ends))
    return by_rows(_select(edges, order[joins]))


def limit_edges(edges: Edges, *, num_rows: int, neighbours: int) -> Edges:
    """The bounded graph of edges between rows 0..num_rows, in increasing (left, right)."""
    edges = by_rows(edges)
    first, over = split(edges, find_cuts(edges, neighbours=neighbours, first_row=0, last_row=num_rows))
    if len(over.left) == 0:
        return first
    return by_rows(join_blocks([first, spanning_forest(over)]))


class EdgeLimiter:
    """The bounded graph of edges that stream by, between rows 0..num_rows.

    Memory: 20 bytes for each edge held, at most max(at_once, 2 * (neighbours + 1) * num_rows) of them and one block,
    and 80 bytes per edge held while limiting; a group of 100,000 copies (5e9 edges) holds 13 million edges.
    """

    def __init__(self, num_rows: int, *, neighbours: int, at_once: int = 1 << 22) -> None:
        self.num_rows, self.neighbours, self.at_once = num_rows, neighbours, at_once
        self._blocks: list[Edges] = []
        self.num_held = self._num_limited = 0

    def add(self, edges: Edges) -> None:
        """One more block, in any order."""
        self._blocks.append(edges)
        self.num_held += len(edges.left)
        if self.num_held > max(self.at_once, 2 * self._num_limited):
            self._limit()

    def result(self) -> Edges:
        """The bounded graph of all edges added, in increasing (left, right)."""
        self._limit()
        return self._blocks[0]

    def _limit(self) -> None:
        limited = limit_edges(join_blocks(self._blocks), num_rows=self.num_rows, neighbours=self.neighbours)
        self._blocks, self.num_held, self._num_limited = [limited], len(limited.left), len(limited.left)


class ForestBuilder:
    """The maximum spanning forest of edges that stream by. Memory: 20 bytes per edge held, at most twice the forest's
    (one per row that has edges) or `at_once`, and one block; 60 more per edge held while it is thinned."""

    def __init__(self, *, at_once: int = 1 << 22) -> None:
        self.at_once = at_once
        self._blocks: list[Edges] = []
        self.num_held = self._num_thinned = 0

    def add(self, edges: Edges) -> None:
        """One more block, in any order."""
        self._blocks.append(edges)
        self.num_held += len(edges.left)
        if self.num_held > max(self.at_once, 2 * self._num_thinned):
            self._thin()

    def result(self) -> Edges:
        """The forest, in increasing (left, right)."""
        self._thin()
        return self._blocks[0]

    def _thin(self) -> None:
        forest = spanning_forest(by_rows(join_blocks(self._blocks)))
        self._blocks, self.num_held, self._num_thinned = [forest], len(forest.left), len(forest.left)


def _select(edges: Edges, which: Mask | Rows) -> Edges:
    return Edges(edges.left[which], edges.right[which], edges.similarity[which])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _joins(left: Rows, right: Rows, num_ends: int) -> Mask:
    parents = np.arange(num_ends)
    joins = np.zeros(len(left), dtype=np.bool_)
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        while parents[a] != a:
            parents[a] = parents[parents[a]]  # path halving
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a != b:
            joins[edge] = True
            parents[max(a, b)] = min(a, b)
    return joins
