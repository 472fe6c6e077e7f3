"""No copies of each other: the graph of similar descriptors, its components, one keeper of each.

DINOv2 (arXiv 2304.07193, App. A.3): 64 nearest neighbours, similarity > 0.6, components by a disjoint-set structure,
one representative. Memory: 4-8 bytes per image for the components, 44 for ids and preferences, and a block of products.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.filesystem import file_sha256, write_atomic
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.algorithms.blocks import VectorSource
from tasks.algorithms.components import Components, component_sizes, keepers, size_histogram
from tasks.algorithms.kmeans import fit_kmeans
from tasks.algorithms.sampling import id_keys, sample
from tasks.algorithms.self_join import (
    Edges,
    assign_cells,
    num_cells,
    recall_of_cells,
    similar_pairs,
    similar_pairs_in_cells,
)
from tasks.config import StageConfig
from tasks.pool import Pool, Verdicts, write_verdicts
from tasks.stage import Stage, stage_task

VERSION = 1
EDGES = "edges.parquet"
Keeper = Literal["largest", "earliest", "smallest_id"]


class RecallTooLow(RuntimeError):
    """The join by cells missed more true pairs of the sample than the config allows."""


class Join(StageConfig):
    """How similar pairs are found: all compared with all up to a size, by cells of a coarse quantiser above it."""

    exact_up_to: Annotated[int, Field(ge=0)] = 200_000
    """Vectors up to which every pair is compared."""
    assignments: Annotated[int, Field(ge=1, le=64)] = 4
    """Cells that each vector is put in, above that: more cost (squared) and more recall."""
    recall_sample: Annotated[int, Field(ge=1)] = 1_000
    """Vectors whose true pairs are found by brute force, to measure recall."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """The stage fails below this measured share of true pairs."""
    seed: int = 0
    """Seed of the quantiser and of the sample."""


class SelfDedup(StageConfig):
    """What counts as a copy, and which of several copies stays."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Two images whose cosine is above this are copies; so are images joined by a chain of such pairs."""
    neighbours: Annotated[int, Field(ge=1)] = 64
    """An image with this many copies or more counts as saturated (its further ones are found too)."""
    keeper: Keeper = "largest"
    """Which image of a component stays: the most pixels, the first in the pool, or the smallest id; ties by id."""
    join: Join = Join()
    """How pairs are found."""


@stage_task(name="self_dedup")
def self_dedup(described: Manifest, config: SelfDedup, layout: Layout) -> Manifest:
    """One keeper per component; every other image is dropped as `copy` of it, with its largest similarity.

    Raises NoImages for an empty pool, RecallTooLow when pairs had to be found by cells and too many were missed.
    """
    stage = Stage("self_dedup", version=VERSION, config=config, inputs={"described": described}, layout=layout)
    if stage.finished:
        return stage.reuse()
    pool = Pool(described)
    joined = find_pairs(pool.vectors, config.threshold, config.join)
    graph = Graph.of(len(pool.ids))
    entry = store_edges(stage.path(EDGES), graph.watch(joined.edges))
    labels = graph.components.labels()
    kept = keepers(labels, preference(pool, config.keeper))
    verdicts = Verdicts.keep(len(pool.ids))
    for row in np.flatnonzero(kept != np.arange(len(kept))):
        verdicts.drop[row], verdicts.other[row] = "copy", pool.ids[kept[row]].decode()
        verdicts.value[row] = graph.best[row]
    outcomes = write_verdicts(stage, described, verdicts)
    facts = joined.facts | graph.facts(config.neighbours) | {"threshold": config.threshold}
    return stage.publish(outcomes, files=[entry], facts=facts)


@dataclass(frozen=True)
class Joined:
    """Edges still to be computed, block by block, and how they are found."""

    edges: Iterator[Edges]
    facts: dict[str, Any]


def find_pairs(vectors: VectorSource, threshold: float, config: Join) -> Joined:
    """All pairs above the threshold: exactly for few vectors, by cells with a measured recall for many."""
    num_rows = vectors.shape[0]
    if num_rows <= config.exact_up_to:
        return Joined(similar_pairs(vectors, threshold=threshold), {"join": "exact", "recall": 1.0})
    count = num_cells(num_rows, assignments=config.assignments)
    centroids = fit_kmeans(vectors, num_clusters=count, seed=config.seed, iterations=5).centroids
    cells = assign_cells(vectors, centroids, assignments=config.assignments)
    rows = sample(id_keys([str(row) for row in range(num_rows)], seed=config.seed), config.recall_sample)
    found, total = recall_of_cells(vectors, cells, rows, threshold=threshold)
    recall = found / total if total else 1.0
    if recall < config.min_recall:
        raise RecallTooLow(
            f"the join by {count} cells finds {found} of {total} true pairs of {len(rows)} sampled images "
            f"({recall:.3f}, at least {config.min_recall} wanted). Raise join.assignments (now {config.assignments})."
        )
    facts = {"join": "cells", "recall": round(recall, 5), "recall_pairs": total, "num_cells": count}
    return Joined(similar_pairs_in_cells(vectors, cells, threshold=threshold), facts)


@dataclass
class Graph:
    """What is kept of the edges that stream by: components, how many edges each row has, its most similar one."""

    components: Components
    degrees: npt.NDArray[np.int32]
    best: npt.NDArray[np.float32]
    num_edges: int = 0

    @classmethod
    def of(cls, num_rows: int) -> "Graph":
        """A graph without edges."""
        return cls(Components(num_rows), np.zeros(num_rows, np.int32), np.zeros(num_rows, np.float32))

    def watch(self, edges: Iterator[Edges]) -> Iterator[Edges]:
        """The same edges, each taken account of as it passes."""
        for block in edges:
            self.components.add(block.left, block.right)
            for end in (block.left, block.right):
                np.add.at(self.degrees, end, 1)
                np.maximum.at(self.best, end, block.similarity)
            self.num_edges += len(block.left)
            yield block

    def facts(self, neighbours: int) -> dict[str, Any]:
        """Counts of edges, components by size, and rows with at least `neighbours` edges."""
        histogram = size_histogram(component_sizes(self.components.labels()))
        return {
            "edges": self.num_edges,
            "component_sizes": {str(size): count for size, count in histogram.items()},
            "largest_component": max(histogram, default=0),
            "saturated": int((self.degrees >= neighbours).sum()),
        }


def preference(pool: Pool, keeper: Keeper) -> list[npt.NDArray[Any]]:
    """Columns whose smallest values say which image of a component stays, the most important first."""
    if keeper == "largest":
        return [-pool.numbers("width") * pool.numbers("height"), pool.ids]
    return [pool.ids] if keeper == "smallest_id" else []


def store_edges(path: str, edges: Iterator[Edges]) -> FileEntry:
    """The edges as Parquet: left < right are row numbers over all parts. Memory: one block."""
    schema = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float32())])
    num_rows = 0
    with write_atomic(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for block in edges:
            writer.write_table(pa.table(list(block), schema=schema))
            num_rows += len(block.left)
    size, digest = file_sha256(path)
    return FileEntry(EDGES, num_rows, size, digest)
