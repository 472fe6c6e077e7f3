"""One level of hierarchical k-means over many workers: k-means, then resampling, which flattens the density it saw.

Resampling (Vo et al., arXiv 2405.15613): the points closest to each centroid, so many of each cluster, stand for all;
k-means of these; every point is assigned anew; and so on. Dense regions then count for no more than sparse ones.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, InMemory
from tasks.algorithms.hierarchy import closest_per_cluster
from tasks.algorithms.kmeans import KMeans, assign
from tasks.clusters.fit import fit_parts
from tasks.clusters.points import (
    Group,
    Part,
    array_parts,
    groups_of,
    part_keys,
    read_array,
    shape_of,
    write_array,
    write_blocks,
)
from tasks.clusters.seeding import Compute
from tasks.graph.scratch import Files, scratch_map
from tasks.stage import Outcome, Stage

_ROWS_PER_FILE = 65_536
_CLOSE = np.dtype([("row", np.int64), ("label", np.int32), ("cosine", np.float32), ("key", np.uint64)])


@dataclass(frozen=True)
class LevelPlan:
    """What one level does: its clusters, how often it resamples, and how many points of each cluster it takes then."""

    name: str
    num_clusters: int
    splits: int
    resamplings: int
    sample_size: int
    iterations: int
    tolerance: float
    compute: Compute
    groups: int
    fit_rows: int | None = None


def fit_level(stage: Stage, plan: LevelPlan, parts: list[Part]) -> KMeans:
    """Centroids of the parts' rows. Resumes after the last finished iteration of the last resampling begun.

    Memory of the flow: 16 bytes per cluster and dimension; 24 per point that is resampled from.
    """
    found = _fit(stage, plan, parts, plan.name, plan.compute.seed)
    for turn in range(plan.resamplings):
        name = f"{plan.name}-re{turn:02d}"
        sample = _resample(stage, plan, parts, found.centroids, name)
        num_rows = sum(shape_of(part[0])[0] for part in sample)
        if num_rows < plan.num_clusters:  # copies left clusters empty: what is there stands for all
            break
        found = _fit(stage, replace(plan, fit_rows=None), sample, name, plan.compute.seed + 1 + turn)
    return found


def _fit(stage: Stage, plan: LevelPlan, parts: list[Part], name: str, seed: int) -> KMeans:
    return fit_parts(
        stage,
        name,
        parts,
        num_clusters=plan.num_clusters,
        iterations=plan.iterations,
        tolerance=plan.tolerance,
        compute=replace(plan.compute, seed=seed),
        groups=plan.groups,
        fit_rows=plan.fit_rows,
    )


def _resample(stage: Stage, plan: LevelPlan, parts: list[Part], centroids: Floats, name: str) -> list[Part]:
    """The closest points of each cluster, as parts."""
    path = stage.path(f"scratch-{name}-from.npy")
    write_array(path, centroids)
    groups = groups_of(parts, plan.groups)
    plain: dict[str, Any] = {"num": plan.sample_size, "seed": plan.compute.seed, "device": plan.compute.device}
    _, close = scratch_map(stage, f"{name}-close", find_close, groups, centroids=path, **plain)
    candidates = np.concatenate([read_array(file) for file in close.paths(".npy")])
    chosen = candidates["row"][
        closest_per_cluster(candidates["label"], candidates["cosine"], candidates["key"], num=plan.sample_size)
    ]
    rows = stage.path(f"scratch-{name}-rows.npy")
    write_array(rows, np.sort(chosen))
    _, taken = scratch_map(stage, f"{name}-points", take_points, groups, rows=rows)
    return array_parts(taken.paths(".npy"))


def find_close(group: Group, out: str, *, centroids: str, num: int, seed: int, device: str) -> Outcome:
    """The group's `num` closest points to each centroid. Memory: 24 bytes per row of the group."""
    near = np.array(read_array(centroids))
    found, total = list[npt.NDArray[Any]](), 0
    for part in group:
        vectors = read_array(part[0])
        close = np.empty(len(vectors), dtype=_CLOSE)
        close["row"] = part[2] + np.arange(len(vectors))
        close["key"] = part_keys(part, seed=seed)
        for start, labels, cosines in assign(InMemory(vectors), near, device=device):
            close["label"][start : start + len(labels)] = labels
            close["cosine"][start : start + len(labels)] = cosines
        kept = closest_per_cluster(close["label"], close["cosine"], close["key"], num=num)
        found.append(close[kept])
        total += len(vectors)
    joined = np.concatenate(found)
    joined = joined[closest_per_cluster(joined["label"], joined["cosine"], joined["key"], num=num)]
    return Outcome(total, len(joined), {}, [write_array(f"{out}.npy", joined)])


def take_points(group: Group, out: str, *, rows: str) -> Outcome:
    """The vectors of those of the `rows` that are the group's."""
    wanted = np.array(read_array(rows))
    arrays = [read_array(part[0]) for part in group]
    ends = [part[2] + len(array) for part, array in zip(group, arrays, strict=True)]
    bounds = [np.searchsorted(wanted, (part[2], end)) for part, end in zip(group, ends, strict=True)]
    num = sum(int(last - first) for first, last in bounds)
    filled = [array for array in arrays if len(array)] or arrays
    blocks = (
        array[wanted[first:last] - part[2]]
        for part, array, (first, last) in zip(group, arrays, bounds, strict=True)
        if last > first
    )
    entry = write_blocks(f"{out}.npy", (num, filled[0].shape[1]), filled[0].dtype, blocks)
    return Outcome(num, num, {}, [entry])


def write_points(stage: Stage, name: str, centroids: str) -> list[Part]:
    """A file of centroids as the parts that the next level clusters."""
    paths = []
    for first in range(0, shape_of(centroids)[0], _ROWS_PER_FILE):
        paths.append(stage.path(f"scratch-{name}-{first // _ROWS_PER_FILE:05d}.npy"))
        write_array(paths[-1], read_array(centroids, first, first + _ROWS_PER_FILE))
    return array_parts(paths)


def label_all(stage: Stage, plan: LevelPlan, parts: list[Part], centroids: str) -> npt.NDArray[np.int32]:
    """The cluster of every row of the parts. Memory: 4 bytes per row, which are clusters of the level below."""
    groups = groups_of(parts, plan.groups)
    plain = {"centroids": centroids, "device": plan.compute.device}
    files: Files = scratch_map(stage, f"{plan.name}-above", label_group, groups, **plain)[1]
    return np.concatenate([read_array(path) for path in files.paths(".npy")])


def label_group(group: Group, out: str, *, centroids: str, device: str) -> Outcome:
    """The cluster of every row of one group."""
    near = np.array(read_array(centroids))
    labels = [found for part in group for _, found, _ in assign(InMemory(read_array(part[0])), near, device=device)]
    joined = np.concatenate(labels)
    return Outcome(len(joined), len(joined), {}, [write_array(f"{out}.npy", joined)])
