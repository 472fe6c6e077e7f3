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
    left, right = edges.left, edges.right
    if max(left.max(initial=0), right.max(initial=0)) < 2**32:  # one key sorts several times as fast as two
        order = np.argsort((left.astype(np.uint64) << np.uint64(32)) | right.astype(np.uint64))
    else:
        order = np.lexsort((right, left))
    left, right = left[order], right[order]
    first = np.r_[True, (left[1:] != left[:-1]) | (right[1:] != right[:-1])][: len(left)]
    return Edges(left[first], right[first], edges.similarity[order][first])


def find_cuts(edges: Edges, *, neighbours: int, first_row: int, last_row: int) -> Cuts:
    """The cuts of rows first_row <= row < last_row (at most 2**31 of them).

    `edges` holds all edges of these rows, each pair once, in increasing (left, right); similarities are not negative.
    Memory: 4 bytes per row, 20 bytes per end of an edge, and 40 more per end in a row with a cut.
    """
    # Of one row first the edges to smaller rows, then those to larger ones: in increasing order of their other end.
    rows = np.concatenate([edges.right, edges.left]) - first_row
    inside = (rows >= 0) & (rows < last_row - first_row)
    counts = np.bincount(rows[inside], minlength=last_row - first_row)
    inside[inside] = counts[rows[inside]] > neighbours
    rows = rows[inside]
    others = np.concatenate([edges.left, edges.right])[inside]
    similarity = np.concatenate([edges.similarity, edges.similarity])[inside]
    order = np.argsort((rows << 32) | _descending(similarity), kind="stable")
    rows = rows[order]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]][: len(rows)])
    last = order[starts + neighbours - 1]
    return Cuts(rows[starts] + first_row, similarity[last], others[last])


def _descending(similarity: Floats) -> npt.NDArray[np.int64]:
    """Integers in the opposite order of similarities that are not negative, below 2**32."""
    bits = np.ascontiguousarray(similarity, dtype=np.float32).view(np.uint32).astype(np.int64)
    return np.asarray((1 << 32) - 1 - bits)


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

    `edges` are in increasing (left, right), each pair once. The forest's components above any threshold are those of
    the edges. Memory: 80 bytes per edge.
    """
    ends, compact = np.unique(np.concatenate([edges.left, edges.right]), return_inverse=True)
    num = len(edges.left)
    return _select(edges, np.sort(_kruskal(compact[:num], compact[num:], edges.similarity, len(ends)).positions))


class _Tree(NamedTuple):
    """Kruskal's forest. `positions` [edges of it] in the list it was made of, the best first; `parents` [rows] point to
    a larger tree, `steps` [rows] say which of the forest's edges did that (its number, or the largest int64).

    A tree hangs below a larger one, and every step up was made later, hence by a worse edge: the way between two rows
    meets its worst edge last, after log2(rows) steps at most.
    """

    positions: Rows
    parents: Rows
    steps: Rows


def _kruskal(left: Rows, right: Rows, similarity: Floats, num_rows: int) -> _Tree:
    order = np.argsort(_descending(similarity), kind="stable")
    joins, parents, steps = _joins(left[order], right[order], num_rows)
    return _Tree(order[joins], parents, steps)


def limit_edges(edges: Edges, *, num_rows: int, neighbours: int) -> Edges:
    """The bounded graph of edges between rows 0..num_rows, in increasing (left, right). Memory: 120 bytes per edge."""
    limiter = EdgeLimiter(num_rows, neighbours=neighbours)
    limiter.hold(edges)
    return limiter.result()


class EdgeLimiter:
    """The bounded graph of edges that stream by, between rows 0..num_rows, each pair once.

    From time to time what is held is limited. An edge that comes later, neither end of which would keep it and whose
    rows are joined by better edges that are left over too, is passed over at once.
    Memory: 28 bytes per row, and 20 bytes for each edge held, at most max(at_once, 2 * (neighbours + 1) * num_rows) of
    them and one block; 120 more per edge held while limiting. A group of 100,000 copies has 5e9 edges, of which at most
    13 million are held (260 MB).
    """

    def __init__(self, num_rows: int, *, neighbours: int, at_once: int = 1 << 21) -> None:
        self.num_rows, self.neighbours, self.at_once = num_rows, neighbours, at_once
        self.num_held = self._num_limited = 0
        self._blocks: list[Edges] = []
        self._cuts: tuple[Floats, Rows] | None = None
        self._forest, self._tree = NO_EDGES, _Tree(*(np.zeros(0, np.int64) for _ in range(3)))

    def add(self, edges: Edges) -> None:
        """One more block, in any order."""
        for start in range(0, len(edges.left), self.at_once):
            piece = _select(edges, slice(start, start + self.at_once))
            if self._cuts is not None:
                piece = _select(piece, self._may_stay(piece, *self._cuts))
            self.hold(piece)
            if self.num_held > max(self.at_once, 2 * self._num_limited):
                self._limit()

    def hold(self, edges: Edges) -> None:
        """Take edges as they are; what is held is limited by `add` or `result`."""
        self._blocks.append(edges)
        self.num_held += len(edges.left)

    def result(self) -> Edges:
        """The bounded graph of all edges added, in increasing (left, right)."""
        self._limit()
        return self._blocks[0]

    def _may_stay(self, edges: Edges, cuts: Floats, others: Rows) -> Mask:
        tree, forest = self._tree, self._forest
        return np.asarray(
            _may_stay(
                edges.left,
                edges.right,
                edges.similarity,
                cuts,
                others,
                tree.parents,
                tree.steps,
                forest.left,
                forest.right,
                forest.similarity,
            )
        )

    def _limit(self) -> None:
        edges = by_rows(join_blocks(self._blocks))
        cuts = find_cuts(edges, neighbours=self.neighbours, first_row=0, last_row=self.num_rows)
        first, over = split(edges, cuts)
        if len(cuts.rows):
            self._tree = _kruskal(over.left, over.right, over.similarity, self.num_rows)
            self._forest = _select(over, self._tree.positions)
            similarity, others = np.full(self.num_rows, -1, np.float32), np.zeros(self.num_rows, np.int64)
            similarity[cuts.rows], others[cuts.rows] = cuts.similarity, cuts.others
            self._cuts = similarity, others
            first = by_rows(join_blocks([first, self._forest]))
        self._blocks, self.num_held, self._num_limited = [first], len(first.left), len(first.left)


class ForestBuilder:
    """The maximum spanning forest of edges that stream by. Memory: 20 bytes per edge held, at most twice the forest's
    (one per row that has edges) or `at_once`, and one block; 60 more per edge held while it is thinned."""

    def __init__(self, *, at_once: int = 1 << 21) -> None:
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


def _select(edges: Edges, which: Mask | Rows | slice) -> Edges:
    return Edges(edges.left[which], edges.right[which], edges.similarity[which])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _joins(left: Rows, right: Rows, num_rows: int) -> tuple[Mask, Rows, Rows]:
    """Which edges of a list, the best first, join two trees; the trees (see `_Tree`)."""
    parents, sizes = np.arange(num_rows), np.ones(num_rows, dtype=np.int64)
    steps = np.full(num_rows, np.iinfo(np.int64).max)
    joins = np.zeros(len(left), dtype=np.bool_)
    num_joined = 0
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        while parents[a] != a:
            a = parents[a]
        while parents[b] != b:
            b = parents[b]
        if a == b:
            continue
        if sizes[a] < sizes[b]:
            a, b = b, a
        parents[b], steps[b] = a, num_joined
        sizes[a] += sizes[b]
        joins[edge] = True
        num_joined += 1
    return joins, parents, steps


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _may_stay(
    left: Rows,
    right: Rows,
    similarity: Floats,
    cuts: Floats,
    cut_others: Rows,
    parents: Rows,
    steps: Rows,
    forest_left: Rows,
    forest_right: Rows,
    forest_similarity: Floats,
) -> Mask:
    """Edges that an end may keep (those seen so far cut at `cuts`, -1 for no cut), or that may belong to the forest."""
    stays = np.ones(len(left), dtype=np.bool_)
    for edge in range(len(left)):
        a, b, here = left[edge], right[edge], similarity[edge]
        if here > cuts[a] or (here == cuts[a] and b <= cut_others[a]):
            continue
        if here > cuts[b] or (here == cuts[b] and a <= cut_others[b]):
            continue
        worst = -1
        while a != b:
            if steps[a] > steps[b]:
                a, b = b, a
            if parents[a] == a:
                break
            worst, a = steps[a], parents[a]
        if a != b:
            continue  # two trees
        better = forest_similarity[worst]
        if better > here:
            stays[edge] = False
        elif better == here:
            one, other = forest_left[worst], forest_right[worst]
            stays[edge] = not (one < left[edge] or (one == left[edge] and other < right[edge]))
    return stays
