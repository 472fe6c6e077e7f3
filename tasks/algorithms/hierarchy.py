"""Levels of hierarchical k-means and what is drawn from their clusters (Vo et al., arXiv 2405.15613)."""

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array
from tasks.algorithms.sampling import Keys

PAPER_RATIOS = (74, 20, 10, 5)
"""Points per cluster of each level in the paper: 743 M images, 10 M, 500,000, 50,000 and 10,000 clusters."""
_LEAST_CLUSTERS = 4


def default_levels(num_images: int) -> list[int]:
    """Clusters of each level for a pool of this size, by the paper's ratios; levels of less than 4 are left out."""
    levels, points = list[int](), num_images
    for ratio in PAPER_RATIOS:
        if points // ratio < _LEAST_CLUSTERS:
            break
        points //= ratio
        levels.append(points)
    return levels or [min(num_images, _LEAST_CLUSTERS)]


def default_sample_size(points: int, clusters: int) -> int:
    """Half of the average cluster, as in the paper."""
    return max(1, -(-points // (2 * clusters)))


def closest_per_cluster(
    labels: Array, cosines: npt.NDArray[np.floating], keys: Keys, *, num: int
) -> npt.NDArray[np.int64]:
    """At most `num` rows of each cluster: those with the largest cosines, of equal ones with the smallest keys.

    Increasing row order. Memory: 8 bytes per row while sorting.
    """
    order = np.lexsort((keys, -cosines, labels))
    rank = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return np.sort(order[rank < num]).astype(np.int64)


def nearest_in_split(
    vectors: Array, coarse: Array, centroids: Array, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32]:
    """The nearest finest centroid of each row [rows, dim], of those that its coarse cluster [rows] was split into.

    centroids[starts[c] : starts[c + 1]] are those of coarse cluster c, in memory or mapped. Exact, for float16 rows and
    centroids on the grid of 2^-24 (see kmeans_nearest); of equal ones the lowest.
    """
    labels = np.zeros(len(vectors), dtype=np.int32)
    order = np.argsort(coarse, kind="stable")
    for mine in np.split(order, np.flatnonzero(np.diff(coarse[order])) + 1) if len(order) else []:
        first, last = starts[coarse[mine[0]]], starts[coarse[mine[0]] + 1]
        products = vectors[mine].astype(np.float64) @ centroids[first:last].astype(np.float64).T
        labels[mine] = first + products.argmax(axis=1)
    return labels
