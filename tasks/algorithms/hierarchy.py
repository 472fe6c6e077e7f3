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
