"""The second way to curate: hierarchical k-means and balanced sampling (Vo et al., arXiv 2405.15613; for DINOv3, arXiv
2508.10104, 17 B images into 1.7 B). It needs no curated source; the mix of both ways is what DINOv3 found best."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.filesystem import file_sha256
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.algorithms.balanced import Counts, Leaf, allot, evenness, gini
from tasks.algorithms.blocks import Array
from tasks.algorithms.hierarchy import default_levels, default_sample_size
from tasks.algorithms.kmeans_seeding import ROWS_PER_CLUSTER
from tasks.cluster import MAX_CLUSTERS, Efficiency
from tasks.clusters.balanced_sample import sample_pool
from tasks.clusters.levels import LevelPlan, fit_level, label_all, write_points
from tasks.clusters.points import pool_parts, write_array
from tasks.clusters.seeding import Compute
from tasks.clusters.split import split_clusters
from tasks.config import StageConfig
from tasks.graph.scratch import sweep
from tasks.pool import Pool
from tasks.stage import Stage, stage_task

VERSION = 1


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

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"efficiency"})

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
    efficiency: Efficiency = Efficiency()
    """What may change the speed."""


class ImpossibleLevels(ValueError):
    """A level has more clusters than there are points for it."""


@stage_task(name="hierarchy")
def hierarchy(embedded: Manifest, config: Hierarchy, layout: Layout) -> Manifest:
    """A balanced sample of the pool: kept with detail "balanced", or dropped as not_sampled, part by part.

    Columns: `clusters`, the image's cluster in each level from the finest, and `value`, the cosine to the finest
    centroid. Files: level-<n>-centroids.npy and level-<n>-parents.npy (each cluster's in the next level). Memory of the
    flow: 16 bytes per cluster and dimension of what one k-means finds, 40 per finest cluster; on disk, while it runs,
    24 bytes per image, and the embeddings once more where the first level is split.
    Raises NoImages for an empty pool, ImpossibleLevels.
    """
    stage = Stage("hierarchy", version=VERSION, config=config, inputs={"embedded": embedded}, layout=layout)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    num_images = Pool(embedded).vectors.shape[0]
    target = min(config.target or max(1, num_images // 10), num_images)
    plans = plan_levels(config, num_images)
    files, parents, facts = fit_levels(stage, embedded, plans)
    give = partial(allot, parents=parents, target=target, seed=config.seed)
    outcomes, before, after = sample_pool(stage, embedded, plans[0], parents, leaf=config.leaf, give=give)
    facts |= {"target": target, "sampled": sum(outcome.rows_kept for outcome in outcomes)}
    facts |= flattening(before, after, parents)
    manifest = stage.publish(outcomes, files=files, facts=facts)
    sweep(stage)
    return manifest


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


def fit_levels(
    stage: Stage, embedded: Manifest, plans: Sequence[LevelPlan]
) -> tuple[list[FileEntry], list[npt.NDArray[np.int32]], dict[str, Any]]:
    """Level by level: (centroids and parents as files, the parents, what is told of the levels)."""
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
        else:
            entry = write_array(stage.path(f"{plan.name}-centroids.npy"), found.centroids)
        files.append(_checked(stage, entry))
        centroids = stage.path(files[-1].path)
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
    return files, parents, {"levels": told}


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


def _checked(stage: Stage, entry: FileEntry) -> FileEntry:
    return replace(entry, sha256=file_sha256(stage.path(entry.path))[1])
