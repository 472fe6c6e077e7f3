"""Retrieval's search by cells beside Faiss IVF-Flat: the same pool and queries, recall and threads, in one run.

    python -m bench.retrieval [--sizes 1000000x100000 ...] [--dim 384] [--recall 0.98] [--repeats 3] [--name retrieval]

N = 4 neighbours by cosine. Each side gets as few probes as reach the recall, measured on 1,000 queries by brute force;
Faiss the better of two numbers of lists. Our cells are the clusters that retrieval has anyway (the square root of the
pool, as the `cluster` stage makes by default): what k-means took is reported, and the sums are given with and without
it; Faiss trains its own, on 64 images per list. Faiss holds float32, ours float16 in memory, sorted by cell; results of
ours are exact products in the order that `retrieve` documents.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from bench.kmeans import embeddings
from bench.measure import machine, median_seconds, save
from tasks.algorithms.blocks import Floats, InMemory, Rows
from tasks.algorithms.kmeans import assign, fit_kmeans
from tasks.algorithms.neighbours import Asking, Neighbours, nearest, nearest_in_cells, recall_of

NUM = 4
_SAMPLE = 1_000
_THREADS = 2
Halves = npt.NDArray[np.float16]


class Cells(NamedTuple):
    """The pool sorted by cell, as `sort_by_cell` and `search_cells` hold it."""

    centroids: Halves
    vectors: Halves
    bounds: Rows
    rows: Rows  # of the pool, by place in `vectors`


def sorted_by_cell(pool: Halves, centroids: Floats, labels: Rows) -> Cells:
    """What is built for the search, once there are clusters."""
    rows = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[rows], np.arange(len(centroids) + 1)).astype(np.int64)
    return Cells(centroids.astype(np.float16), pool[rows], bounds, rows)


def search(cells: Cells, queries: Halves, probes: int) -> Neighbours:
    """Probes and neighbours, the queries shared out to threads as they are to workers in a run."""

    def part(some: Halves) -> Neighbours:
        near = nearest(cells.centroids, some, num=probes)
        asking = Asking.of(near.rows, np.repeat(np.arange(len(some)), np.diff(near.offsets)), len(cells.centroids))
        return nearest_in_cells(cells.vectors, cells.bounds, some, asking, num=NUM, ties=cells.rows)

    with ThreadPoolExecutor(_THREADS) as threads:
        parts = list(threads.map(part, np.array_split(queries, _THREADS)))
    rows = np.concatenate([cells.rows[part.rows] for part in parts])
    ends = np.cumsum([0, *(count for part in parts for count in np.diff(part.offsets))])
    return Neighbours(ends, rows, np.concatenate([part.similarity for part in parts]))


def as_neighbours(rows: Rows) -> Neighbours:
    """What Faiss gives, [queries, NUM] with -1 for none, in our form."""
    there = rows >= 0
    return Neighbours(np.r_[0, np.cumsum(there.sum(axis=1))], rows[there], np.zeros(int(there.sum()), dtype=np.float32))


def fewest_probes(recall_at: Callable[[int], float], wanted: float, most: int) -> tuple[int, float]:
    """The fewest probes that reach the recall (which grows with them), by bisection."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall_at(middle) >= wanted else (middle + 1, high)
    return low, recall_at(low)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    started = time.perf_counter()
    found = function()
    return time.perf_counter() - started, found


def ours(pool: Halves, queries: Halves, truth: Neighbours, wanted: float, repeats: int) -> dict[str, Any]:
    """Times of our side at the recall."""
    num_cells = round(len(pool) ** 0.5)
    kmeans, fit = timed(lambda: fit_kmeans(InMemory(pool), num_clusters=num_cells, seed=0))
    assigning, labels = timed(lambda: np.concatenate([block for _, block, _ in assign(InMemory(pool), fit.centroids)]))
    building, cells = timed(lambda: sorted_by_cell(pool, fit.centroids, labels))
    sample = queries[:_SAMPLE]

    def recall_at(probes: int) -> float:
        same, there = recall_of(search(cells, sample, probes), truth)
        return same / there

    probes, recall = fewest_probes(recall_at, wanted, num_cells)
    seconds = median_seconds(lambda: search(cells, queries, probes), repeats=repeats)
    return {
        "cells": num_cells,
        "probes": probes,
        "recall": round(recall, 5),
        "kmeans_seconds": round(kmeans + assigning, 2),
        "build_seconds": round(building, 2),
        "search_seconds": round(seconds, 2),
    }


def faiss_ivf(
    pool: Floats, queries: Floats, truth: Neighbours, wanted: float, repeats: int, *, lists: int
) -> dict[str, Any]:
    """Times of IVF-Flat with so many lists at the recall."""
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(pool.shape[1]), pool.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.cp.max_points_per_centroid = 64
    training, _ = timed(lambda: index.train(pool))
    adding, _ = timed(lambda: index.add(pool))

    def found(some: Floats, probes: int) -> Neighbours:
        index.nprobe = probes
        return as_neighbours(index.search(some, NUM)[1])

    def recall_at(probes: int) -> float:
        same, there = recall_of(found(queries[:_SAMPLE], probes), truth)
        return same / there

    probes, recall = fewest_probes(recall_at, wanted, lists)
    seconds = median_seconds(lambda: found(queries, probes), repeats=repeats)
    return {
        "lists": lists,
        "probes": probes,
        "recall": round(recall, 5),
        "train_seconds": round(training, 2),
        "add_seconds": round(adding, 2),
        "search_seconds": round(seconds, 2),
    }


def compare(num_pool: int, num_queries: int, dim: int, wanted: float, repeats: int) -> dict[str, Any]:
    """Both sides at one size."""
    drawn = embeddings(num_pool + num_queries, dim)
    pool, queries = drawn[:num_pool], drawn[num_pool:]
    truth = nearest(pool, queries[:_SAMPLE], num=NUM)
    mine = ours(pool, queries, truth, wanted, repeats)
    print("  ours ", mine, flush=True)
    pool32, queries32 = pool.astype(np.float32), queries.astype(np.float32)
    peers = []
    for lists in (mine["cells"], 4 * mine["cells"]):
        peers.append(faiss_ivf(pool32, queries32, truth, wanted, repeats, lists=lists))
        print("  faiss", peers[-1], flush=True)
    best = min(peers, key=lambda peer: peer["search_seconds"])
    built = mine["build_seconds"] + mine["search_seconds"]
    theirs = best["train_seconds"] + best["add_seconds"] + best["search_seconds"]
    return {
        "pool": num_pool,
        "queries": num_queries,
        "dim": dim,
        "num": NUM,
        "ours": mine,
        "faiss_ivf_flat": peers,
        "search_ratio": round(best["search_seconds"] / mine["search_seconds"], 2),
        "with_build_ratio": round(theirs / built, 2),
        "with_build_and_kmeans_ratio": round(theirs / (built + mine["kmeans_seconds"]), 2),
        "queries_per_second": round(num_queries / mine["search_seconds"]),
        "operations_per_second": round(_operations(mine, num_pool, num_queries, dim) / mine["search_seconds"]),
    }


def _operations(mine: dict[str, Any], num_pool: int, num_queries: int, dim: int) -> float:
    """Products of the search, were all cells of one size: probes, then images in them."""
    return 2.0 * dim * num_queries * (mine["cells"] + mine["probes"] * num_pool / mine["cells"])


def main() -> None:
    """Every size in turn; a table and bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1000000x100000"], help="images of the pool x queries")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="retrieval")
    options = parser.parse_args()
    faiss.omp_set_num_threads(_THREADS)
    content: dict[str, Any] = {"machine": machine(), "threads": _THREADS, "recall_wanted": options.recall, "runs": []}
    for size in options.sizes:
        num_pool, num_queries = (int(number) for number in size.split("x"))
        print(f"{num_pool:,} images, {num_queries:,} queries of {options.dim} dimensions", flush=True)
        content["runs"].append(compare(num_pool, num_queries, options.dim, options.recall, options.repeats))
        save(options.name, content)
    names = ("pool", "queries", "recall", "ours s", "Faiss s", "search", "+ build", "+ k-means")
    print("\n" + " ".join(f"{name:>10}" for name in names))
    for run in content["runs"]:
        theirs = min(peer["search_seconds"] for peer in run["faiss_ivf_flat"])
        found = (run["pool"], run["queries"], run["ours"]["recall"], run["ours"]["search_seconds"], theirs)
        ratios = (run["search_ratio"], run["with_build_ratio"], run["with_build_and_kmeans_ratio"])
        print(" ".join(f"{value:>10}" for value in (*found, *(f"{ratio:.2f}x" for ratio in ratios))))


if __name__ == "__main__":
    main()
