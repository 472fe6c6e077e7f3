"""The benchmarks of the graph, of retrieval and of k-means at scale run on tiny input, and their claims hold."""

from pathlib import Path

import numpy as np
import pytest

from bench import graph_stage, kmeans, retrieval_stage
from bench.clustered_vectors import clustered_vectors
from bench.self_join import Truth, true_pairs
from storage.layout import Layout
from storage.manifest import load_manifest
from tasks.algorithms.kmeans_nearest import Centroids
from tasks.copy_graph import Cells, CopyGraph, Exact


def test_the_stages_bench_reads_recall_from_the_published_edges(layout: Layout) -> None:
    vectors = clustered_vectors(1500, dim=64)
    described = retrieval_stage.write_images(layout, "describe", vectors, 0)
    config = CopyGraph(method=Cells(cell_rows=64), recall_sample=50, min_planted_recall=0.5, min_component_recall=0.5)
    found = graph_stage.graph(layout.root, described.directory, config.model_dump(mode="json"))
    assert {"cells", "exchange", "pairs", "edges", "rank"} <= set(found["steps"])
    assert sum(found["steps"].values()) <= found["seconds"]
    made, truth = load_manifest(found["folder"]), true_pairs(vectors, 100)
    checked = graph_stage.recall_of_edges(made, truth, len(vectors))
    assert checked["recall_of_published_edges"] > 0.9
    exact = CopyGraph(method=Exact(), min_recall=0.0).model_dump(mode="json")
    whole = load_manifest(graph_stage.graph(layout.root, described.directory, exact)["folder"])
    assert graph_stage.recall_of_edges(whole, truth, len(vectors))["recall_of_published_edges"] == 1.0
    everywhere = Truth(np.array([0, 5]), np.array([1, 7]), np.array([True, False]))
    assert graph_stage.recall_of_edges(made, everywhere, len(vectors))["true_pairs_checked"] == 1
    dedup = graph_stage.deduplicated(layout.root, described.directory, found["folder"])
    assert 0.5 * len(vectors) < dedup["kept"] < len(vectors)


def test_kmeans_at_scale_ends_with_as_many_distinct_centroids_in_few_passes_over_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters taken a 64th at a time make some 130 sets of centroids (and as many to warm up), one at a time 4,000."""
    sets = []
    original = Centroids.__init__

    def counted(self: Centroids, *arguments: object, **more: object) -> None:
        original(self, *arguments, **more)  # type: ignore[arg-type]
        sets.append(len(self.exact))

    monkeypatch.setattr(Centroids, "__init__", counted)
    np.save(tmp_path / "vectors.npy", kmeans.embeddings(10_000, 8))
    found = kmeans.at_scale(str(tmp_path / "vectors.npy"), 4_000, 2)
    assert found["distinct_centroids"] == 4_000
    assert len(found["iteration_seconds"]) == len(found["objective"]) == 2
    assert len(sets) < 400


def test_the_retrieval_stages_bench_ends_in_the_same_files_with_and_without_an_earlier_run(tmp_path: Path) -> None:
    found = retrieval_stage.compare(tmp_path, 2000, 300, 16, apart=False)
    assert found["same"]
    assert found["grown"]["reused"] > 0 == found["grown_alone"]["reused"]
    assert found["first"]["kept"] > 0
