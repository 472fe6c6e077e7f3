"""First centroids by k-means|| (Bahmani et al., VLDB 2012): a few passes, each taking many candidates at once, then k
of the candidates, weighted by the rows they stand for. Never one centroid a pass.

It looks at a sample of some rows per cluster, chosen by key. A row's key decides all that is random about it, distances
are functions of the row, their total is an integer: neither the order of the rows nor how they are cut plays a part.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array, Floats
from tasks.algorithms.kmeans_nearest import Centroids, Labels, Precision, on_grid, own_cosines
from tasks.algorithms.sampling import Keys, mix

ROWS_PER_CLUSTER = 64
_LEAST_ROWS = 1 << 16
_BLOCK_ROWS = 1 << 14
_CANDIDATES_PER_CLUSTER = 3.0
_DRAWN_FOR_ONE = 8
_SAME = 1e-5  # squared distance that rounding to float16 makes: the same vector
_UNIT = 2.0**30  # fixed point of squared distances: 10^9 rows at the largest, 4, stay below 2^63


class Rows(NamedTuple):
    """Some rows, in the order of their keys, and their squared distances to the nearest candidate."""

    vectors: Floats  # [rows, dim]
    keys: Keys  # [rows]
    distances: Floats  # [rows]

    def at(self, places: Array) -> "Rows":
        """Those rows, ordered by key."""
        places = places[np.argsort(self.keys[places], kind="stable")]
        return Rows(self.vectors[places], self.keys[places], self.distances[places])

    def farthest(self, num: int) -> "Rows":
        """The `num` rows (or all) at the largest distances; of equal ones those with the smallest keys."""
        return self.at(np.lexsort((self.keys, -self.distances))[:num])

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """The rows of several shards, ordered by key."""
        vectors, keys, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(vectors, keys, distances).at(np.arange(len(keys)))


class Near(NamedTuple):
    """Of each row the squared distance to the nearest candidate, and which that is. 8 bytes per row."""

    distances: Floats  # [rows]
    owners: Labels  # [rows]


class SeedPasses(Protocol):
    """What seeding asks of the rows it looks at, wherever they lie. Candidates are numbered as they were added."""

    def first(self) -> Rows:
        """The row with the smallest key."""
        ...

    def lower(self, added: Floats, offset: int) -> int:
        """Takes candidates offset.. into account; the total of the distances, in units of 2^-30."""
        ...

    def choose(self, expected: float, total: int, turn: int) -> Rows:
        """Rows drawn independently, row i with probability expected * distance_i / total."""
        ...

    def weights(self, num_candidates: int) -> npt.NDArray[np.int64]:
        """How many rows each candidate is the nearest of."""
        ...

    def farthest(self, num: int) -> Rows:
        """The `num` rows (or all) at the largest distances."""
        ...


def sample_threshold(num_rows: int, wanted: int) -> np.uint64:
    """Rows with keys up to this are about `wanted` of `num_rows`; all of them when that is as many as there are."""
    full = (1 << 64) - 1
    return np.uint64(full if wanted >= num_rows else min(full, (full // num_rows) * wanted))


def seeding_threshold(num_rows: int, num_clusters: int) -> np.uint64:
    """Rows with keys up to this are looked at for seeding: about 64 per cluster, 65,536 at least."""
    return sample_threshold(num_rows, max(_LEAST_ROWS, ROWS_PER_CLUSTER * num_clusters))


def seed_centroids(
    passes: SeedPasses,
    *,
    num_clusters: int,
    seed: int,
    rounds: int = 5,
    precision: Precision = "auto",
    device: str = "cpu",
) -> Floats:
    """k centroids of unit length. Memory: about 3 * k candidates; 12 bytes per row looked at.

    Cost: `rounds` passes over the sample with 3 * k / rounds candidates each; 30 * k * k products to thin them out.
    """
    candidates = unit(passes.first().vectors)
    total = passes.lower(candidates, 0)
    for turn in range(rounds):
        if total == 0:
            break
        added = unit(passes.choose(_CANDIDATES_PER_CLUSTER * num_clusters / rounds, total, turn).vectors)
        if len(added):
            total = passes.lower(added, len(candidates))
            candidates = np.concatenate([candidates, added])
    weights = passes.weights(len(candidates)).astype(np.float64)
    if (missing := num_clusters - len(candidates)) > 0:  # k is near the number of rows
        more = unit(passes.farthest(missing).vectors)
        candidates, weights = np.concatenate([candidates, more]), np.concatenate([weights, np.ones(len(more))])
    if len(candidates) == num_clusters:
        return candidates
    keys = np.arange(len(candidates), dtype=np.uint64)
    shard = SeedShard(candidates, keys, seed=seed, precision=precision, device=device)
    return candidates[_thin_out(shard, weights, num_clusters)]


class SeedShard:
    """Some of the rows that seeding looks at: vectors [rows, dim], keys [rows] and what is near so far."""

    def __init__(
        self, vectors: Array, keys: Keys, *, seed: int, precision: Precision = "auto", device: str = "cpu"
    ) -> None:
        self.vectors, self.keys, self.seed = vectors, keys, seed
        self.precision, self.device = precision, device
        nowhere = np.full(len(keys), np.inf, dtype=np.float32)
        self.near = Near(nowhere, np.zeros(len(keys), dtype=np.int32))

    def first(self) -> Rows:
        return self._rows(np.argsort(self.keys, kind="stable")[:1])

    def lower(self, added: Floats, offset: int) -> int:
        centroids = Centroids(added, precision=self.precision, device=self.device)
        for start in range(0, len(self.keys), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            distances, labels = self.measure(rows, centroids)
            nearer = distances < self.near.distances[rows]
            self.near.distances[rows] = np.where(nearer, distances, self.near.distances[rows])
            self.near.owners[rows] = np.where(nearer, labels + offset, self.near.owners[rows])
        return self.total()

    def measure(self, rows: slice, centroids: Centroids) -> tuple[Floats, Labels]:
        """Squared chord between each row, as if it were of unit length, and its nearest centroid; which that is."""
        block = np.asarray(self.vectors[rows], dtype=np.float32)
        labels = centroids.nearest(block)
        cosines = own_cosines(block, centroids.exact, labels) / self.lengths[rows]
        distances = np.maximum(2.0 - 2.0 * cosines, 0.0)
        return np.where(distances < _SAME, 0.0, distances).astype(np.float32), labels

    @cached_property
    def lengths(self) -> Floats:
        """Of the rows; 1 for rows of zeros. 4 bytes per row."""
        starts = range(0, len(self.keys), _BLOCK_ROWS)
        blocks = (np.asarray(self.vectors[start : start + _BLOCK_ROWS], dtype=np.float64) for start in starts)
        found = np.concatenate([np.zeros(0), *(np.linalg.norm(block, axis=1) for block in blocks)])
        return np.where(found > 0, found, 1.0).astype(np.float32)

    def total(self) -> int:
        return int(np.rint(self.near.distances.astype(np.float64) * _UNIT).astype(np.int64).sum())

    def choose(self, expected: float, total: int, turn: int) -> Rows:
        salt = mix(np.full(1, self.seed * 1000 + turn + 1, dtype=np.uint64))
        uniforms = (mix(self.keys ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        chosen = np.flatnonzero(uniforms * (total / _UNIT) < expected * self.near.distances.astype(np.float64))
        return self._rows(chosen)

    def weights(self, num_candidates: int) -> npt.NDArray[np.int64]:
        return np.bincount(self.near.owners, minlength=num_candidates).astype(np.int64)

    def farthest(self, num: int) -> Rows:
        return self._rows(np.lexsort((self.keys, -self.near.distances))[:num])

    def _rows(self, places: Array) -> Rows:
        vectors = np.asarray(self.vectors[places], dtype=np.float32)
        return Rows(vectors, self.keys[places], self.near.distances[places]).at(np.arange(len(places)))


def unit(rows: Floats) -> Floats:
    """Rows of length 1 on the grid; a row of zeros stays."""
    lengths = np.linalg.norm(np.asarray(rows, dtype=np.float64), axis=1, keepdims=True)
    return on_grid(rows / np.where(lengths > 0, lengths, 1.0))


def _thin_out(shard: SeedShard, weights: npt.NDArray[np.float64], num_clusters: int) -> npt.NDArray[np.int64]:
    """k of the candidates (the rows of `shard`), k / 64 at a time: eight times as many are drawn by weighted squared
    distance, and those stay that take most of it away (one at a time up to 64 clusters: greedy k-means++)."""
    random = np.random.default_rng(shard.seed)
    chosen = random.choice(len(weights), size=1, p=weights / weights.sum())
    shard.lower(shard.vectors[chosen], 0)
    while (missing := num_clusters - len(chosen)) > 0:
        mass = weights * shard.near.distances
        if not mass.any():  # only copies of chosen ones are left
            mass = np.ones(len(weights))
        mass[chosen] = 0.0
        size = min(-(-num_clusters // 64), missing)
        drawn = min(_DRAWN_FOR_ONE * size, int(np.count_nonzero(mass)))
        proposed = np.sort(random.choice(len(weights), size=drawn, replace=False, p=mass / mass.sum()))
        more = proposed[_most_useful(shard, proposed, weights, size)]
        shard.lower(shard.vectors[more], 0)
        chosen = np.concatenate([chosen, more])
    return chosen


def _most_useful(shard: SeedShard, proposed: Array, weights: Array, size: int) -> Array:
    """Places of the `size` proposals that lower the total distance most, each row counting for the nearest alone."""
    if len(proposed) <= size:
        return np.arange(len(proposed))
    centroids = Centroids(shard.vectors[proposed], precision=shard.precision, device=shard.device)
    distances, labels = shard.measure(slice(None), centroids)
    lower = weights * np.maximum(shard.near.distances - distances, 0.0)
    use = np.bincount(labels, weights=lower, minlength=len(proposed))
    return np.sort(np.argsort(-use, kind="stable")[:size])
