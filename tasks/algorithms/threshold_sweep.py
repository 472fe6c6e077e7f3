"""How many images every threshold would drop, from the edges that are there already: one union-find for all thresholds.

Edges are taken from the most similar down (Kruskal's order), so that the components at every threshold stand in the
forest when its turn comes. DINOv2's thresholds (0.6 and 0.45; arXiv 2304.07193, App. A.3) were chosen once; this is
what shows whether they suit other data, and where chains begin to tie unrelated images together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Rows

Similarities = npt.NDArray[np.float32]
EdgeBlocks = Callable[[], Iterable[tuple[Rows, Rows, Similarities]]]
"""Called anew for every pass: blocks of (left, right, similarity)."""

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
    """Counts at every threshold, for graphs of any size: edges are read 1 + ceil(edges / held_edges) times.

    `thresholds` must increase. Rows from `counted` on (references) join components but are not counted. `marks` are
    groups of rows (the references of each benchmark): a component may hold marks of several. Order and blocks of the
    edges do not matter. Memory: 9 to 24 bytes per row (8 below 2**31 rows for parents and sizes, 1 to 8 for the marks)
    and 18 bytes per held edge. Raises ValueError for thresholds that do not increase or more than 64 groups.
    """
    limits = np.asarray(thresholds, dtype=np.float32)
    if len(limits) == 0 or (np.diff(limits) <= 0).any():
        raise ValueError(f"thresholds must increase and be at least one, got {list(thresholds)}")
    if len(marks) > MAX_GROUPS:
        raise ValueError(f"at most {MAX_GROUPS} groups of marks fit one sweep, got {len(marks)}")
    forest = _Forest.of(num_rows, num_rows if counted is None else counted, marks)
    counts = _count_by_bin(edges(), limits)
    history = np.zeros((len(limits), len(forest.tallies)), dtype=np.int64)
    for bins in _batches(counts, held_edges):
        for bin_, blocks in _edges_of(edges, limits, bins, in_memory=int(counts[bins].sum()) <= held_edges):
            for left, right in blocks:
                forest.join(left, right)
            history[bin_] = forest.tallies
    return ThresholdSweep(
        thresholds=limits,
        edges=np.cumsum(counts[::-1])[::-1].astype(np.int64),
        dropped=history[:, _JOINS],
        components=history[:, _COMPONENTS],
        largest=history[:, _LARGEST],
        marked_any=history[:, _MARKED_ANY],
        marked=history[:, _MARKED:].T,
    )


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

    def join(self, left: Rows, right: Rows) -> None:
        if len(left) == 0:
            return
        low, high = min(left.min(), right.min()), max(left.max(), right.max())
        if low < 0 or high >= len(self.parents):
            raise IndexError(f"edge to row {low if low < 0 else high} in a graph of {len(self.parents)} rows")
        _join_counting(self.parents, self.sizes, self.masks, self.tallies, left, right)


def _mask_type(num_groups: int) -> npt.DTypeLike:
    return next(f"u{size}" for size in (1, 2, 4, 8) if num_groups <= 8 * size)


def _bins_of(similarity: Similarities, limits: Similarities) -> Rows:
    """The last threshold that each edge is above; -1 for none."""
    return np.searchsorted(limits, similarity, side="left") - 1


def _count_by_bin(blocks: Iterable[tuple[Rows, Rows, Similarities]], limits: Similarities) -> Rows:
    counts = np.zeros(len(limits), dtype=np.int64)
    for _, _, similarity in blocks:
        bins = _bins_of(similarity, limits)
        counts += np.bincount(bins[bins >= 0], minlength=len(limits))
    return counts


def _batches(counts: Rows, held_edges: int) -> Iterator[list[int]]:
    """Bins from the most similar down, as many at a time as may be held; a larger one alone (it is streamed)."""
    batch: list[int] = []
    held = 0
    for bin_ in range(len(counts) - 1, -1, -1):
        if batch and held + counts[bin_] > held_edges:
            yield batch
            batch, held = [], 0
        batch.append(bin_)
        held += int(counts[bin_])
    yield batch


def _edges_of(
    edges: EdgeBlocks, limits: Similarities, bins: list[int], *, in_memory: bool
) -> Iterator[tuple[int, Iterable[tuple[Rows, Rows]]]]:
    """(bin, its edges) for consecutive bins, downwards: one pass over the edges."""
    if not in_memory:
        yield bins[0], (_within(block, limits, bins)[1:] for block in edges())
        return
    found = [_within(block, limits, bins) for block in edges()]
    for bin_ in bins:
        yield bin_, ((left[of == bin_], right[of == bin_]) for of, left, right in found)


def _within(
    block: tuple[Rows, Rows, Similarities], limits: Similarities, bins: list[int]
) -> tuple[npt.NDArray[np.int16], Rows, Rows]:
    left, right, similarity = block
    of = _bins_of(similarity, limits)
    here = np.flatnonzero((of >= bins[-1]) & (of <= bins[0]))
    return of[here].astype(np.int16), np.asarray(left)[here], np.asarray(right)[here]


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
