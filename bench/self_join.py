"""The self-join beside Faiss: all pairs above 0.6 of clustered unit vectors, at a recall of 0.99 and more.

Ours: fitting the quantiser, assigning, joining, everything from float16 vectors in memory to exact edges. Faiss: its
brute force, IVF-Flat and HNSW with k = 64 (65 with the row itself) on the same vectors as float32, with the same number
of threads, tuned by recall. Faiss's searches are timed on a sample of queries and scaled: their cost is linear in
queries; building is timed whole (HNSW's until `--hnsw-seconds`: what was built then is scaled linearly, in its favour).

Recall is that of pairs: of the sampled rows' true neighbours, by brute force, those found from either end; for Faiss,
and in `recall_of_64`, a row's 64 most similar ones alone count, because k = 64 cannot find more.

    python -m bench.self_join --sizes 125000 250000 500000 1000000 --peers-at 200000 1000000
"""

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bench import faiss_peers
from bench.clustered_vectors import DIM, clustered_vectors
from bench.measure import RESULTS, machine, peak_megabytes, save
from tasks.algorithms.blocks import InMemory
from tasks.algorithms.join_cost import join_cost
from tasks.algorithms.quantiser import CELL_ROWS
from tasks.algorithms.self_join import assign_cells, cross_pairs, first_shared_cell, fit_quantiser, join_cells

THRESHOLD = 0.6
NAME = "self_join"


class Truth(NamedTuple):
    """All true pairs of sampled rows: row, its neighbour, and which are among the 64 most similar of the row."""

    rows: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    nearest: npt.NDArray[np.bool_]


def true_pairs(vectors: npt.NDArray[np.float16], num_rows: int) -> Truth:
    """By brute force, exactly."""
    sample = np.sort(np.random.default_rng(1).choice(len(vectors), min(num_rows, len(vectors)), replace=False))
    blocks = list(cross_pairs(InMemory(vectors[sample]), InMemory(vectors), threshold=THRESHOLD))
    left, right, similarity = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.lexsort((right, -similarity, left))
    left, right = sample[left[order]], right[order]
    true = left != right
    left, right = left[true], right[true]
    rank = np.arange(len(left)) - np.searchsorted(left, left)
    return Truth(left, right, rank < faiss_peers.NEIGHBOURS)


def joined(path: str, truth: Truth, assignments: int, cell_rows: int, repeats: int) -> dict[str, Any]:
    """Our join, in a process of its own: median seconds of its steps, and recall."""
    vectors = np.load(path)
    _join(vectors[:4096], assignments, 64)  # numba's machine code is loaded
    runs = [_join(vectors, assignments, cell_rows) for _ in range(repeats)]
    middle = sorted(runs, key=lambda run: run[0]["seconds"])[repeats // 2]
    found = first_shared_cell(middle[1][truth.rows], middle[1][truth.neighbours]) >= 0
    return middle[0] | {
        "all_seconds": [run[0]["seconds"] for run in runs],
        "recall": round(float(found.mean()), 5),
        "recall_of_64": round(float(found[truth.nearest].mean()), 5),
    }


def _join(vectors: npt.NDArray[np.float16], assignments: int, cell_rows: int) -> tuple[dict[str, Any], Any]:
    marks = [time.perf_counter()]
    source = InMemory(vectors)
    quantiser = fit_quantiser(source, num_rows=len(vectors), assignments=assignments, seed=0, cell_rows=cell_rows)
    marks.append(time.perf_counter())
    cells = assign_cells(vectors, quantiser, assignments=assignments)
    marks.append(time.perf_counter())
    num_cells = len(quantiser.centroids)
    edges = join_cells(vectors, cells, threshold=THRESHOLD, first_cell=0, last_cell=num_cells)
    num_edges = sum(len(block.left) for block in edges)
    marks.append(time.perf_counter())
    sizes = np.bincount(cells[cells >= 0], minlength=num_cells).astype(np.float64)
    fit, assign, join = (round(float(after - before), 2) for before, after in pairwise(marks))
    result = {
        "seconds": round(marks[-1] - marks[0], 2),
        "fit_seconds": fit,
        "assign_seconds": assign,
        "join_seconds": join,
        "num_edges": num_edges,
        "num_cells": num_cells,
        "largest_cell": int(sizes.max()),
        "products_per_row": round(float((sizes**2).sum()) / 2 / len(vectors)),
    }
    return result, cells


def measure(num_rows: int, options: argparse.Namespace, *, peers: bool) -> dict[str, Any]:
    """One size: our join and, if asked for, Faiss on the same vectors in the same run."""
    vectors = clustered_vectors(num_rows)
    truth = true_pairs(vectors, options.sample)
    content: dict[str, Any] = {"rows": num_rows, "sampled_pairs": len(truth.rows)}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vectors.npy")
        np.save(path, vectors)
        arguments = (path, truth, options.assignments, options.cell_rows, options.repeats)
        ours, megabytes = peak_megabytes(joined, *arguments)
    ours |= {"assignments": options.assignments, "cell_rows": options.cell_rows}
    ours["peak_mb_beside_vectors"] = round(megabytes - vectors.nbytes / 2**20)
    cost = join_cost(num_rows, DIM, options.assignments, cell_rows=options.cell_rows)
    ours["products_per_row_by_formula"] = round(cost["join_products"] / num_rows)
    content["ours"] = ours
    print(f"{num_rows:>9,} ours {ours}", flush=True)
    if peers:
        content["faiss"] = faiss_peers.measure(vectors, truth, hnsw_seconds=options.hnsw_seconds)
        best = min(peer["seconds"] for peer in content["faiss"].values() if peer["recall"] >= faiss_peers.RECALL)
        content["times_faster_than_best"] = round(best / ours["seconds"], 1)
        print(f"{num_rows:>9,} {content['times_faster_than_best']} times as fast as Faiss's best", flush=True)
    return content


def growth(sizes: dict[str, Any]) -> dict[str, float]:
    """The exponent of N in our seconds: over all sizes by least squares, and between neighbouring sizes."""
    rows = sorted(int(size) for size in sizes)
    seconds = [sizes[str(size)]["ours"]["seconds"] for size in rows]
    slopes = {
        f"{a}-{b}": round(float(np.log(seconds[i + 1] / seconds[i]) / np.log(b / a)), 2)
        for i, (a, b) in enumerate(pairwise(rows))
    }
    return {"all": round(float(np.polyfit(np.log(rows), np.log(seconds), 1)[0]), 2)} | slopes


def main() -> None:
    """Sizes already in the JSON stay there, so that long runs can be done one by one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[125_000, 250_000, 500_000, 1_000_000])
    parser.add_argument("--peers-at", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--assignments", type=int, default=6)
    parser.add_argument("--cell-rows", type=int, default=CELL_ROWS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sample", type=int, default=1000, help="rows whose true pairs are found by brute force")
    parser.add_argument("--hnsw-seconds", type=float, default=300.0, help="building HNSW ends here; 0: no HNSW")
    parser.add_argument("--name", default=NAME)
    options = parser.parse_args()
    path = RESULTS / f"{options.name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"sizes": {}}
    content["machine"] = machine() | {"threads": torch.get_num_threads()}
    content["vectors"] = f"bench/clustered_vectors.py, float16 x {DIM}, seed 0; cosine > {THRESHOLD}"
    content["command"] = "python -m bench.self_join; Faiss searches timed on a sample of queries, scaled linearly"
    for size in sorted({*options.sizes, *options.peers_at}):
        measured = measure(size, options, peers=size in options.peers_at)
        content["sizes"][str(size)] = measured | {"load": machine()["load_at_start"]}
        if len(content["sizes"]) > 1:
            content["exponent_of_rows"] = growth(content["sizes"])
        save(options.name, content)


if __name__ == "__main__":
    main()
