"""The second way to curate: hierarchical k-means and balanced sampling (Vo et al., arXiv 2405.15613; for DINOv3, arXiv
2508.10104, 17 B images into 1.7 B). It needs no curated source; the mix of both ways is what DINOv3 found best.

A run that goes on from an earlier one (`base`) keeps its levels: new images are assigned to them, known ones stay where
they are, and the sample is drawn anew of the whole pool. So it is that of a run over the whole pool with these levels,
part by part and image by image. It is not the earlier sample and some more: the target grows with the pool, a cluster
that got new images gives more, and others, who share the rest, may give fewer; which images of a cluster go first is
decided by their ids alone (leaf "random") or by their cosines ("closest"). `refit` makes new levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.filesystem import file_sha256, file_size, join
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.algorithms.balanced import Counts, Leaf, allot, evenness, gini
from tasks.algorithms.blocks import Array
from tasks.algorithms.hierarchy import default_levels, default_sample_size
from tasks.algorithms.kmeans_seeding import ROWS_PER_CLUSTER
from tasks.cluster import MAX_CLUSTERS, Efficiency, OtherCentroids
from tasks.clusters.balanced_sample import Finest, sample_pool
from tasks.clusters.levels import LevelPlan, fit_level, label_all, write_points
from tasks.clusters.points import pool_parts, read_array, shape_of, write_array
from tasks.clusters.same_parts import same_parts
from tasks.clusters.seeding import Compute
from tasks.clusters.split import coarse_paths, split_clusters
from tasks.config import StageConfig
from tasks.graph.scratch import sweep
from tasks.pool import Pool
from tasks.stage import Stage, stage_task

VERSION = 2


class Level(StageConfig):
    """One level of clusters."""

    num_clusters: Annotated[int, Field(ge=1)]
    """How many; fewer than there are points (images, or clusters of the level below)."""
    resamplings: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often the points closest to the centroids are clustered in place of all; null: never in the first level, 9
    times above it (the paper's 10 runs of k-means)."""
    sample_size: Annotated[int, Field(ge=1)] | None = None
    """Points of each cluster that are taken then; null: half of the average cluster, as in the paper."""

    splits: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """In the first level: k-means into num_clusters / splits, and each of those split into so many; null: not split up
    to 100,000 clusters, beyond that 100,000 are split (the paper's 10 M are 100,000 times 100)."""


class Hierarchy(StageConfig):
    """Levels of clusters, and how many images are sampled from them."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"efficiency", "refit"})

    levels: tuple[Level, ...] = ()
    """From the finest; empty takes the paper's ratios: an image in 74, and of those one in 20, 10 and 5."""
    target: Annotated[int, Field(ge=1)] | None = None
    """Images to sample; null takes a tenth of the pool (DINOv3: 1.7 of 17 billion)."""
    leaf: Leaf = "random"
    """Which images of the finest clusters: random by id, or those closest to the centroid."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 50
    """Iterations of each k-means at most."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """The rise of the mean cosine, as a part of it, below which a k-means ends."""
    fit_images: Annotated[int, Field(ge=1)] | None = 50_000_000
    """Images that the first level is fitted to, chosen by id, 64 per cluster at least; null fits it to all."""
    seed: int = 0
    """Seed of all that is chosen."""
    refit: bool = False
    """Make new levels even when the flow hands over an earlier run's."""
    efficiency: Efficiency = Efficiency()
    """What may change the speed."""


class ImpossibleLevels(ValueError):
    """A level has more clusters than there are points for it."""


@dataclass(frozen=True)
class Levels:
    """What images are assigned to. files: of the stage; parents: of each level but the last, every cluster's in the
    next one; split: whether the first was made in two steps."""

    files: Sequence[FileEntry]
    parents: Sequence[npt.NDArray[np.int32]]
    split: bool
    told: Sequence[Mapping[str, Any]]


@stage_task(name="hierarchy")
def hierarchy(embedded: Manifest, config: Hierarchy, layout: Layout, base: Manifest | None = None) -> Manifest:
    """A balanced sample of the pool: kept with detail "balanced", or dropped as not_sampled, part by part.

    Columns: `clusters`, the image's cluster in each level from the finest, and `value`, the cosine to the finest
    centroid. Files: level-<n>-centroids.npy and level-<n>-parents.npy (each cluster's in the next level). `base`, an
    earlier `hierarchy`: its levels are used as they are and stand in the fingerprint, and of parts whose embeddings are
    the same the clusters are taken over; with `refit` it is not looked at. facts: levels, target, sampled, `reused`
    images. Memory of the flow: 16 bytes per cluster and dimension of what one k-means finds, 40 per finest cluster; on
    disk, while it runs, 24 bytes per image, and the embeddings once more where the first level is split.
    Raises NoImages for an empty pool, ImpossibleLevels, OtherCentroids for embeddings of another dimension.
    """
    base = None if config.refit or (base is not None and base.version != VERSION) else base
    also = {"levels": {entry.path: entry.sha256 for entry in level_files(base)}} if base else None
    stage = Stage("hierarchy", version=VERSION, config=config, inputs={"embedded": embedded}, layout=layout, also=also)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    num_images, dim = Pool(embedded).vectors.shape
    target = min(config.target or max(1, num_images // 10), num_images)
    if base is None:
        levels = fit_levels(stage, embedded, plan_levels(config, num_images))
    else:
        levels = earlier_levels(stage, base, dim)
    known = same_parts(embedded, base, VERSION, layout)
    finest = Finest(
        "level-1",
        split=levels.split,
        compute=Compute(config.seed, config.efficiency.precision, config.efficiency.device),
        groups=config.efficiency.groups,
        earlier=[join(base.directory, entry.path) if base and entry else None for entry in known],
    )
    give = partial(allot, parents=levels.parents, target=target, seed=config.seed)
    outcomes, before, after = sample_pool(stage, embedded, finest, levels.parents, leaf=config.leaf, give=give)
    facts = {"levels": list(levels.told), "target": target, "sampled": sum(outcome.rows_kept for outcome in outcomes)}
    facts |= flattening(before, after, levels.parents)
    if base is not None:
        facts |= {"base": base.reference, "reused": sum(entry.rows for entry in known if entry)}
    manifest = stage.publish(outcomes, files=levels.files, facts=facts)
    sweep(stage)
    return manifest


def level_files(manifest: Manifest) -> list[FileEntry]:
    """What a finished stage keeps of its levels."""
    return [entry for entry in manifest.files if entry.path.startswith("level-")]


def earlier_levels(stage: Stage, base: Manifest, dim: int) -> Levels:
    """An earlier run's levels, as files of this stage. Raises OtherCentroids when they are of other dimensions."""
    entries = [stage.adopt(base, entry.path) for entry in level_files(base)]
    names = [entry.path for entry in entries]
    if (theirs := shape_of(stage.path("level-1-centroids.npy"))[1]) != dim:
        raise OtherCentroids(
            f"the earlier run's levels ({base.directory}) are of {theirs} dimensions, the embeddings of {dim}. "
            "Set hierarchy.refit to true."
        )
    parents = [np.array(read_array(stage.path(name))) for name in sorted(names) if name.endswith("-parents.npy")]
    return Levels(entries, parents, "level-1-coarse.npy" in names, base.facts["levels"])


def plan_levels(config: Hierarchy, num_images: int) -> list[LevelPlan]:
    """What each level does. Raises ImpossibleLevels."""
    levels = config.levels or tuple(Level(num_clusters=count) for count in default_levels(num_images))
    plans, points = list[LevelPlan](), num_images
    for number, level in enumerate(levels):
        if level.num_clusters > points or (number and level.num_clusters == points):
            raise ImpossibleLevels(
                f"hierarchy.levels[{number}] has {level.num_clusters} clusters for {points} "
                f"{'clusters of the level below' if number else 'images'}. Lower it or leave `levels` out."
            )
        splits = level.splits or (1 if number else -(-level.num_clusters // MAX_CLUSTERS))
        if number and splits > 1:
            raise ImpossibleLevels(f"hierarchy.levels[{number}].splits is {splits}, but only the first level is split.")
        num_clusters = level.num_clusters // splits
        least = ROWS_PER_CLUSTER * num_clusters
        plans.append(
            LevelPlan(
                name=f"level-{number + 1}",
                num_clusters=num_clusters,
                splits=splits,
                resamplings=(9 if number else 0) if level.resamplings is None else level.resamplings,
                sample_size=level.sample_size or default_sample_size(points, num_clusters),
                iterations=config.iterations,
                tolerance=config.tolerance,
                compute=Compute(config.seed + 1000 * number, config.efficiency.precision, config.efficiency.device),
                groups=config.efficiency.groups,
                fit_rows=None if number or config.fit_images is None else max(config.fit_images, least),
            )
        )
        points = num_clusters * splits
    return plans


def fit_levels(stage: Stage, embedded: Manifest, plans: Sequence[LevelPlan]) -> Levels:
    """New levels, one after the other."""
    files, parents, told = list[FileEntry](), list[npt.NDArray[np.int32]](), list[dict[str, Any]]()
    parts = pool_parts(embedded)
    for plan in plans:
        found = fit_level(stage, plan, parts)
        if plan.splits > 1:
            entry = split_clusters(
                stage,
                plan.name,
                parts,
                found.centroids,
                into=plan.splits,
                iterations=plan.iterations,
                compute=plan.compute,
            )
            files += [_checked(stage, shown(path)) for path in coarse_paths(stage, plan.name)]
        else:
            entry = write_array(stage.path(f"{plan.name}-centroids.npy"), found.centroids)
        files.append(_checked(stage, entry))
        centroids = stage.path(entry.path)
        if plan is not plans[0]:
            name = f"{plans[len(parents)].name}-parents.npy"
            parents.append(label_all(stage, plan, parts, centroids))
            files.append(_checked(stage, write_array(stage.path(name), parents[-1])))
        told.append(
            {
                "level": plan.name,
                "clusters": entry.rows,
                "splits": plan.splits,
                "resamplings": plan.resamplings,
                "sample_size": plan.sample_size if plan.resamplings else 0,
                "objective": round(found.objective[-1], 6),
            }
        )
        parts = write_points(stage, f"{plan.name}-points", centroids)
    return Levels(files, parents, plans[0].splits > 1, told)


def flattening(before: Counts, after: Counts, parents: Sequence[Array]) -> dict[str, Any]:
    """Gini index (0: equal) and entropy (1: equal) of the sizes of the finest and the coarsest clusters, in the pool
    and in the sample."""
    facts: dict[str, Any] = {}
    for sizes, when in ((before, "pool"), (after, "sample")):
        top = sizes
        for above in parents:
            top = np.bincount(above, weights=top, minlength=int(above.max(initial=-1)) + 1)
        for name, level in (("finest", sizes), ("coarsest", top)):
            facts[f"gini_{name}_{when}"] = round(gini(level), 4)
            facts[f"evenness_{name}_{when}"] = round(evenness(level), 4)
    return facts


def shown(path: str) -> FileEntry:
    """The entry of an array that was written, without a checksum."""
    return FileEntry(path.rsplit("/", 1)[-1], len(read_array(path)), file_size(path) or 0, "")


def _checked(stage: Stage, entry: FileEntry) -> FileEntry:
    return replace(entry, sha256=file_sha256(stage.path(entry.path))[1])
