"""Spherical k-means of vectors that are read by block, here or by many workers, to the same bytes.

Whatever is random hangs on (seed, key of the row), the nearest centroid is exact (kmeans_nearest), sums are integers
(kmeans_sums): the centroids depend on the vectors, their keys and the seed, and on nothing else.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tasks.algorithms import kmeans_seeding as seeding
from tasks.algorithms.blocks import Array, Floats, VectorSource
from tasks.algorithms.kmeans_device import DeviceSums, to_device
from tasks.algorithms.kmeans_nearest import Centroids, Precision, own_cosines
from tasks.algorithms.kmeans_sums import Moved, Sums, move, split_for_empty
from tasks.algorithms.sampling import Keys, mix

_BLOCK_ROWS = 8192


class KMeans(NamedTuple):
    """centroids [k, dim] of unit length; objective: the mean cosine of the rows to the centroids that each iteration
    began with; for each iteration how many clusters were empty and how many of them were given a new place."""

    centroids: Floats
    objective: tuple[float, ...] = ()
    num_empty: tuple[int, ...] = ()
    num_reseeded: tuple[int, ...] = ()

    @property
    def iterations(self) -> int:
        return len(self.objective)


class Passes(Protocol):
    """What k-means asks of the vectors, wherever they lie and whoever computes."""

    num_rows: int

    def seed(self, num_clusters: int) -> Floats:
        """First centroids [k, dim]."""
        ...

    def move(self, centroids: Floats, iteration: int) -> Moved:
        """One pass over all rows: assign them, and where the centroids go."""
        ...


def fit(
    passes: Passes,
    *,
    num_clusters: int,
    seed: int,
    iterations: int = 20,
    tolerance: float = 1e-4,
    start: KMeans | None = None,
    on_iteration: Callable[[KMeans], None] = lambda so_far: None,
) -> KMeans:
    """Centroids of unit length that maximise the sum of the cosines of the rows to the nearest one (Lloyd's algorithm).

    Stops early when the mean cosine rises by less than `tolerance` of itself and no cluster was empty. `on_iteration`
    is told the state after each iteration (and after seeding); given as `start`, it goes on from there to the same end.
    Raises ValueError if there are fewer rows than clusters.
    """
    if not 1 <= num_clusters <= passes.num_rows:
        raise ValueError(f"k-means of {passes.num_rows} vectors cannot have {num_clusters} clusters")
    state = start
    if state is None:
        state = KMeans(passes.seed(num_clusters))
        on_iteration(state)
    while state.iterations < iterations and not _settled(state, tolerance):
        moved = passes.move(state.centroids, state.iterations)
        centroids, num_empty, num_reseeded = split_for_empty(moved, seed=seed, iteration=state.iterations)
        state = KMeans(
            centroids,
            (*state.objective, float(moved.before.sum()) / passes.num_rows),
            (*state.num_empty, num_empty),
            (*state.num_reseeded, num_reseeded),
        )
        on_iteration(state)
    return state


def _settled(state: KMeans, tolerance: float) -> bool:
    """The objective has stopped rising, and not because clusters were just given new places."""
    if state.iterations < 2 or state.num_reseeded[-1]:
        return False
    return state.objective[-1] <= state.objective[-2] * (1 + tolerance)


def fit_kmeans(
    vectors: VectorSource,
    *,
    num_clusters: int,
    seed: int,
    iterations: int = 20,
    seeding_rounds: int = 5,
    tolerance: float = 1e-4,
    keys: Keys | None = None,
    precision: Precision = "auto",
    device: str = "cpu",
) -> KMeans:
    """`fit` of `vectors` [rows, dim] in this process; `keys` [rows] stand for the rows where something is random.

    Cost: rows * clusters * dim per iteration, in low precision. Memory: 17 * clusters * dim bytes; 64 rows per
    cluster while seeding; tiles of 16 MB. `precision` and `device` change the speed alone.
    Raises ValueError if there are fewer rows than clusters.
    """
    passes = Here(vectors, keys, seed=seed, rounds=seeding_rounds, precision=precision, device=device)
    return fit(passes, num_clusters=num_clusters, seed=seed, iterations=iterations, tolerance=tolerance)


def assign(
    vectors: VectorSource, centroids: Floats, *, block_rows: int = _BLOCK_ROWS, device: str = "cpu"
) -> Iterator[tuple[int, npt.NDArray[np.int32], Floats]]:
    """For consecutive blocks: the first row, the nearest centroid of each row (the lowest of equal ones), the cosine.

    Rows need not be of unit length for the nearest centroid; the cosine assumes it. What a row is given depends on the
    row and the centroids alone. Memory: 5 bytes per centroid and dimension; a block; a tile of 16 MB.
    """
    near = Centroids(centroids, device=device)
    for start, block in vectors.blocks(block_rows):
        labels = near.nearest(block)
        yield start, labels, np.asarray(own_cosines(block, near.exact, labels), dtype=np.float32)


def sum_up(vectors: VectorSource, centroids: Centroids, *, block_rows: int = _BLOCK_ROWS) -> Sums:
    """Assigns all rows and sums them up by cluster, in one pass."""
    sums = Sums(*centroids.exact.shape)
    if centroids.device.type == "cpu":
        for _, block in vectors.blocks(block_rows):
            sums.add(block, centroids.nearest(block))
        return sums
    there = DeviceSums(len(centroids.exact), centroids.exact.shape[1], centroids.device)
    for _, block in vectors.blocks(block_rows):
        rows = to_device(block, centroids.device)
        there.add(rows, centroids.on_device.nearest(rows))
    sums.sums, sums.counts = there.sums.cpu().numpy(), there.counts.cpu().numpy()
    return sums


class Here:
    """The passes over vectors in this process (see `fit_kmeans`)."""

    def __init__(
        self,
        vectors: VectorSource,
        keys: Keys | None = None,
        *,
        seed: int,
        rounds: int = 5,
        precision: Precision = "auto",
        device: str = "cpu",
    ) -> None:
        self.vectors, self.num_rows = vectors, vectors.shape[0]
        self.keys = mix(np.arange(self.num_rows, dtype=np.uint64) ^ np.uint64(seed)) if keys is None else keys
        self.random_seed, self.rounds, self.precision, self.device = seed, rounds, precision, device

    def seed(self, num_clusters: int) -> Floats:
        """k-means|| over a sample of the rows, held in memory."""
        looked_at = np.flatnonzero(self.keys <= seeding.seeding_threshold(self.num_rows, num_clusters))
        sample: Array = self.vectors.take(looked_at)
        shard = seeding.SeedShard(
            sample, self.keys[looked_at], seed=self.random_seed, precision=self.precision, device=self.device
        )
        return seeding.seed_centroids(
            shard,
            num_clusters=num_clusters,
            seed=self.random_seed,
            rounds=self.rounds,
            precision=self.precision,
            device=self.device,
        )

    def move(self, centroids: Floats, iteration: int) -> Moved:
        """Assign and sum up by block, then move."""
        sums = sum_up(self.vectors, Centroids(centroids, precision=self.precision, device=self.device))
        return move(sums.sums, sums.counts, centroids)
