"""Connected components of a graph whose edges stream by, and the one image of each that is kept.

A disjoint-set forest in which every root is the smallest row of its component, so that the result does not
depend on the order of the edges (DINOv2, arXiv 2304.07193, App. A.3, asks for "a scalable disjoint set").
Memory: 4 bytes per row below 2**31 rows, 8 above; edges are never held.
"""

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]


class Components:
    """The forest: add edges in any order and any number of calls, then ask for the labels."""

    def __init__(self, num_rows: int) -> None:
        self.parents: Integers = np.arange(num_rows, dtype=np.int32 if num_rows < 2**31 else np.int64)

    def add(self, left: Integers, right: Integers) -> None:
        """Joins row left[i] with row right[i]. Raises IndexError for a row outside of the graph."""
        if len(left) != len(right):
            raise ValueError(f"edges need two ends: {len(left)} left ones, {len(right)} right ones")
        if len(left) == 0:
            return
        low, high = min(left.min(), right.min()), max(left.max(), right.max())
        if low < 0 or high >= len(self.parents):
            raise IndexError(f"edge to row {low if low < 0 else high} in a graph of {len(self.parents)} rows")
        _join(self.parents, left, right)

    def labels(self) -> Integers:
        """For every row the smallest row of its component; a row alone has itself. A view: do not change it."""
        _flatten(self.parents)
        return self.parents


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _join(parents: Integers, left: Integers, right: Integers) -> None:
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        while parents[a] != a:
            parents[a] = parents[parents[a]]  # path halving
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _flatten(parents: Integers) -> None:
    # A parent is never larger than its child, so one pass in increasing order meets only finished parents.
    for row in range(len(parents)):
        parents[row] = parents[parents[row]]


def component_sizes(labels: Integers) -> Integers:
    """The size of the component that each row is the label of; 0 for rows that are no label."""
    return np.bincount(labels, minlength=len(labels)) if len(labels) else np.zeros(0, dtype=np.int64)


def size_histogram(sizes: Integers) -> dict[int, int]:
    """How many components there are of each size, in increasing size."""
    values, counts = np.unique(sizes[sizes > 0], return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def keepers(labels: Integers, preference: Sequence[npt.NDArray[np.generic]]) -> Rows:
    """For every row, the row that is kept of its component.

    `preference` holds one or more arrays [rows], the most important first; the smallest value wins, and where
    all are equal the smallest row. Negate a column whose largest value should win. Memory: 8 bytes per row, and
    sorting only the rows that are not alone.
    """
    kept = np.arange(len(labels), dtype=np.int64)
    grouped = np.flatnonzero(component_sizes(labels)[labels] > 1)
    if len(grouped) == 0:
        return kept
    order = grouped[np.lexsort([column[grouped] for column in reversed(preference)] + [labels[grouped]])]
    first = np.r_[True, labels[order][1:] != labels[order][:-1]]
    best = np.zeros(len(labels), dtype=np.int64)
    best[labels[order[first]]] = order[first]
    kept[grouped] = best[labels[grouped]]
    return kept
