"""A level of millions of clusters in two steps: k-means into some, then each of these split by a k-means of its own
(the paper's 10 M are 100,000 times 100; one k-means of 10 M clusters would cost a hundred times as much).

The rows are brought together by cluster once: groups of a bounded size leave their rows sorted by cluster, ranges of
clusters read theirs of every group. On disk, while it runs, the rows once more; in memory a group or a range.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from storage.manifest import FileEntry
from tasks.algorithms.blocks import Array, Floats, InMemory
from tasks.algorithms.kmeans import Here, fit
from tasks.algorithms.kmeans_nearest import Centroids
from tasks.clusters.points import Group, Part, groups_of, part_keys, read_array, shape_of, write_array, write_blocks
from tasks.clusters.seeding import Compute
from tasks.graph.scratch import Files, scratch_map
from tasks.stage import Outcome, Stage

_TASK_BYTES = 1 << 30


def split_clusters(
    stage: Stage, name: str, parts: list[Part], centroids: Floats, *, into: int, iterations: int, compute: Compute
) -> FileEntry:
    """Writes `<name>-centroids.npy`: of every cluster its `into` parts (fewer where it has fewer rows), one after the
    other; and, for whoever assigns images later, `coarse_paths`. Returns its entry, without a checksum."""
    coarse, starts = coarse_paths(stage, name)
    write_array(coarse, centroids)
    rows, dim = parts[-1][2] + shape_of(parts[-1][0])[0], centroids.shape[1]
    num_tasks = max(1, 4 * rows * dim // _TASK_BYTES)
    plain: dict[str, Any] = {"seed": compute.seed, "device": compute.device}
    _, sorted_rows = scratch_map(
        stage, f"{name}-sorted", sort_group, groups_of(parts, num_tasks), centroids=coarse, **plain
    )
    edges = np.linspace(0, len(centroids), min(num_tasks, len(centroids)) + 1).astype(int).tolist()
    ranges = [list(pair) for pair in pairwise(edges)]
    how: dict[str, Any] = {"into": into, "iterations": iterations, "seed": compute.seed}
    _, split = scratch_map(stage, f"{name}-split", split_range, ranges, rows=list(sorted_rows), **how)
    counts = np.concatenate([read_array(path) for path in split.paths("-counts.npy")])
    write_array(starts, np.cumsum(np.r_[0, counts]))
    blocks = (read_array(path) for path in split.paths("-centroids.npy"))
    return write_blocks(stage.path(f"{name}-centroids.npy"), (int(counts.sum()), dim), np.float32, blocks)


def coarse_paths(stage: Stage, name: str) -> tuple[str, str]:
    """Where the centroids of the first step are, and where their parts begin among the finest centroids."""
    return stage.path(f"{name}-coarse.npy"), stage.path(f"{name}-starts.npy")


def sort_group(group: Group, out: str, *, centroids: str, seed: int, device: str) -> Outcome:
    """The group's rows in order of their clusters, with their keys, and how many each cluster has."""
    near = np.array(read_array(centroids))
    arrays = [read_array(part[0]) for part in group]
    vectors = np.concatenate([array for array in arrays if len(array)] or arrays[:1])
    keys = np.concatenate([part_keys(part, seed=seed) for part in group])
    labels = Centroids(near, device=device).nearest(vectors)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(near)).astype(np.int64)
    files = [
        write_array(f"{out}-vectors.npy", vectors[order]),
        write_array(f"{out}-keys.npy", keys[order]),
        write_array(f"{out}-counts.npy", counts),
    ]
    return Outcome(len(keys), len(keys), {}, files)


def split_range(bounds: list[int], out: str, *, rows: list[Any], into: int, iterations: int, seed: int) -> Outcome:
    """The parts of each of a range of clusters. Memory: the range's rows."""
    vectors, keys, labels = _rows_of_range(Files(*rows), *bounds)
    found, counts = list[Floats](), np.zeros(bounds[1] - bounds[0], dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    edges = np.searchsorted(labels[order], np.arange(len(counts) + 1))
    for cluster in range(len(counts)):
        mine = order[edges[cluster] : edges[cluster + 1]]
        if len(mine):
            passes = Here(InMemory(vectors[mine]), keys[mine], seed=seed)
            found.append(fit(passes, num_clusters=min(into, len(mine)), seed=seed, iterations=iterations).centroids)
            counts[cluster] = len(found[-1])
    joined = np.concatenate(found) if found else np.zeros((0, vectors.shape[1]), dtype=np.float32)
    files = [write_array(f"{out}-centroids.npy", joined), write_array(f"{out}-counts.npy", counts)]
    return Outcome(len(labels), len(labels), {}, files)


def _rows_of_range(files: Files, first: int, last: int) -> tuple[Array, Array, Array]:
    vectors, keys, labels = [], [], []
    for rows, their_keys, counts in zip(
        files.paths("-vectors.npy"), files.paths("-keys.npy"), files.paths("-counts.npy"), strict=True
    ):
        sizes = np.asarray(read_array(counts))
        begin, end = int(sizes[:first].sum()), int(sizes[:last].sum())
        vectors.append(read_array(rows, begin, end))
        keys.append(read_array(their_keys, begin, end))
        labels.append(np.repeat(np.arange(last - first), sizes[first:last]))
    return np.concatenate(vectors), np.concatenate(keys), np.concatenate(labels)
