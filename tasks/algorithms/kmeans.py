"""Spherical k-means of vectors that are read by block.

Seeding by k-means|| (Bahmani et al., VLDB 2012): a few passes over the data, each taking many candidates at once, then
the candidates, weighted by the rows they stand for, are thinned out to k. Never one centroid a pass.
Every random choice hangs on (seed, row), and sums are made over even blocks, so the centroids do not depend on how the
vectors are cut into files.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Array, Floats, InMemory, Rows, VectorSource, even_blocks
from tasks.algorithms.sampling import row_uniforms

_BLOCK_ROWS = 8192
_MAX_RESEEDED = 4096


class KMeans(NamedTuple):
    """centroids [k, dim] of unit length; objective: the mean cosine to the nearest centroid, after seeding and after
    every iteration; num_reseeded: how often an empty cluster was given a new place."""

    centroids: Floats
    objective: list[float]
    num_reseeded: int


def fit_kmeans(
    vectors: VectorSource,
    *,
    num_clusters: int,
    seed: int,
    iterations: int = 20,
    seeding_rounds: int = 5,
    tolerance: float = 1e-4,
) -> KMeans:
    """Centroids of unit length that maximise the sum of the cosines of `vectors` [rows, dim] to the nearest one.

    Stops early when the mean cosine rises by less than `tolerance` of itself. An empty cluster is moved to the row
    that fits its own centroid worst. Cost: rows * clusters * dim per iteration. Memory: 8 bytes per row while seeding;
    12 * clusters * dim bytes; a block of 8192 rows and its [8192, clusters] products.
    Raises ValueError if there are fewer rows than clusters.
    """
    num_rows = vectors.shape[0]
    if not 1 <= num_clusters <= num_rows:
        raise ValueError(f"k-means of {num_rows} vectors cannot have {num_clusters} clusters")
    centroids = seed_centroids(vectors, num_clusters=num_clusters, seed=seed, rounds=seeding_rounds)
    objective: list[float] = []
    num_reseeded = 0
    for _ in range(iterations):
        step = _lloyd_step(vectors, centroids)
        if objective and step.objective <= objective[-1] * (1 + tolerance) and not step.num_reseeded:
            objective.append(step.objective)
            break
        objective.append(step.objective)
        num_reseeded += step.num_reseeded
        centroids = step.centroids
    else:
        objective.append(_mean_cosine(vectors, centroids))
    return KMeans(centroids, objective, num_reseeded)


def assign(
    vectors: VectorSource, centroids: Floats, *, block_rows: int = _BLOCK_ROWS
) -> Iterator[tuple[int, npt.NDArray[np.int32], Floats]]:
    """For consecutive blocks: the first row, the nearest centroid of each row (the lowest of equal ones), the cosine.

    Rows need not be of unit length for the nearest centroid; the cosine assumes it. Memory: block_rows * clusters * 4.
    """
    if vectors.shape[1] != centroids.shape[1]:
        raise ValueError(f"vectors of {vectors.shape[1]} dimensions, centroids of {centroids.shape[1]}")
    directions = torch.from_numpy(np.ascontiguousarray(centroids)).T
    for start, block in even_blocks(vectors, block_rows):
        best, labels = (torch.from_numpy(block) @ directions).max(dim=1)
        yield start, labels.numpy().astype(np.int32), best.numpy()


def seed_centroids(vectors: VectorSource, *, num_clusters: int, seed: int, rounds: int = 5) -> Floats:
    """k-means||: `rounds` passes that each take about 4 * k / rounds candidates by squared distance, then k of those.

    Memory: 8 bytes per row, and about 4 * k candidates.
    """
    num_rows = vectors.shape[0]
    first = int(row_uniforms(0, 1, seed=seed)[0] * num_rows)
    candidates = np.asarray(vectors.take(np.array([first])), dtype=np.float32)
    distances = np.full(num_rows, np.inf, dtype=np.float32)  # squared chord, to the nearest candidate
    owners = np.zeros(num_rows, dtype=np.int32)
    added = candidates
    for turn in range(rounds):
        _lower_distances(vectors, added, len(candidates) - len(added), distances, owners)
        chosen = _by_distance(distances, 4.0 * num_clusters / rounds, seed=seed + 1 + turn)
        if len(chosen) == 0:
            break
        added = np.asarray(vectors.take(chosen), dtype=np.float32)
        candidates = np.concatenate([candidates, added])
    _lower_distances(vectors, added, len(candidates) - len(added), distances, owners)
    weights = np.bincount(owners, minlength=len(candidates)).astype(np.float64)
    if len(candidates) < num_clusters:
        candidates, weights = _top_up(vectors, candidates, weights, distances, num_clusters)
    return _unit(_thin_out(candidates, weights, num_clusters, seed))


def _lower_distances(vectors: VectorSource, added: Floats, offset: int, distances: Floats, owners: Array) -> None:
    for start, labels, cosine in assign(vectors, added):
        rows = slice(start, start + len(labels))
        distance = np.maximum(2.0 - 2.0 * cosine, 0.0)
        # A product of a vector with itself is rounded: what is nearer than rounding is the same vector.
        distance[distance < 1e-5] = 0.0
        nearer = distance < distances[rows]
        distances[rows] = np.where(nearer, distance, distances[rows])
        owners[rows] = np.where(nearer, labels + offset, owners[rows])


def _by_distance(distances: Floats, expected: float, *, seed: int) -> Rows:
    """Rows drawn independently, row i with probability min(1, expected * d_i / sum(d))."""
    total = float(distances.sum(dtype=np.float64))
    if total == 0.0:
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(row_uniforms(0, len(distances), seed=seed) * total < expected * distances)


def _top_up(
    vectors: VectorSource, candidates: Floats, weights: Array, distances: Floats, num_clusters: int
) -> tuple[Floats, Array]:
    """So many candidates as there are clusters, where k is near the number of rows: the rows farthest from any."""
    farthest = np.argsort(-distances, kind="stable")[: num_clusters - len(candidates)]
    more = np.asarray(vectors.take(farthest), dtype=np.float32)
    return np.concatenate([candidates, more]), np.concatenate([weights, np.ones(len(more))])


def _thin_out(candidates: Floats, weights: Array, num_clusters: int, seed: int) -> Floats:
    """k of the candidates by weighted squared distance, k / 64 at a time (one at a time up to 64: k-means++)."""
    if len(candidates) == num_clusters:
        return candidates
    batch = -(-num_clusters // 64)
    random = np.random.default_rng(seed)
    chosen = np.zeros(0, dtype=np.int64)
    distances = np.ones(len(candidates), dtype=np.float32)
    source = InMemory(candidates)
    owners = np.zeros(len(candidates), dtype=np.int32)
    while len(chosen) < num_clusters:
        mass = np.asarray(weights * distances, dtype=np.float64)
        mass[chosen] = 0.0
        if not mass.any():  # only copies of chosen ones are left
            mass = np.ones(len(candidates))
            mass[chosen] = 0.0
        size = min(batch if len(chosen) else 1, num_clusters - len(chosen), int(np.count_nonzero(mass)))
        more = np.sort(random.choice(len(candidates), size=size, replace=False, p=mass / mass.sum()))
        if len(chosen) == 0:
            distances[:] = np.inf
        _lower_distances(source, candidates[more], 0, distances, owners)
        chosen = np.concatenate([chosen, more])
    return candidates[chosen]


class _Step(NamedTuple):
    centroids: Floats
    objective: float
    num_reseeded: int


def _lloyd_step(vectors: VectorSource, centroids: Floats) -> _Step:
    """One pass: assign, sum up by cluster in float64, and give empty clusters the worst fitting rows."""
    num_clusters, dim = centroids.shape
    sums = np.zeros((num_clusters, dim))
    counts = np.zeros(num_clusters, dtype=np.int64)
    total = 0.0
    worst = _Worst(min(_MAX_RESEEDED, num_clusters))
    directions = torch.from_numpy(centroids).T
    for start, block in even_blocks(vectors, _BLOCK_ROWS):
        cosine, nearest = (torch.from_numpy(block) @ directions).max(dim=1)
        labels = nearest.numpy()
        _add_by_label(sums, counts, block, labels)
        total += float(cosine.double().sum())
        worst.add(cosine.numpy(), start)
    empty = np.flatnonzero(counts == 0)
    moved = _unit(sums.astype(np.float32))
    # A cluster whose rows cancel out has no direction: it stays where it is.
    moved = np.where(np.linalg.norm(moved, axis=1, keepdims=True) > 0, moved, centroids)
    reseeded = empty[: len(worst.rows)]
    if len(reseeded):
        moved[reseeded] = _unit(np.asarray(vectors.take(worst.rows[: len(reseeded)]), dtype=np.float32))
    return _Step(np.ascontiguousarray(moved), total / vectors.shape[0], len(reseeded))


class _Worst:
    """The rows with the lowest cosines so far, the lowest first; equal ones by row."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.cosines = np.zeros(0, dtype=np.float32)
        self.rows = np.zeros(0, dtype=np.int64)

    def add(self, cosines: Floats, start: int) -> None:
        cosines = np.concatenate([self.cosines, cosines])
        rows = np.concatenate([self.rows, np.arange(start, start + len(cosines) - len(self.rows))])
        order = np.argsort(cosines, kind="stable")[: self.num]
        self.cosines, self.rows = cosines[order], rows[order]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_by_label(sums: Array, counts: Array, block: Floats, labels: Rows) -> None:
    for row in range(len(labels)):
        label = labels[row]
        counts[label] += 1
        for column in range(block.shape[1]):
            sums[label, column] += block[row, column]


def _mean_cosine(vectors: VectorSource, centroids: Floats) -> float:
    return sum(float(cosine.sum(dtype=np.float64)) for _, _, cosine in assign(vectors, centroids)) / vectors.shape[0]


def _unit(block: Floats) -> Floats:
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    return np.asarray(block / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
