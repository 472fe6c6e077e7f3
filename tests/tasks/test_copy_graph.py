"""The graph of copies holds exactly the pairs above its threshold, bounded, however the work is cut, killed or spread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.algorithms.edge_limit import limit_edges
from tasks.algorithms.self_join import Edges
from tasks.copy_graph import Auto, Cells, CopyGraph, Exact, Faiss, RecallTooLow, ThresholdTooLow, copy_graph, graph_edges
from tasks.edge_files import merge
from tasks.pool import NoImages
from tasks.workers import Workers, workers
from tests.tasks.vector_stages import image_row, made_stage, unit

DIM = 24


def families(num: int = 120, size: int = 5, seed: int = 0) -> np.ndarray:
    """Groups of similar vectors as float16, one image of each after the other."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(1, num, DIM)) + 0.35 * random.normal(size=(size, num, DIM))
    return unit(vectors.reshape(-1, DIM)).astype(np.float16)


def pool(layout: Layout, vectors: np.ndarray, cuts: Sequence[int] = (), numbers: Sequence[int] | None = None) -> Manifest:
    """A finished describe stage with these vectors, in parts cut at these rows; row i is image numbers[i]."""
    rows = [image_row(number) for number in (range(len(vectors)) if numbers is None else numbers)]
    bounds = [0, *cuts, len(vectors)]
    slices = [slice(first, last) for first, last in zip(bounds, bounds[1:], strict=False)]
    return made_stage(layout, "describe", [rows[part] for part in slices], [vectors[part] for part in slices])


def brute_force(vectors: np.ndarray, threshold: float) -> Edges:
    """All pairs by the definition."""
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = np.triu(rows @ rows.T, 1)
    left, right = np.nonzero(cosine > threshold)
    return Edges(left, right, cosine[left, right].astype(np.float32))


def edges_of(graph: Manifest, threshold: float | None = None) -> Edges:
    return merge(list(graph_edges(graph, graph.facts["threshold"] if threshold is None else threshold)))


def assert_same(found: Edges, wanted: Edges) -> None:
    order = np.lexsort((found.right, found.left))
    assert np.array_equal(found.left[order], wanted.left)
    assert np.array_equal(found.right[order], wanted.right)
    np.testing.assert_allclose(found.similarity[order], wanted.similarity, atol=1e-6)


def files_of(graph: Manifest) -> list[tuple[str, str]]:
    return [(entry.path, entry.sha256) for entry in graph.files if entry.path.startswith("edges-")]


@pytest.mark.parametrize("threshold", [0.45, 0.8])
def test_the_exact_graph_is_what_brute_force_finds(layout: Layout, threshold: float) -> None:
    vectors = families()
    graph = copy_graph.fn(pool(layout, vectors, [250]), CopyGraph(threshold=threshold), layout)
    assert_same(edges_of(graph), brute_force(vectors, threshold))
    assert (graph.rows_in, graph.rows_kept, graph.facts["method"], graph.facts["recall"]) == (600, 600, "exact", 1.0)
    assert graph.facts["edges"] == len(brute_force(vectors, threshold).left)


def test_a_higher_threshold_is_a_filter_and_a_lower_one_an_error(layout: Layout) -> None:
    vectors = families()
    graph = copy_graph.fn(pool(layout, vectors), CopyGraph(threshold=0.5), layout)
    assert_same(edges_of(graph, 0.8), brute_force(vectors, 0.8))
    with pytest.raises(ThresholdTooLow, match=r"above 0\.45 are wanted.*holds those above 0\.5.*copy_graph\.threshold"):
        graph_edges(graph, 0.45)


def test_cells_with_every_assignment_give_the_very_files_of_the_exact_graph(layout: Layout) -> None:
    described = pool(layout, families(), [70, 71, 400])
    config = CopyGraph(neighbours=3, rows_per_file=200, recall_sample=50)
    exact = copy_graph.fn(described, config, layout)
    cells = copy_graph.fn(described, config.model_copy(update={"method": Cells(assignments=64)}), layout)
    assert cells.facts["method"] == "cells"
    assert cells.facts["num_cells"] > 1
    assert files_of(cells) == files_of(exact)
    assert len(files_of(exact)) == 4  # three ranges of rows, and the forest of what three neighbours leave over


METHODS: dict[str, Any] = {
    "exact": Exact(),
    "cells": Cells(assignments=4),
    "faiss": Faiss(num_lists=8, probes=8, code_bytes=12, margin=0.4, shard_rows=250),
}


@pytest.mark.parametrize("method", METHODS)
def test_parts_memory_and_workers_change_no_byte(layout: Layout, tmp_path: Path, method: str) -> None:
    vectors = families()
    loose = {"min_recall": 0.5, "min_planted_recall": 0.3, "min_component_recall": 0.3}
    config = CopyGraph(method=METHODS[method], neighbours=3, rows_per_file=200, recall_sample=40, **loose)
    whole = copy_graph.fn(pool(layout, vectors), config, layout)
    other = Layout(str(tmp_path / "other"))
    small = config.model_copy(update={"group_bytes": 9_000})
    cut = copy_graph.fn(pool(other, vectors, [1, 2, 333, 590]), small, other)
    assert files_of(cut) == files_of(whole)
    assert {name: fact for name, fact in cut.facts.items() if name not in COUNTS_OF_TASKS} == {
        name: fact for name, fact in whole.facts.items() if name not in COUNTS_OF_TASKS
    }
    spread = Layout(str(tmp_path / "spread"))
    with workers(Workers(num_workers=2)):
        assert files_of(copy_graph.fn(pool(spread, vectors, [300]), small, spread)) == files_of(whole)


COUNTS_OF_TASKS = {"groups", "copies", "extended"}


def test_nothing_but_the_graph_is_left_on_disk(layout: Layout) -> None:
    graph = copy_graph.fn(pool(layout, families()), CopyGraph(method=Cells(), recall_sample=40), layout)
    left = {path.name for path in Path(graph.directory).iterdir()}
    assert left == {"edges-00000.parquet", "quantiser.safetensors", "manifest.json", "timing.json"}
