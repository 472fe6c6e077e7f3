"""How many images every N, M and number of queries would bring, from neighbours and clusters that are there already.

DINOv2 tuned N and M by looking (arXiv 2304.07193, section 3): a larger N still looked well, but brought more
collisions, images that are neighbours of several queries. These are the counts beside the pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows

Counts = npt.NDArray[np.int64]
QUANTILES = (0.1, 0.5, 0.9)
_BINS = 2000  # of similarity, from -1 to 1: quantiles are right to 0.001
_NEVER = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class NeighbourSweep:
    """What N neighbours of each query bring, for N = 1, 2, ... as far as neighbours are known; arrays are [num]."""

    retrieved: Counts
    """Neighbours, repeats counted."""
    unique: Counts
    """Distinct images among them."""
    quantiles: Floats
    """[10 %, 50 %, 90 %; num] of the similarity of the N-th neighbour; NaN where no query has one."""

    @property
    def collisions(self) -> Counts:
        """Neighbours that an earlier query, or an earlier place of the list, had brought."""
        return self.retrieved - self.unique


def sweep_neighbours(blocks: Iterable[tuple[Rows, Rows, Floats]], *, num_pool: int, num: int) -> NeighbourSweep:
    """Counts for N = 1..num from blocks of (rank from 0, pool row, similarity), one entry per query and neighbour.

    Ranks from `num` on are left out. One pass, in any order and blocks. Memory: 2 bytes per pool image, 16 KB per N.
    """
    if not 0 < num < _NEVER:
        raise ValueError(f"num must be between 1 and {_NEVER - 1}, got {num}")
    first = np.full(num_pool, _NEVER, dtype=np.uint16)
    retrieved = np.zeros(num, dtype=np.int64)
    histogram = np.zeros((num, _BINS), dtype=np.int64)
    for ranks, rows, similarity in blocks:
        there = (np.asarray(ranks) < num) & (np.asarray(rows) >= 0)
        ranks, rows, similarity = ranks[there], rows[there], similarity[there]
        np.minimum.at(first, rows, ranks.astype(np.uint16))
        retrieved += np.bincount(ranks, minlength=num)
        bins = np.clip(((similarity + 1) * (_BINS / 2)).astype(np.int64), 0, _BINS - 1)
        np.add.at(histogram, (ranks, bins), 1)
    unique = np.bincount(first[first < num], minlength=num)
    return NeighbourSweep(np.cumsum(retrieved), np.cumsum(unique), _quantiles(histogram))


def _quantiles(histogram: npt.NDArray[np.int64]) -> Floats:
    """The middle of the bin in which each quantile of each row falls."""
    total = histogram.sum(axis=1)
    reached = np.cumsum(histogram, axis=1)
    found = np.full((len(QUANTILES), len(histogram)), np.nan, dtype=np.float32)
    for place, quantile in enumerate(QUANTILES):
        bins = (reached < np.maximum(np.ceil(quantile * total), 1)[:, None]).sum(axis=1)
        found[place] = np.where(total > 0, (bins + 0.5) * (2 / _BINS) - 1, np.nan)
    return found


def images_by_per_cluster(sizes: Counts, queries: Counts, *, per_cluster: Sequence[int], min_queries: int) -> Counts:
    """Images that M = per_cluster[i] brings before any cap: the sum of min(M, size) over the clusters that count.

    `sizes` and `queries` [clusters] are each cluster's pool images and the source's queries in it.
    """
    counting = np.sort(sizes[queries > min_queries])
    below = np.r_[0, np.cumsum(counting)]
    limits = np.asarray(per_cluster, dtype=np.int64)
    whole = np.searchsorted(counting, limits, side="right")
    return below[whole] + limits * (len(counting) - whole)


def clusters_by_min_queries(
    sizes: Counts, queries: Counts, *, min_queries: Sequence[int], per_cluster: int
) -> tuple[Counts, Counts]:
    """(clusters that count, images they bring before any cap) for every least number of queries."""
    taken = np.minimum(sizes, per_cluster)
    counting = [queries > least for least in min_queries]
    clusters = np.array([int(here.sum()) for here in counting], dtype=np.int64)
    return clusters, np.array([int(taken[here].sum()) for here in counting], dtype=np.int64)
