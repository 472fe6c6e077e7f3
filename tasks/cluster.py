"""k-means of the pool's embeddings: 100,000 clusters of 744 M images in DINOv2 (arXiv 2304.07193, App. A.4)."""

from dataclasses import astuple
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from storage.filesystem import file_sha256, open_read, write_atomic
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, adopt
from storage.tables import kept, read_table, write_table
from tasks.algorithms.blocks import Floats
from tasks.algorithms.kmeans import KMeans, assign
from tasks.algorithms.kmeans_nearest import Precision
from tasks.algorithms.kmeans_seeding import ROWS_PER_CLUSTER
from tasks.clusters.fit import fit_parts
from tasks.clusters.points import Parts, pool_parts, read_array, write_array
from tasks.clusters.same_parts import same_parts
from tasks.clusters.seeding import Compute
from tasks.config import StageConfig
from tasks.graph.scratch import scratch_map, sweep
from tasks.pool import Pool, Verdicts, with_verdicts
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
CENTROIDS = "centroids.npy"
MAX_CLUSTERS = 100_000
_UNIT = 2.0**30


class Efficiency(StageConfig):
    """What may change the speed of k-means and never its result."""

    precision: Precision = "auto"
    """Of the products that narrow down the nearest centroid, which exact products then decide; auto: float16 on a GPU,
    int8 or bfloat16 where the CPU has instructions for it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where workers make them."""
    groups: Annotated[int, Field(ge=1, le=4096)] = 64
    """Tasks of an iteration; each leaves 8 bytes per cluster and dimension on disk until the iteration ends."""


class Cluster(StageConfig):
    """How the pool is clustered."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"efficiency", "refit"})

    num_clusters: Annotated[int, Field(ge=1)] | None = None
    """Number of clusters; null takes the square root of the number of images, at most 100,000."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 20
    """Iterations at most; fewer when the objective no longer rises."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """The rise of the mean cosine, as a part of it, below which the iterations end."""
    fit_images: Annotated[int, Field(ge=1)] | None = 50_000_000
    """Images that centroids are fitted to, chosen by id, 64 per cluster at least; null fits them to all. Every image is
    assigned, whether or not it was among them."""
    seed: int = 0
    """Seed of the first centroids and of the choice of images."""
    refit: bool = False
    """Fit new centroids even when the flow hands over an earlier run's."""
    efficiency: Efficiency = Efficiency()
    """What may change the speed."""


class TooManyClusters(ValueError):
    """More clusters are asked for than there are images."""


class OtherCentroids(ValueError):
    """The earlier run's centroids are not what the config asks for."""


@stage_task(name="cluster")
def cluster(embedded: Manifest, config: Cluster, layout: Layout, base: Manifest | None = None) -> Manifest:
    """Centroids (centroids.npy, float32 of unit length) and, part by part, each image's `cluster` and cosine to it.

    `base`, an earlier `cluster`: its centroids are used as they are and stand in the fingerprint, and parts whose
    embeddings are the same are taken over; with `refit`, it is not looked at. Memory of a worker: 13 bytes per cluster
    and dimension, of the flow 16 (while seeding: 3 candidates per cluster). Nothing grows with the number of images.
    Raises NoImages for an empty pool, TooManyClusters, OtherCentroids.
    """
    base = None if config.refit else base
    also: dict[str, Any] | None = {"centroids": file_sha256(base.file(CENTROIDS))[1]} if base else None
    stage = Stage("cluster", version=VERSION, config=config, inputs={"embedded": embedded}, layout=layout, also=also)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    shape = Pool(embedded).vectors.shape
    if base is None:
        found = fit_pool(stage, embedded, config, shape[0])
        entry = write_centroids(stage.path(CENTROIDS), found.centroids)
    else:
        found = KMeans(_earlier_centroids(base, config, shape[1]))
        entry = stage.adopt(base, CENTROIDS)
    pairs = zip(embedded.paths(".parquet"), embedded.paths(".npy"), strict=True)
    earlier = same_parts(embedded, base, VERSION, layout)
    known = [[base.directory, *astuple(same)] if base and same else None for same in earlier]
    parts = [[*pair, same] for pair, same in zip(pairs, known, strict=True)]
    plain = {"centroids": stage.path(CENTROIDS), "device": config.efficiency.device}
    outcomes = stage.map(assign_part, parts, **plain)
    facts = _facts(stage, found, outcomes, config.efficiency.groups)
    if base is not None:
        facts |= {"base": base.reference, "reused": sum(same is not None for same in earlier)}
    manifest = stage.publish(outcomes, files=[entry], facts=facts)
    sweep(stage)
    return manifest


def fit_pool(stage: Stage, embedded: Manifest, config: Cluster, num_images: int) -> KMeans:
    """New centroids, fitted to `fit_images` of the pool. Raises TooManyClusters."""
    num_clusters = config.num_clusters or default_clusters(num_images)
    if num_clusters > num_images:
        raise TooManyClusters(
            f"cluster.num_clusters is {num_clusters}, but only {num_images} images are left. Lower it or leave it out."
        )
    fit_rows = None if config.fit_images is None else max(config.fit_images, ROWS_PER_CLUSTER * num_clusters)
    return fit_parts(
        stage,
        "fit",
        pool_parts(embedded),
        num_clusters=num_clusters,
        iterations=config.iterations,
        tolerance=config.tolerance,
        compute=Compute(config.seed, config.efficiency.precision, config.efficiency.device),
        groups=config.efficiency.groups,
        fit_rows=fit_rows,
    )


def default_clusters(num_images: int) -> int:
    """The square root of the pool, up to the paper's 100,000."""
    return max(1, min(MAX_CLUSTERS, round(num_images**0.5)))


def assign_part(part: list[Any], out: str, *, centroids: str, device: str) -> Outcome:
    """The kept rows of one part with their cluster; `value` is the cosine to its centroid.

    `part`: table, vectors, and the folder and entry of the result where an earlier run had the same part.
    """
    images, vectors, earlier = part
    if earlier is not None:
        entry = adopt(FileEntry(*earlier[1:]), earlier[0], f"{out}.parquet")
        return Outcome(entry.rows, entry.rows, {}, [entry])
    table = kept(read_table(images))
    labels = np.zeros(len(table), dtype=np.int32)
    verdicts = Verdicts.keep(len(table))
    for start, block, cosine in (
        assign(Parts([vectors]), load_centroids(centroids), device=device) if len(table) else ()
    ):
        labels[start : start + len(block)] = block
        verdicts.value[start : start + len(block)] = cosine
    judged = with_verdicts(table, verdicts).append_column("cluster", [labels])
    return Outcome(len(table), len(table), {}, [write_table(f"{out}.parquet", judged)])


def count_clusters(tables: list[str], out: str, *, num_clusters: int) -> Outcome:
    """How many images of some parts each cluster has, and the sum of their cosines, in units of 2^-30."""
    counts, total = np.zeros(num_clusters, dtype=np.int64), 0
    for path in tables:
        table = read_table(path, ["cluster", "value"])
        counts += np.bincount(table["cluster"].to_numpy(), minlength=num_clusters)
        total += int(np.rint(table["value"].to_numpy().astype(np.float64) * _UNIT).sum())
    return Outcome(len(tables), len(tables), {}, [write_array(f"{out}.npy", counts)], {"total": total})


def write_centroids(path: str, centroids: Floats) -> FileEntry:
    """[clusters, dim] float32."""
    with write_atomic(path) as file:
        np.save(file, centroids, allow_pickle=False)
    size, digest = file_sha256(path)
    return FileEntry(CENTROIDS, len(centroids), size, digest)


def load_centroids(path: str) -> Floats:
    """[clusters, dim] float32."""
    with open_read(path) as file:
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)


def _facts(stage: Stage, found: KMeans, outcomes: list[Outcome], groups: int) -> dict[str, Any]:
    """objective: mean cosine of the images fitted to, as each iteration began; mean_cosine: of all, at the end."""
    num_clusters, num_images = len(found.centroids), sum(outcome.rows_kept for outcome in outcomes)
    tables = [stage.path(file.path) for outcome in outcomes for file in outcome.files]
    cut = [tables[start::groups] for start in range(min(groups, len(tables)))]
    counted, files = scratch_map(stage, "counts", count_clusters, cut, num_clusters=num_clusters)
    counts = sum(read_array(path) for path in files.paths(".npy"))
    return {
        "num_clusters": num_clusters,
        "objective": [round(value, 6) for value in found.objective],
        "mean_cosine": round(sum(part.facts["total"] for part in counted) / _UNIT / num_images, 6),
        "reseeded": sum(found.num_reseeded),
        "largest_cluster": int(np.max(counts)),
        "empty_clusters": int(np.sum(np.equal(counts, 0))),
    }


def _earlier_centroids(base: Manifest, config: Cluster, dim: int) -> Floats:
    centroids = load_centroids(base.file(CENTROIDS))
    if centroids.shape[1] != dim or config.num_clusters not in (None, len(centroids)):
        raise OtherCentroids(
            f"the earlier run's centroids ({base.file(CENTROIDS)}) are {len(centroids)} of {centroids.shape[1]} "
            f"dimensions; asked for are {config.num_clusters or 'any number'} of {dim}. Set cluster.refit to true, or "
            "leave cluster.num_clusters out."
        )
    return centroids
