"""k-means over many workers: each iteration one task per group of rows, then one per range of clusters.

A group's task reads its rows, assigns them and leaves the sums of all clusters as a file (8 * clusters * dim bytes); a
range's task adds up its clusters over all groups and moves them. So no process holds more than one set of sums, and an
iteration writes and reads `groups` of them (100,000 x 1280: 1 GB each, 64 GB for 64 groups), not one per part. All of
it is exact: groups, ranges and workers do not show in the centroids.
"""

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from storage.filesystem import exists, read_bytes, write_bytes
from tasks.algorithms.blocks import Floats
from tasks.algorithms.kmeans import Here, KMeans, fit, sum_up
from tasks.algorithms.kmeans_nearest import Centroids
from tasks.algorithms.kmeans_seeding import sample_threshold, seed_centroids, seeding_threshold
from tasks.algorithms.kmeans_sums import Moved, move
from tasks.clusters.points import Group, Part, Parts, groups_of, part_keys, read_array, remove, shape_of, write_array
from tasks.clusters.seeding import Compute, SeedTasks, sample_rows
from tasks.graph.scratch import Files, scratch_map
from tasks.progress import run_logger
from tasks.stage import Outcome, Stage

SMALL = 50_000_000
"""Rows x clusters up to which the flow's own process is faster than tasks; the centroids are the same."""
_RANGE_BYTES = 64 << 20


class Tasks:
    """The passes over groups of rows as tasks of a stage (`kmeans.Passes`)."""

    def __init__(
        self, stage: Stage, name: str, parts: list[Part], *, groups: int, compute: Compute, fit_rows: int | None
    ) -> None:
        self.stage, self.name, self.compute = stage, name, compute
        self.groups: list[Group] = groups_of(parts, groups)
        self.pool_rows = parts[-1][2] + shape_of(parts[-1][0])[0]
        self.num_rows, self.paths = self.pool_rows, [[part[0] for part in group] for group in self.groups]
        self.threshold = sample_threshold(self.pool_rows, self.pool_rows if fit_rows is None else fit_rows)
        if fit_rows is not None and fit_rows < self.pool_rows:
            outcomes, files = self._sample("fit", self.threshold)
            self.num_rows = sum(outcome.rows_kept for outcome in outcomes)
            self.paths = [[path] for path in files.paths("-fit.npy")]

    def seed(self, num_clusters: int) -> Floats:
        """k-means|| over rows with small keys; a row that is looked at is one that the fit looks at, too."""
        threshold = min(seeding_threshold(self.pool_rows, num_clusters), self.threshold)
        _, files = self._sample("seeds", threshold)
        rows = SeedTasks(self.stage, f"{self.name}-seed", files, self.compute)
        how = asdict(self.compute)
        return seed_centroids(rows, num_clusters=num_clusters, **how)

    def move(self, centroids: Floats, iteration: int) -> Moved:
        """One iteration."""
        name = f"{self.name}-{iteration:04d}"
        path = self.stage.path(f"scratch-{name}-from.npy")
        write_array(path, centroids)
        compute = [self.compute.precision, self.compute.device]
        _, sums = scratch_map(self.stage, f"{name}-sums", sum_group, self.paths, centroids=path, compute=compute)
        num_clusters, dim = centroids.shape
        step = max(1, _RANGE_BYTES // (8 * dim))
        ranges = [[first, min(first + step, num_clusters)] for first in range(0, num_clusters, step)]
        _, moved = scratch_map(self.stage, f"{name}-moved", move_range, ranges, sums=list(sums), centroids=path)
        columns = [
            np.concatenate([read_array(file) for file in moved.paths(f"-{field}.npy")]) for field in Moved._fields
        ]
        remove([path, *sums.paths("-sums.npy"), *sums.paths("-counts.npy")])
        remove([file for field in Moved._fields for file in moved.paths(f"-{field}.npy")])
        return Moved(*columns)

    def _sample(self, name: str, threshold: np.uint64) -> tuple[list[Outcome], Files]:
        plain: dict[str, Any] = {"kind": name, "threshold": int(threshold), "seed": self.compute.seed}
        return scratch_map(self.stage, f"{self.name}-{name}", sample_rows, self.groups, **plain)


def sum_group(paths: list[str], out: str, *, centroids: str, compute: list[Any]) -> Outcome:
    """The sums of every cluster over the rows of one group. Memory: 13 * clusters * dim bytes, and a block."""
    precision, device = compute
    near = Centroids(np.array(read_array(centroids)), precision=precision, device=device)
    sums = sum_up(Parts(paths), near)
    rows = int(sums.counts.sum())
    files = [write_array(f"{out}-sums.npy", sums.sums), write_array(f"{out}-counts.npy", sums.counts)]
    return Outcome(rows, rows, {}, files)


def move_range(bounds: list[int], out: str, *, sums: list[Any], centroids: str) -> Outcome:
    """Some clusters' sums over all groups, and where they move. Memory: 128 MB."""
    first, last = bounds
    files = Files(*sums)
    total = sum(read_array(path, first, last) for path in files.paths("-sums.npy"))
    counts = sum(read_array(path, first, last) for path in files.paths("-counts.npy"))
    moved = move(np.asarray(total), np.asarray(counts), np.array(read_array(centroids, first, last)))
    entries = [write_array(f"{out}-{field}.npy", array) for field, array in moved._asdict().items()]
    return Outcome(last - first, last - first, {}, entries)


def fit_parts(
    stage: Stage,
    name: str,
    parts: list[Part],
    *,
    num_clusters: int,
    iterations: int,
    tolerance: float,
    compute: Compute,
    groups: int,
    fit_rows: int | None = None,
) -> KMeans:
    """k-means of the parts' rows, on the cluster; a killed run goes on after the last iteration that was finished.

    `fit_rows`: about so many rows, chosen by key, stand for all. Small cases are computed here, to the same bytes.
    """
    checkpoint = Checkpoint(stage, name)
    state = checkpoint.load()
    if state is not None and checkpoint.done:
        return state
    num_rows = parts[-1][2] + shape_of(parts[-1][0])[0]
    small = num_rows * num_clusters <= SMALL and (fit_rows is None or fit_rows >= num_rows)
    if small:
        keys = np.concatenate([part_keys(part, seed=compute.seed) for part in parts])
        here = Here(Parts([part[0] for part in parts]), keys, **asdict(compute))
    passes = here if small else Tasks(stage, name, parts, groups=groups, compute=compute, fit_rows=fit_rows)

    began = time.monotonic()

    def note(so_far: KMeans) -> None:
        nonlocal began
        checkpoint.save(so_far)
        tell(stage.name, name, so_far, iterations, passes.num_rows / (time.monotonic() - began))
        began = time.monotonic()

    found = fit(
        passes,
        num_clusters=num_clusters,
        seed=compute.seed,
        iterations=iterations,
        tolerance=tolerance,
        start=state,
        on_iteration=note,
    )
    checkpoint.save(found, done=True)
    return found


def tell(stage: str, name: str, so_far: KMeans, iterations: int, rows_per_second: float) -> None:
    """One line per iteration, for whoever watches."""
    if so_far.iterations:
        run_logger().info(
            f"{stage}: {name}, iteration {so_far.iterations} of at most {iterations}: "
            f"mean cosine {so_far.objective[-1]:.6f}, {so_far.num_empty[-1]} clusters empty, "
            f"{rows_per_second:.3g} rows/s"
        )


class Checkpoint:
    """The state after the last finished iteration, in two files of which the second is the promise."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.promise = stage.path(f"scratch-{name}-state.json")
        self.name = name
        self.done = False

    def load(self) -> KMeans | None:
        """Where to go on; None at the beginning."""
        if not exists(self.promise):
            return None
        content = json.loads(read_bytes(self.promise))
        self.done = content.pop("done")
        numbers = {key: tuple(value) for key, value in content.items()}
        return KMeans(np.array(read_array(self._centroids(len(numbers["objective"])))), **numbers)

    def save(self, state: KMeans, *, done: bool = False) -> None:
        """Centroids under a name of their own, then the promise, then the centroids before them go."""
        self.done = done
        write_array(self._centroids(state.iterations), state.centroids)
        content = state._asdict() | {"done": done}
        del content["centroids"]
        write_bytes(self.promise, json.dumps(content).encode())
        remove([self._centroids(state.iterations - 1)])

    def _centroids(self, iterations: int) -> str:
        return self.stage.path(f"scratch-{self.name}-centroids-{iterations:04d}.npy")
