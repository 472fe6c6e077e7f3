"""Which pairs of a graph a person should look at: the closest calls around a threshold, and a few of each step.

One pass over the edges. Memory: the pairs to be shown, some times over, and a block of edges.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tasks.algorithms.components import components_of
from tasks.algorithms.sampling import Keys, mix
from tasks.algorithms.self_join import Edges
from tasks.graph.files import merge, select

_SPARE = 8  # times as many as are shown: those with an image that is on the page already are passed over
RUNG = 0.05


class Smallest:
    """The edges with the smallest keys of all that came by; equal keys by (left, right)."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._keys = np.zeros(0)
        self._edges = merge([])

    def add(self, keys: npt.NDArray[np.float64], edges: Edges) -> None:
        """Look at more edges."""
        if len(self._keys) == self.num:  # most blocks have few that are better
            better = keys <= self._keys[-1:].max(initial=-np.inf)
            keys, edges = keys[better], select(edges, better)
        keys, all_ = np.concatenate([self._keys, keys]), merge([self._edges, edges])
        order = np.lexsort((all_.right, all_.left, keys))[: self.num]
        self._keys, self._edges = keys[order], select(all_, order)

    def varied(self, num: int) -> list[tuple[int, int, float]]:
        """The `num` first (left, right, similarity) in which no image stands twice, as far as there are such."""
        seen: set[int] = set()
        chosen: list[tuple[int, int, float]] = []
        for left, right, similarity in zip(*(column.tolist() for column in self._edges), strict=True):
            if len(chosen) < num and not {left, right} & seen:
                seen |= {left, right}
                chosen.append((left, right, similarity))
        return chosen


@dataclass(frozen=True)
class Picked:
    """(left row, right row, similarity) of the pairs to show; `counts` [steps] are all pairs of each step."""

    above: Sequence[tuple[int, int, float]]
    below: Sequence[tuple[int, int, float]]
    steps: Sequence[tuple[float, float]]
    counts: Sequence[int]
    rungs: Sequence[Sequence[tuple[int, int, float]]]


def pick_pairs(
    edges: Iterable[Edges], *, lowest: float, threshold: float, num: int, num_per_rung: int, seed: int
) -> Picked:
    """The `num` closest calls on either side of the threshold, and a few of every step of 0.05 from `lowest` to 1.

    Those of a step are drawn by a hash of their rows and the seed; the order of the edges does not matter.
    """
    limits = np.round(np.arange(np.floor(lowest / RUNG + 1e-6), np.round(1 / RUNG) + 1) * RUNG, 6).astype(np.float32)
    above, below = Smallest(_SPARE * num), Smallest(_SPARE * num)
    rungs = [Smallest(_SPARE * num_per_rung) for _ in limits[:-1]]
    counts = np.zeros(len(rungs), dtype=np.int64)
    for block in edges:
        distance = block.similarity - np.float32(threshold)
        above.add(distance[distance > 0].astype(np.float64), select(block, distance > 0))
        below.add(-distance[distance <= 0].astype(np.float64), select(block, distance <= 0))
        keys = _pair_keys(block, seed)
        step = np.clip(np.searchsorted(limits, block.similarity, side="left") - 1, 0, len(rungs) - 1)
        counts += np.bincount(step, minlength=len(rungs))
        for number in np.unique(step):
            rungs[number].add(keys[step == number], select(block, step == number))
    return Picked(
        above=above.varied(num),
        below=below.varied(num),
        steps=[(float(low), float(high)) for low, high in pairwise(limits)],
        counts=counts.tolist(),
        rungs=[rung.varied(num_per_rung) for rung in rungs],
    )


def _pair_keys(edges: Edges, seed: int) -> npt.NDArray[np.float64]:
    left: Keys = edges.left.astype(np.uint64)
    start = mix(np.full(1, seed, dtype=np.uint64))
    return mix(mix(left ^ start) ^ edges.right.astype(np.uint64)).astype(np.float64)


def threshold_grid(lowest: float, now: float) -> list[float]:
    """Hundredths from `lowest` to 0.99, with `lowest` and the run's own threshold among them."""
    first = int(np.ceil(round(lowest * 100, 6)))
    return sorted({lowest, now, *(hundredth / 100 for hundredth in range(first, 100))})


def weakest_joint(edges: Edges) -> int | None:
    """Of edges that connect their rows, the place of the one that is missed first as the threshold rises.

    It is the least similar edge of a maximum spanning tree: with all edges up to it, from the most similar down, the
    rows hang together, without it they do not. None when they do not hang together at all.
    """
    rows, inverse = np.unique(np.concatenate([edges.left, edges.right]), return_inverse=True)
    if len(rows) == 0:
        return None
    order = np.lexsort((edges.right, edges.left, -edges.similarity))
    left, right = (end[order] for end in np.split(inverse.astype(np.int64), 2))
    low, high = len(rows) - 1, len(order)
    if not _connected(len(rows), left, right):
        return None
    while low < high:  # the fewest edges that connect
        middle = (low + high) // 2
        if _connected(len(rows), left[:middle], right[:middle]):
            high = middle
        else:
            low = middle + 1
    return int(order[low - 1])


def _connected(num_rows: int, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> bool:
    return bool((components_of(num_rows, [(left, right)]) == 0).all())
