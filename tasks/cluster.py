"""k-means of the pool's embeddings: 100,000 clusters of 744 M images in DINOv2 (arXiv 2304.07193, App. A.4)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from storage.filesystem import file_sha256, open_read, write_atomic
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import kept, read_table, write_table
from storage.vectors import Vectors
from tasks.algorithms.blocks import Floats
from tasks.algorithms.kmeans import assign, fit_kmeans
from tasks.config import StageConfig
from tasks.pool import Pool, Verdicts, with_verdicts
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
CENTROIDS = "centroids.npy"
MAX_CLUSTERS = 100_000


class Cluster(StageConfig):
    """How the pool is clustered."""

    num_clusters: Annotated[int, Field(ge=1)] | None = None
    """Number of clusters; null takes the square root of the number of images, at most 100,000."""
    iterations: Annotated[int, Field(ge=1, le=1000)] = 20
    """Iterations at most; fewer when the objective no longer rises."""
    seed: int = 0
    """Seed of the first centroids."""


class TooManyClusters(ValueError):
    """More clusters are asked for than there are images."""


@stage_task(name="cluster")
def cluster(embedded: Manifest, config: Cluster, layout: Layout) -> Manifest:
    """Centroids (centroids.npy, float32 of unit length) and, part by part, each image's `cluster` and cosine to it.

    Raises NoImages for an empty pool, TooManyClusters.
    """
    stage = Stage("cluster", version=VERSION, config=config, inputs={"embedded": embedded}, layout=layout)
    if stage.finished:
        return stage.reuse()
    vectors = Pool(embedded).vectors
    num_clusters = config.num_clusters or default_clusters(vectors.shape[0])
    if num_clusters > vectors.shape[0]:
        raise TooManyClusters(
            f"cluster.num_clusters is {num_clusters}, but only {vectors.shape[0]} images are left. "
            "Lower it or leave it out."
        )
    fit = fit_kmeans(vectors, num_clusters=num_clusters, seed=config.seed, iterations=config.iterations)
    entry = write_centroids(stage.path(CENTROIDS), fit.centroids)
    pairs = list(zip(embedded.paths(".parquet"), embedded.paths(".npy"), strict=True))
    outcomes = stage.map(assign_part, pairs, centroids=stage.path(CENTROIDS))
    sizes = np.concatenate([read_table(path, ["cluster"])["cluster"].to_numpy() for path in _tables(stage, outcomes)])
    counts = np.bincount(sizes, minlength=num_clusters)
    facts = {
        "num_clusters": num_clusters,
        "objective": [round(value, 6) for value in fit.objective],
        "reseeded": fit.num_reseeded,
        "largest_cluster": int(counts.max()),
        "empty_clusters": int((counts == 0).sum()),
    }
    return stage.publish(outcomes, files=[entry], facts=facts)


def default_clusters(num_images: int) -> int:
    """The square root of the pool, up to the paper's 100,000."""
    return max(1, min(MAX_CLUSTERS, round(num_images**0.5)))


def assign_part(part: tuple[str, str], out: str, *, centroids: str) -> Outcome:
    """The kept rows of one part with their cluster; `value` is the cosine to its centroid."""
    table, vectors = kept(read_table(part[0])), Vectors([part[1]])
    labels = np.zeros(len(table), dtype=np.int32)
    verdicts = Verdicts.keep(len(table))
    for start, block, cosine in assign(vectors, load_centroids(centroids)) if len(table) else ():
        labels[start : start + len(block)] = block
        verdicts.value[start : start + len(block)] = cosine
    judged = with_verdicts(table, verdicts).append_column("cluster", [labels])
    return Outcome(len(table), len(table), {}, [write_table(f"{out}.parquet", judged)])


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


def _tables(stage: Stage, outcomes: list[Outcome]) -> list[str]:
    return [stage.path(file.path) for outcome in outcomes for file in outcome.files]
