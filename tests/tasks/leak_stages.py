"""A pool with its copy graph and keepers, and benchmarks, made by hand: what the stages before relative_dedup give."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import kept, read_table
from storage.vectors import Vectors
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig
from tasks.graph.files import write_edges
from tasks.link_benchmark import link_benchmark
from tasks.link_references import link_references
from tasks.pool import Verdicts, write_verdicts
from tasks.relative_dedup import RelativeDedup, relative_dedup
from tasks.stage import Stage
from tests.tasks.vector_stages import image_row, made_stage

Leaks = dict[int, tuple[int, str, float]]


class Made(StageConfig):
    """What distinguishes one hand-made stage from another."""

    content: str = ""


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[left, right] of any vectors, in float64."""
    units = [side / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in (left, right)]
    return np.asarray(units[0] @ units[1].T)


def matrix(described: Manifest) -> np.ndarray:
    """All vectors of a stage, as they are stored."""
    vectors = Vectors(described.paths(".npy"))
    return vectors.take(np.arange(vectors.shape[0])).astype(np.float32)


def graph_of(described: Manifest, layout: Layout, threshold: float = 0.3) -> Manifest:
    """The pool's copy graph, by brute force."""
    config = Made(content=str(threshold))
    stage = Stage("copy_graph", version=1, config=config, inputs={"described": described}, layout=layout)
    similarity = cosines(matrix(described), matrix(described))
    left, right = np.nonzero(np.triu(similarity > threshold, 1))
    edges = Edges(left, right, similarity[left, right].astype(np.float32))
    entry = write_edges(stage.path("edges-00000.parquet"), [edges])
    return stage.publish([], files=[entry], facts={"threshold": threshold})


def unique_of(described: Manifest, layout: Layout, copies: Collection[int] = ()) -> Manifest:
    """self_dedup's verdicts, in which the images with these numbers were copies."""
    config = Made(content=str(sorted(copies)))
    stage = Stage("self_dedup", version=1, config=config, inputs={"described": described}, layout=layout)
    ids = [row for path in described.paths(".parquet") for row in kept(read_table(path))["id"].to_pylist()]
    verdicts = Verdicts.keep(len(ids))
    verdicts.drop[[int(name, 16) in copies for name in ids]] = "copy"
    return stage.publish(write_verdicts(stage, described, verdicts))


def pool_of(layout: Layout, vectors: np.ndarray, cuts: Sequence[int] = ()) -> Manifest:
    """Images 1, 2, ... with these vectors, in parts cut at these rows."""
    rows = [image_row(number) for number in range(1, len(vectors) + 1)]
    bounds = [0, *cuts, len(rows)]
    spans = [slice(start, end) for start, end in pairwise(bounds)]
    return made_stage(layout, "describe", [rows[span] for span in spans], [vectors[span] for span in spans])


def benchmark_of(layout: Layout, name: str, vectors: np.ndarray, first: int) -> Manifest:
    """Images first, first + 1, ... of the benchmark "source/split"."""
    source, split = name.split("/")
    rows = [image_row(first + number, source=source, split=split) for number in range(len(vectors))]
    return made_stage(layout, "describe_benchmarks", [rows], [vectors])


def run_stages(
    described: Manifest,
    references: Sequence[Manifest],
    layout: Layout,
    *,
    copies: Collection[int] = (),
    base: Manifest | None = None,
    **config: Any,
) -> tuple[Manifest, list[Manifest]]:
    """(relative_dedup's manifest, the links': one for each of the references, and the one among them)."""
    settings = RelativeDedup(**({"self_test": None} | config))
    links = [link_benchmark.fn(described, one, settings, layout, base=base) for one in references]
    links.append(link_references.fn(references, settings, layout, base))
    graph, unique = graph_of(described, layout), unique_of(described, layout, copies)
    return relative_dedup.fn(described, unique, graph, references, links, settings, layout), links
