"""The second half of a k-means iteration: sums of rows by cluster, and where the centroids move.

Sums are integers, in units of 2^-24, so that they are the same in whatever order, by whatever workers they are made;
float sums are not (and at 10^8 rows lose the small ones, faiss#1196).
"""

import heapq
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms import kmeans_kernels as kernels
from tasks.algorithms.blocks import Array, Floats
from tasks.algorithms.kmeans_nearest import Labels, on_grid

Counts = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_LEAST_LOSS = 1e-4  # of a row, on average, in a cluster worth splitting: below it are copies, rounded
_STEP = 0.1


class Sums:
    """The sum of the rows of each cluster [clusters, dim], in units of 2^-24, and their number [clusters].

    Memory: 8 * clusters * dim bytes (1 GB for 100,000 x 1280). Holds 2^39 rows of unit length before it overflows.
    """

    def __init__(self, num_clusters: int, dim: int) -> None:
        self.sums = np.zeros((num_clusters, dim), dtype=np.int64)
        self.counts = np.zeros(num_clusters, dtype=np.int64)

    def add(self, block: Array, labels: Labels) -> None:
        """Adds block[r] to the cluster labels[r]."""
        rows = np.asarray(block, dtype=np.float32, order="C")
        kernels.in_slices(kernels.add_columns, rows.shape[1], rows, labels, self.sums)
        self.counts += np.bincount(labels, minlength=len(self.counts))


class Moved(NamedTuple):
    """Where centroids go, and what the old ones were worth: per cluster its new centroid, its number of rows, the sum
    of its rows' products with the old centroid and with the new one."""

    centroids: Floats  # [clusters, dim], unit length, on the grid; an empty cluster's stays
    counts: Counts  # [clusters]
    before: Doubles  # [clusters]
    after: Doubles  # [clusters]


def move(sums: Counts, counts: Counts, centroids: Floats) -> Moved:
    """Each centroid to the direction of its sum (`Sums`). Clusters do not depend on each other: cut as you like."""
    moved = np.empty(centroids.shape, dtype=np.float32)
    before, after = np.empty(len(counts)), np.empty(len(counts))
    _move(sums, np.ascontiguousarray(centroids), moved, before, after)
    return Moved(moved, counts, before, after)


@numba.njit(cache=True, nogil=True)
def _move(sums: Array, centroids: Floats, moved: Floats, before: Doubles, after: Doubles) -> None:
    for cluster in range(len(centroids)):
        square = gain = 0.0
        for column in range(centroids.shape[1]):
            value = sums[cluster, column] / kernels.GRID
            square += value * value
            gain += value * centroids[cluster, column]
        length = np.sqrt(square)
        before[cluster], after[cluster] = gain, length
        for column in range(centroids.shape[1]):
            value = sums[cluster, column] / kernels.GRID
            # Rows that cancel out have no direction: the centroid stays.
            kept = centroids[cluster, column]
            moved[cluster, column] = np.rint(value / length * kernels.GRID) / kernels.GRID if length > 0 else kept


def split_for_empty(moved: Moved, *, seed: int, iteration: int) -> tuple[Floats, int, int]:
    """The moved centroids with every empty cluster's beside that of the cluster which loses most; empty, reseeded.

    The loss of a cluster is the sum of 1 - cosine over its rows, which the sums tell: no row has to be looked at. The
    new centroid is a small step aside, in a direction that hangs on (seed, iteration, cluster): about half of the rows
    lie on its side. The other centroids stay, so the objective cannot fall. Clusters of copies are not split.
    """
    centroids = moved.centroids.copy()
    empty = np.flatnonzero(moved.counts == 0)
    loss = moved.counts - moved.after
    worth = np.flatnonzero((moved.counts > 1) & (loss > _LEAST_LOSS * moved.counts)) if len(empty) else empty
    heap = [(-float(loss[cluster]), int(cluster), 1) for cluster in worth]
    heapq.heapify(heap)
    num_reseeded = 0
    for cluster in empty if heap else ():
        _, donor, pieces = heap[0]
        heapq.heapreplace(heap, (-float(loss[donor]) / (pieces + 1), donor, pieces + 1))
        cosine = min(1.0, float(moved.after[donor] / moved.counts[donor]))
        random = np.random.default_rng([seed, iteration, int(cluster)])
        centroids[cluster] = _aside(moved.centroids[donor], (1.0 - cosine**2) ** 0.5, random)
        num_reseeded += 1
    return centroids, len(empty), num_reseeded


def _aside(centroid: Floats, spread: float, random: np.random.Generator) -> Floats:
    direction = random.normal(size=len(centroid))
    direction -= (direction @ centroid) * centroid
    aside = centroid + _STEP * spread / np.sqrt(len(centroid)) * direction / np.linalg.norm(direction)
    return on_grid(aside / np.linalg.norm(aside))
