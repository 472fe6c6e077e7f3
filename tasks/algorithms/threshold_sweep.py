"""How many images every threshold would drop, from the edges that are there already: one pass, one union-find.

Edges are joined from the most similar down (Kruskal's order), so that the components at every threshold stand in the
forest when its turn comes. Of the edges that stream by only those of a maximum spanning forest are held: any other
closes a cycle of more similar ones and changes no component at any threshold. DINOv2's thresholds (0.6 and 0.45; arXiv
2304.07193, App. A.3) were chosen once; this shows whether they suit other data, and where chains begin to tie
unrelated images together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Rows

Similarities = npt.NDArray[np.float32]
EdgeBlocks = Iterable[tuple[Rows, Rows, Similarities]]
"""Blocks of (left, right, similarity)."""

MAX_GROUPS = 64
_TALLIES = 3  # joins, components of two or more, largest; then one of any mark, then one per group of marks
_JOINS, _COMPONENTS, _LARGEST, _MARKED_ANY, _MARKED = 0, 1, 2, 3, 4


@dataclass(frozen=True)
class ThresholdSweep:
    """What the graph is at each threshold t (edges with similarity > t); all arrays are [thresholds]."""

    thresholds: Similarities
    edges: Rows
    dropped: Rows
    """Counted rows less components: what a keeper per component leaves out."""
    components: Rows
    """Components of at least two counted rows."""
    largest: Rows
    """Counted rows of the largest component."""
    marked_any: Rows
    """Counted rows in components that hold a mark."""
    marked: npt.NDArray[np.int64]
    """[groups, thresholds]: counted rows in components that hold a mark of the group."""


def sweep_thresholds(
    num_rows: int,
    edges: EdgeBlocks,
    thresholds: Sequence[float],
    *,
    marks: Sequence[Rows] = (),
    counted: int | None = None,
    held_edges: int = 50_000_000,
) -> ThresholdSweep:
    """Counts at every threshold, for graphs of any size. One pass over the edges, in any order and blocks.

    `thresholds` must increase. Rows from `counted` on (references) join components but are not counted. `marks` are
    groups of rows (the references of each benchmark): a component may hold marks of several. Memory: 9 to 16 bytes per
    row (below 2**31 rows: 4 for parents, 4 for sizes, 1 to 8 for marks; above 8 and 8) and 18 bytes per held edge
    (34 above), which are `held_edges` or, if that is more, twice as many as rows that have an edge. Raises ValueError
    for thresholds that do not increase or more than 64 groups, IndexError for edges to rows that are not there.
    """
    limits = np.asarray(thresholds, dtype=np.float32)
    if not 0 < len(limits) < 2**15 or (np.diff(limits) <= 0).any():
        raise ValueError(f"thresholds must increase and be at least one, got {list(thresholds)}")
    if len(marks) > MAX_GROUPS:
        raise ValueError(f"at most {MAX_GROUPS} groups of marks fit one sweep, got {len(marks)}")
    forest = _Forest.of(num_rows, num_rows if counted is None else counted, marks)
    spanning = _Spanning(num_rows, limits, held_edges)
    for left, right, similarity in edges:
        spanning.add(left, right, similarity)
    history = np.zeros((len(limits), len(forest.tallies)), dtype=np.int64)
    left, right, starts = spanning.by_bin()
    for bin_ in range(len(limits) - 1, -1, -1):
        here = slice(starts[bin_], starts[bin_ + 1])
        forest.join(left[here], right[here])
        history[bin_] = forest.tallies
    return ThresholdSweep(
        thresholds=limits,
        edges=np.cumsum(spanning.counts[::-1])[::-1].astype(np.int64),
        dropped=history[:, _JOINS],
        components=history[:, _COMPONENTS],
        largest=history[:, _LARGEST],
        marked_any=history[:, _MARKED_ANY],
        marked=history[:, _MARKED:].T,
    )


class _Spanning:
    """A maximum spanning forest of the edges so far, and some edges more; counts [thresholds] of all by bin.

    An edge's bin is the last threshold that it is above; inside a bin any order gives the same components.
    """

    def __init__(self, num_rows: int, limits: Similarities, held_edges: int) -> None:
        self.num_rows, self.limits, self.held_edges = num_rows, limits, held_edges
        self.index = np.int32 if num_rows < 2**31 else np.int64
        self.counts = np.zeros(len(limits), dtype=np.int64)
        self._held: list[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.int16]]] = []
        self._num_held, self._limit = 0, held_edges

    def add(self, left: Rows, right: Rows, similarity: Similarities) -> None:
        """More edges."""
        bins = np.searchsorted(self.limits, similarity, side="left") - 1
        above = bins >= 0
        left, right, bins = left[above], right[above], bins[above]
        for rows in (left, right):
            if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_rows:
                raise IndexError(f"edge to row {rows.max()} in a graph of {self.num_rows} rows")
        self.counts += np.bincount(bins, minlength=len(self.limits))
        self._held.append((left.astype(self.index), right.astype(self.index), bins.astype(np.int16)))
        self._num_held += len(bins)
        if self._num_held > self._limit:
            left, right, starts = self.by_bin()
            sorted_bins = np.repeat(np.arange(len(self.limits), dtype=np.int16), np.diff(starts))
            self._held = [(left, right, sorted_bins)]
            self._num_held = len(left)
            self._limit = max(self.held_edges, 2 * self._num_held)

    def by_bin(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Rows]:
        """(left, right, starts): the forest's edges, those of bin b from starts[b] to starts[b + 1]."""
        if not self._held:
            nothing = np.zeros(0, dtype=self.index)
            return nothing, nothing, np.zeros(len(self.limits) + 1, dtype=np.int64)
        left, right, bins = (np.concatenate(column) for column in zip(*self._held, strict=True))
        self._held = []
        order = np.argsort(bins, kind="stable")  # by radix: linear
        left, right, bins = left[order], right[order], bins[order]
        del order
        needed = _spanning_edges(np.arange(self.num_rows, dtype=self.index), left, right)
        left, right, bins = left[needed], right[needed], bins[needed]
        return left, right, np.searchsorted(bins, np.arange(len(self.limits) + 1))


@dataclass
class _Forest:
    """Disjoint sets whose roots are their smallest rows, with each set's counted rows and the groups that mark it."""

    parents: npt.NDArray[Any]
    sizes: npt.NDArray[Any]
    masks: npt.NDArray[Any]
    tallies: npt.NDArray[np.int64]

    @classmethod
    def of(cls, num_rows: int, counted: int, marks: Sequence[Rows]) -> "_Forest":
        index = np.int32 if num_rows < 2**31 else np.int64
        sizes = np.zeros(num_rows, dtype=index)
        sizes[:counted] = 1
        masks = np.zeros(num_rows, dtype=_mask_type(len(marks)))
        for group, rows in enumerate(marks):
            masks[rows] |= masks.dtype.type(1 << group)
        tallies = np.zeros(_TALLIES + 1 + len(marks), dtype=np.int64)
        tallies[_LARGEST] = min(counted, 1)
        tallies[_MARKED_ANY] = np.count_nonzero(masks[:counted])
        for group, rows in enumerate(marks):
            tallies[_MARKED + group] = np.count_nonzero(np.asarray(rows) < counted)
        return cls(np.arange(num_rows, dtype=index), sizes, masks, tallies)

    def join(self, left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
        _join_counting(self.parents, self.sizes, self.masks, self.tallies, left, right)


def _mask_type(num_groups: int) -> npt.DTypeLike:
    return next(f"u{size}" for size in (1, 2, 4, 8) if num_groups <= 8 * size)


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _spanning_edges(
    parents: npt.NDArray[Any], left: npt.NDArray[Any], right: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """Which edges join two trees when they are taken from the last to the first."""
    needed = np.zeros(len(left), dtype=np.bool_)
    for edge in range(len(left) - 1, -1, -1):
        a, b = left[edge], right[edge]
        while parents[a] != a:
            parents[a] = parents[parents[a]]  # path halving
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a != b:
            parents[max(a, b)] = min(a, b)
            needed[edge] = True
    return needed


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _join_counting(
    parents: npt.NDArray[Any],
    sizes: npt.NDArray[Any],
    masks: npt.NDArray[Any],
    tallies: npt.NDArray[np.int64],
    left: Rows,
    right: Rows,
) -> None:
    num_groups = len(tallies) - 4
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        while parents[a] != a:
            parents[a] = parents[parents[a]]  # path halving
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a == b:
            continue
        if b < a:
            a, b = b, a
        parents[b] = a
        if sizes[a] > 0 and sizes[b] > 0:
            tallies[0] += 1
            if sizes[a] == 1 and sizes[b] == 1:
                tallies[1] += 1
            elif sizes[a] > 1 and sizes[b] > 1:
                tallies[1] -= 1
        if masks[a] != masks[b]:
            if masks[a] == 0:
                tallies[3] += sizes[a]
            if masks[b] == 0:
                tallies[3] += sizes[b]
            for group in range(num_groups):
                bit = masks.dtype.type(1 << group)
                if masks[a] & bit and not masks[b] & bit:
                    tallies[4 + group] += sizes[b]
                elif masks[b] & bit and not masks[a] & bit:
                    tallies[4 + group] += sizes[a]
            masks[a] |= masks[b]
        sizes[a] += sizes[b]
        if sizes[a] > tallies[2]:
            tallies[2] = sizes[a]
