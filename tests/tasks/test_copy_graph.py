"""The graph of copies: exactly the pairs above its threshold, bounded, however the work is cut, killed or spread."""

import itertools
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.algorithms.components import Components
from tasks.algorithms.edge_limit import limit_edges
from tasks.algorithms.self_join import Edges
from tasks.copy_graph import (
    Auto,
    Cells,
    CopyGraph,
    Exact,
    Faiss,
    RecallTooLow,
    ThresholdTooLow,
    copy_graph,
    graph_edges,
)
from tasks.graph import cells as graph_cells
from tasks.graph import exact as graph_exact
from tasks.graph import limit as graph_limit
from tasks.graph.files import merge
from tasks.pool import NoImages
from tasks.stage import PartsFailed
from tasks.workers import Workers, workers
from tests.tasks.vector_stages import image_row, made_stage, unit

DIM = 24


def families(num: int = 120, size: int = 5, seed: int = 0) -> np.ndarray:
    """Groups of similar vectors as float16, one image of each after the other."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(1, num, DIM)) + 0.35 * random.normal(size=(size, num, DIM))
    return unit(vectors.reshape(-1, DIM)).astype(np.float16)


def pool(
    layout: Layout, vectors: np.ndarray, cuts: Sequence[int] = (), numbers: Sequence[int] | None = None
) -> Manifest:
    """A finished describe stage with these vectors, in parts cut at these rows; row i is image numbers[i]."""
    rows = [image_row(number) for number in (range(len(vectors)) if numbers is None else numbers)]
    bounds = [0, *cuts, len(vectors)]
    slices = [slice(first, last) for first, last in pairwise(bounds)]
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
    cells = copy_graph.fn(
        described, config.model_copy(update={"method": Cells(assignments=64, cell_rows=1_000)}), layout
    )
    assert cells.facts["method"] == "cells"
    assert cells.facts["num_cells"] > 1
    assert files_of(cells) == files_of(exact)
    assert len(files_of(exact)) == 4  # three ranges of rows, and the forest of what three neighbours leave over


METHODS: dict[str, Any] = {
    "exact": Exact(),
    "cells": Cells(assignments=4, cell_rows=100),
    "faiss": Faiss(num_lists=8, probes=8, code_bytes=12, margin=0.4, shard_rows=250),
}


LOOSE = {"min_recall": 0.5, "min_planted_recall": 0.3, "min_component_recall": 0.3}
COUNTS_OF_TASKS = {"groups", "copies", "extended"}


def facts_of(graph: Manifest) -> dict[str, Any]:
    return {name: fact for name, fact in graph.facts.items() if name not in COUNTS_OF_TASKS}


@pytest.mark.parametrize("method", METHODS)
def test_parts_and_memory_change_no_byte(layout: Layout, tmp_path: Path, method: str) -> None:
    vectors = families()
    config = CopyGraph(method=METHODS[method], neighbours=3, rows_per_file=200, recall_sample=40, **LOOSE)
    whole = copy_graph.fn(pool(layout, vectors), config, layout)
    other = Layout(str(tmp_path / "other"))
    small = config.model_copy(update={"group_bytes": 12_000})
    cut = copy_graph.fn(pool(other, vectors, [1, 2, 2, 333, 590]), small, other)
    assert files_of(cut) == files_of(whole)
    assert facts_of(cut) == facts_of(whole)


def test_the_number_of_workers_changes_no_byte(layout: Layout, tmp_path: Path, two_processes: Workers) -> None:
    vectors = families()
    configs = [CopyGraph(method=method, recall_sample=40, group_bytes=16_000, **LOOSE) for method in METHODS.values()]
    alone = [files_of(copy_graph.fn(pool(layout, vectors), config, layout)) for config in configs]
    spread = Layout(str(tmp_path / "spread"))
    with workers(two_processes):
        assert [files_of(copy_graph.fn(pool(spread, vectors), config, spread)) for config in configs] == alone


@pytest.mark.parametrize("method", ["exact", "cells"])
def test_killed_in_the_middle_and_run_again_with_other_memory_it_ends_in_the_same_bytes(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    vectors = families()
    config = CopyGraph(method=METHODS[method], neighbours=3, recall_sample=40, **LOOSE)
    whole = copy_graph.fn(pool(layout, vectors), config, layout)
    other = Layout(str(tmp_path / "other"))
    described = pool(other, vectors, [300])
    for name, left in [("EdgeLimiter", 0), ("write_pairs", 2), ("find_cuts", 0), ("write_edges", 0)]:
        module = graph_limit if name in ("find_cuts", "write_edges") else graph_exact
        with monkeypatch.context() as patch:
            patch.setattr(module, name, dying(getattr(module, name), after=left))
            if name == "EdgeLimiter":
                patch.setattr(graph_cells, name, dying(getattr(graph_cells, name), after=left))
            with pytest.raises(PartsFailed, match=r"killed.*run again to do only the others"):
                copy_graph.fn(described, config.model_copy(update={"group_bytes": 9_000 + 7_000 * left}), other)
    again = copy_graph.fn(described, config, other)
    assert files_of(again) == files_of(whole)
    assert facts_of(again) == facts_of(whole)


def dying(function: Callable[..., Any], *, after: int) -> Callable[..., Any]:
    """The function, until it has been called so often: then the machine is switched off."""
    calls = itertools.count()

    def dies(*args: Any, **named: Any) -> Any:
        if next(calls) >= after:
            raise RuntimeError("killed")
        return function(*args, **named)

    return dies


def test_a_finished_graph_is_reused_and_one_without_its_files_made_again(layout: Layout) -> None:
    described = pool(layout, families())
    graph = copy_graph.fn(described, CopyGraph(), layout)
    assert copy_graph.fn(described, CopyGraph(group_bytes=10_000), layout) == graph
    Path(graph_path := graph.directory, "edges-00000.parquet").unlink()
    assert copy_graph.fn(described, CopyGraph(), layout).files == graph.files
    assert Path(graph_path, "edges-00000.parquet").exists()


def crowd() -> np.ndarray:
    """130 copies of one image, 70 of another, and 100 images apart; the copies near the middle of the pool."""
    random = np.random.default_rng(3)
    alone = random.normal(size=(102, 64))
    copies = [alone[at] + 0.15 * random.normal(size=(size, 64)) for at, size in ((0, 130), (1, 70))]
    return unit(np.concatenate([alone[2:52], *copies, alone[52:]])).astype(np.float16)


@pytest.mark.parametrize("method", ["exact", "cells"])
def test_crowds_of_copies_are_bounded_counted_and_hold_together_above_every_threshold(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(graph_cells, "_LARGE_CELL_ROWS", 40)  # tiles, as of a picture that is there a million times
    vectors = crowd()
    every = Cells(assignments=8, cell_rows=800)  # three cells, and all images in each
    config = CopyGraph(
        method=Exact() if method == "exact" else every, neighbours=16, group_bytes=12_000, rows_per_file=77, **LOOSE
    )
    graph = copy_graph.fn(pool(layout, vectors), config, layout)
    everything = brute_force(vectors, 0.45)
    degrees = np.bincount(np.concatenate([everything.left, everything.right]), minlength=300)
    assert graph.facts["saturated"] == (degrees > 16).sum() >= 200
    found = edges_of(graph)
    assert len(found.left) == graph.facts["edges"] < 17 * 200 + 100 < len(everything.left) / 3
    assert_same(found, limit_edges(everything, num_rows=300, neighbours=16))
    for threshold in np.quantile(everything.similarity, [0.0, 0.3, 0.9, 0.999]):
        assert components_of(edges_of(graph, max(0.45, threshold)), 300) == components_of(
            Edges(*(column[everything.similarity > threshold] for column in everything)), 300
        )


def components_of(edges: Edges, num_rows: int) -> list[int]:
    forest = Components(num_rows)
    forest.add(edges.left, edges.right)
    return list(forest.labels())


@pytest.mark.parametrize(
    ("floors", "what"),
    [
        ({"min_planted_recall": 0.99, "min_recall": 0.0}, r"of 40 planted copies with their original"),
        ({"min_planted_recall": 0.0, "min_recall": 0.999}, r"true pairs of 40 sampled images"),
        ({"min_planted_recall": 0.0, "min_recall": 0.0}, r"planted copies in their original's component"),
    ],
)
@pytest.mark.parametrize(
    ("method", "advice"),
    [
        (Cells(assignments=1, cell_rows=100), r"Raise copy_graph\.method\.assignments \(now 1\)"),
        (Faiss(num_lists=9, probes=1, code_bytes=2, margin=0.0), r"Raise copy_graph\.method\.probes \(now 1\)"),
    ],
)
def test_too_low_a_recall_stops_the_stage_and_says_what_to_raise(
    layout: Layout, method: Any, advice: str, floors: dict[str, float], what: str
) -> None:
    config = CopyGraph(method=method, recall_sample=40, **({"min_component_recall": 1.0} | floors))
    described = pool(layout, families())
    with pytest.raises(RecallTooLow, match=f"{what}.*wanted.*{advice}"):
        copy_graph.fn(described, config, layout)
    assert not list(Path(layout.root).glob("stages/copy_graph/*/manifest.json"))


@pytest.mark.parametrize("method", ["cells", "faiss"])
def test_the_recall_that_is_reported_is_the_true_one(layout: Layout, method: str) -> None:
    vectors = families()
    config = CopyGraph(method=METHODS[method], recall_sample=600, **LOOSE)
    graph = copy_graph.fn(pool(layout, vectors), config, layout)
    true, found = brute_force(vectors, 0.45), edges_of(graph)
    keys = [set(zip(edges.left.tolist(), edges.right.tolist(), strict=True)) for edges in (true, found)]
    assert keys[1] <= keys[0]
    assert graph.facts["recall"] == pytest.approx(len(keys[1]) / len(keys[0]), abs=1e-5)
    assert graph.facts["recall_pairs"] == 2 * len(keys[0])
    facts = graph.facts
    assert facts["planted"] == 600
    assert facts["planted_recall"] == pytest.approx(
        np.mean(list(facts["planted_recall_by_similarity"].values())), abs=1e-3
    )
    assert facts["planted_recall"] <= facts["planted_component_recall"] <= 1
    assert list(facts["planted_recall_by_similarity"]) == ["0.45-0.59", "0.59-0.73", "0.73-0.86", "0.86-1.00"]


def test_an_empty_pool_is_an_error_that_says_what_dropped_it(layout: Layout) -> None:
    empty = made_stage(layout, "describe", [[image_row(1, drop="truncated")]], [np.zeros((0, 4))])
    with pytest.raises(NoImages, match=r"no image is left of stage describe.*earlier"):
        copy_graph.fn(empty, CopyGraph(), layout)


def test_few_images_are_always_compared_with_all(layout: Layout) -> None:
    vectors = families(num=5)
    graph = copy_graph.fn(pool(layout, vectors), CopyGraph(method=Cells()), layout)
    assert graph.facts["method"] == "exact"
    assert_same(edges_of(graph), brute_force(vectors, 0.45))
    large = copy_graph.fn(pool(layout, families()), CopyGraph(method=Auto(exact_up_to=599), recall_sample=40), layout)
    assert large.facts["method"] == "cells"


def test_nothing_but_the_graph_is_left_on_disk(layout: Layout) -> None:
    graph = copy_graph.fn(pool(layout, families()), CopyGraph(method=Cells(), recall_sample=40), layout)
    left = {path.name for path in Path(graph.directory).iterdir()}
    assert left == {"edges-00000.parquet", "quantiser.safetensors", "manifest.json", "timing.json"}
