"""Connected components of a graph whose edges stream by.

A disjoint-set forest in which every root is the smallest row of its component, so that the result does not
depend on the order of the edges (DINOv2, arXiv 2304.07193, App. A.3, asks for "a scalable disjoint set"). Rem's
algorithm with splicing: the fastest of those that Patwary, Blair and Manne compare (SEA 2010, section 3).
Memory: 4 bytes per row below 2**31 rows, 8 above (1.2 billion images: 4.8 GB); edges are never held.
"""

from collections import Counter
from collections.abc import Iterable

import numba
import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer]

# After this share of all rows has been joined the forest is made flat: an edge inside a component then costs two reads.
_FLATTEN_SHARE = 0.1
_BLOCK = 1 << 20


class Components:
    """The forest: add edges in any order and any number of calls, then ask for the labels."""

    def __init__(self, num_rows: int) -> None:
        self.parents: Integers = np.arange(num_rows, dtype=np.int32 if num_rows < 2**31 else np.int64)
        self._joined = 0

    def add(self, left: Integers, right: Integers) -> None:
        """Joins row left[i] with row right[i]. Raises IndexError for a row outside of the graph; nothing is joined."""
        if len(left) != len(right):
            raise ValueError(f"edges need two ends: {len(left)} left ones, {len(right)} right ones")
        for rows in (left, right):
            if (outside := _first_outside(rows, len(self.parents))) >= 0:
                raise IndexError(f"edge to row {rows[outside]} in a graph of {len(self.parents)} rows")
        self._joined += _join(self.parents, left, right)
        if self._joined > _FLATTEN_SHARE * len(self.parents):
            self.labels()

    def labels(self) -> Integers:
        """For every row the smallest row of its component; a row alone has itself. A view: do not change it."""
        _flatten(self.parents)
        self._joined = 0
        return self.parents


def components_of(num_rows: int, pairs: Iterable[tuple[Integers, Integers]]) -> Integers:
    """The labels of a graph by blocks of its edges (left, right)."""
    forest = Components(num_rows)
    for left, right in pairs:
        forest.add(left, right)
    return forest.labels()


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _first_outside(rows: Integers, num_rows: int) -> int:
    """The position of the first row that is not in 0..num_rows, or -1."""
    wrong = False
    for position in range(len(rows)):  # without a way out, so that it runs as vector code
        wrong |= (rows[position] < 0) | (rows[position] >= num_rows)
    if wrong:
        for position in range(len(rows)):
            if rows[position] < 0 or rows[position] >= num_rows:
                return position
    return -1


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _join(parents: Integers, left: Integers, right: Integers) -> int:
    """How many edges joined two trees. A parent is never larger than its child: the smallest row is the root."""
    num_joined = 0
    for edge in range(len(left)):
        low, high = left[edge], right[edge]
        above_low, above_high = parents[low], parents[high]
        while above_low != above_high:
            if above_low > above_high:
                low, high = high, low
                above_low, above_high = above_high, above_low
            # The larger parent gives way: its child hangs on the smaller one from now on, and the climb goes on there.
            parents[high] = above_low
            if high == above_high:  # it was a root: two trees are one
                num_joined += 1
                break
            high = above_high
            above_high = parents[high]
    return num_joined


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _flatten(parents: Integers) -> None:
    # A parent is never larger than its child, so one pass in increasing order meets only finished parents.
    for row in range(len(parents)):
        parents[row] = parents[parents[row]]


def component_sizes(labels: Integers) -> Integers:
    """The size of the component that each row is the label of; 0 for rows that are no label. As wide as `labels`."""
    sizes = np.zeros(len(labels), dtype=labels.dtype)
    _count(labels, sizes)
    return sizes


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(labels: Integers, sizes: Integers) -> None:
    for row in range(len(labels)):
        sizes[labels[row]] += 1


def size_histogram(sizes: Integers) -> dict[int, int]:
    """How many components there are of each size, in increasing size. Memory: a block, and the histogram."""
    histogram: Counter[int] = Counter()
    for start in range(0, len(sizes), _BLOCK):
        block = sizes[start : start + _BLOCK]
        values, counts = np.unique(block[block > 0], return_counts=True)
        histogram.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return dict(sorted(histogram.items()))
