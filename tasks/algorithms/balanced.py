"""Balanced sampling from a hierarchy of clusters (Vo et al., arXiv 2405.15613): every level shares out what it is given
as evenly as the sizes below it allow, so that rare concepts keep their images and common ones lose most.

Memory: 8 bytes per cluster of the level at hand, a few times over; nothing per image.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array
from tasks.algorithms.sampling import Keys, mix

Counts = npt.NDArray[np.int64]
Leaf = Literal["random", "closest"]

ORDER = np.dtype([("first", np.uint32), ("then", np.uint64)])
"""What ranks the images of a leaf: the least is sampled first."""


def share_out(sizes: Counts, parents: Array, targets: Counts, keys: Keys) -> Counts:
    """How many images each child [children] is to give, so that those of parent p give min(targets[p], what they hold).

    The largest integer cut c with sum(min(c, size)) <= target, for each parent by bisection; what remains, less than
    one for each child that holds more than c, goes to those of them with the smallest keys, one each.
    Cost: children * log2(largest size).
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    held = _sum_by(parents, sizes, len(targets))
    wanted = np.minimum(targets, held)
    low, high = np.zeros(len(targets), dtype=np.int64), np.full(len(targets), int(sizes.max(initial=0)) + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        fits = _sum_by(parents, np.minimum(sizes, middle[parents]), len(targets)) <= wanted
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    given = np.minimum(sizes, low[parents])
    left = wanted - _sum_by(parents, given, len(targets))
    more = np.flatnonzero(sizes > given)
    more = more[np.lexsort((more, keys[more], parents[more]))]
    rank = np.arange(len(more)) - np.searchsorted(parents[more], parents[more])
    given[more[rank < left[parents[more]]]] += 1
    return given


def allot(leaf_sizes: Counts, parents: Sequence[Array], target: int, *, seed: int) -> Counts:
    """How many images each leaf is to give, `target` in all (or all there are).

    parents[l] is, for each cluster of level l (the leaves are level 0), its cluster in level l + 1; the clusters of the
    last level lie below one root.
    """
    sizes = [np.asarray(leaf_sizes, dtype=np.int64)]
    for above in parents:
        sizes.append(_sum_by(above, sizes[-1], int(above.max(initial=-1)) + 1))
    given = np.array([target], dtype=np.int64)
    for level in reversed(range(len(sizes))):
        above = parents[level] if level < len(parents) else np.zeros(len(sizes[level]), dtype=np.int64)
        keys = mix(np.arange(len(sizes[level]), dtype=np.uint64) ^ mix(np.full(1, seed * 100 + level, dtype=np.uint64)))
        given = share_out(sizes[level], above, given, keys)
    return given


def _sum_by(groups: Array, values: Counts, num: int) -> Counts:
    """Integer sums by group: float64, as numpy's bincount adds, is exact below 2^53."""
    return np.asarray(np.rint(np.bincount(groups, weights=values, minlength=num)), dtype=np.int64)


def leaf_order(cosines: npt.NDArray[np.float32], keys: Keys, leaf: Leaf) -> Array:
    """The rank of each image in its leaf [images], of type ORDER: by key, or by cosine (closest first), then key."""
    order = np.zeros(len(keys), dtype=ORDER)
    order["then"] = keys
    if leaf == "closest":
        order["first"] = np.rint((2.0 - np.clip(cosines.astype(np.float64), -1.5, 1.5)) * 2.0**30).astype(np.uint32)
    return order


def last_sampled(leaves: Array, order: Array, given: Counts) -> Array:
    """The rank [leaves] of the last image that each leaf gives: those up to it are sampled. `given` is at most what the
    leaf holds; a leaf that gives none has the least of ranks, and is to be asked about separately."""
    last = np.zeros(len(given), dtype=ORDER)
    places = np.lexsort((order["then"], order["first"], leaves))
    starts = np.searchsorted(leaves[places], np.arange(len(given)))
    some = np.flatnonzero(given > 0)
    last[some] = order[places[starts[some] + given[some] - 1]]
    return last


def sampled(leaves: Array, order: Array, given: Counts, last: Array) -> npt.NDArray[np.bool_]:
    """Which images [images] their leaves give."""
    limit = last[leaves]
    up_to = (order["first"] < limit["first"]) | ((order["first"] == limit["first"]) & (order["then"] <= limit["then"]))
    return (given[leaves] > 0) & up_to


def gini(sizes: Counts) -> float:
    """Inequality of the sizes: 0 when all are equal, towards 1 when one holds everything."""
    ordered = np.sort(np.asarray(sizes, dtype=np.float64))
    if ordered.sum() == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float((2 * (ranks * ordered).sum() / ordered.sum() - len(ordered) - 1) / len(ordered))


def evenness(sizes: Counts) -> float:
    """Entropy of the sizes as a part of the largest possible: 1 when all are equal, 0 when one holds everything."""
    shares = np.asarray(sizes, dtype=np.float64)
    shares = shares[shares > 0] / max(shares.sum(), 1.0)
    if len(sizes) < 2:
        return 1.0
    return float(max(0.0, -(shares * np.log(shares)).sum()) / np.log(len(sizes)))
