"""The whole `copy_graph` stage from descriptors on disk to edges, then `self_dedup`: seconds by step, memory, recall.

    python -m bench.graph_stage [--rows 300000] [--methods cells faiss] [--name graph_stage]

Vectors are those of the self-join's benchmark (bench/clustered_vectors.py, 512 dimensions: a quarter are copies, one in
five of them a collage), in parts of 10,000. Every method runs with its defaults, each stage in one process of its own
(no workers beside it), so that its peak memory is that of the flow and of a task together. The stage measures its own
recall; here it is measured once more, of the published edges: the true pairs above 0.6 of sampled images, by brute
force, of each image its 64 most similar ones (what the graph promises to keep).
"""

import argparse
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.clustered_vectors import DIM, clustered_vectors
from bench.measure import machine, peak_megabytes, save
from bench.retrieval_stage import write_images
from bench.self_join import THRESHOLD, Truth, true_pairs
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from tasks.copy_graph import Cells, CopyGraph, Exact, Faiss, copy_graph, graph_edges
from tasks.graph.config import Method
from tasks.self_dedup import SelfDedup, self_dedup
from tasks.stage import Stage

METHODS: dict[str, Method] = {"cells": Cells(), "faiss": Faiss(), "exact": Exact()}
_FACTS = (
    "edges", "saturated", "recall", "recall_pairs", "planted_recall", "planted_recall_by_similarity",
    "planted_component_recall", "num_cells",
)  # fmt: skip


def timed_steps(call: Callable[[], Manifest]) -> tuple[Manifest, dict[str, float], float]:
    """What a stage gave, the seconds of its steps by name, and of all of it."""
    steps: dict[str, float] = defaultdict(float)
    original = Stage.map

    def timed(self: Stage, function: Callable[..., Any], parts: Any, *, prefix: str = "part", **plain: Any) -> Any:
        started = time.perf_counter()
        outcomes = original(self, function, parts, prefix=prefix, **plain)
        steps[prefix.removeprefix("scratch-").split("-")[0]] += time.perf_counter() - started
        return outcomes

    Stage.map = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        found = call()
    finally:
        Stage.map = original  # type: ignore[method-assign]
    return found, {name: round(value, 2) for name, value in steps.items()}, time.perf_counter() - started


def graph(root: str, described: str, config: dict[str, Any]) -> dict[str, Any]:
    """The graph's stage in this process."""
    method = CopyGraph.model_validate(config)
    found, steps, seconds = timed_steps(lambda: copy_graph.fn(load_manifest(described), method, Layout(root)))
    facts = {name: found.facts[name] for name in _FACTS if name in found.facts}
    return {"seconds": round(seconds, 2), "steps": steps, **facts, "folder": found.directory}


def deduplicated(root: str, described: str, graph_folder: str) -> dict[str, Any]:
    """The dedup's stage in this process."""
    inputs = load_manifest(described), load_manifest(graph_folder)
    found, steps, seconds = timed_steps(lambda: self_dedup.fn(*inputs, SelfDedup(), Layout(root)))
    return {
        "seconds": round(seconds, 2),
        "steps": steps,
        "kept": found.rows_kept,
        "largest_component": found.facts["largest_component"],
    }


def recall_of_edges(manifest: Manifest, truth: Truth, num_rows: int) -> dict[str, Any]:
    """Of the true pairs that are among the 64 most similar of a sampled image, how many the graph holds."""
    true = np.unique(_keys(truth.rows[truth.nearest], truth.neighbours[truth.nearest], num_rows))
    there = [np.zeros(0, dtype=np.int64)]
    for block in graph_edges(manifest, THRESHOLD):
        keys = _keys(block.left, block.right, num_rows)
        there.append(keys[np.isin(keys, true)])
    found = len(np.unique(np.concatenate(there)))
    return {"recall_of_published_edges": round(found / max(1, len(true)), 5), "true_pairs_checked": len(true)}


def _keys(left: np.ndarray, right: np.ndarray, num_rows: int) -> np.ndarray:
    return np.asarray(np.minimum(left, right) * num_rows + np.maximum(left, right))


def measure(folder: Path, num_rows: int, names: list[str], *, sample: int) -> dict[str, Any]:
    """Every method on the same vectors."""
    layout = Layout(str(folder))
    vectors = clustered_vectors(num_rows)
    described = write_images(layout, "describe", vectors, 0)
    truth = true_pairs(vectors, sample)
    del vectors
    content: dict[str, Any] = {"rows": num_rows, "dim": DIM, "methods": {}}
    for name in names:
        config = CopyGraph(method=METHODS[name]).model_dump(mode="json")
        found, megabytes = peak_megabytes(graph, layout.root, described.directory, config)
        made = found.pop("folder")
        found |= recall_of_edges(load_manifest(made), truth, num_rows) | {"peak_megabytes": round(megabytes)}
        dedup, megabytes = peak_megabytes(deduplicated, layout.root, described.directory, made)
        content["methods"][name] = {"copy_graph": found, "self_dedup": dedup | {"peak_megabytes": round(megabytes)}}
        print(name, content["methods"][name], flush=True)
    return content


def main() -> None:
    """Write bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS), default=["cells"])
    parser.add_argument("--sample", type=int, default=1000, help="images whose true pairs are found by brute force")
    parser.add_argument("--name", default="graph_stage")
    options = parser.parse_args()
    about = {"machine": machine(), "vectors": "bench/clustered_vectors.py, float16, seed 0"}
    folder = Path(tempfile.mkdtemp(prefix="graph-stage-"))
    try:
        found = measure(folder, options.rows, options.methods, sample=options.sample)
    finally:
        shutil.rmtree(folder)
    save(options.name, about | found)


if __name__ == "__main__":
    main()
