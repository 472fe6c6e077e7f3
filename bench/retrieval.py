"""Retrieval's search by cells beside Faiss IVF-Flat: the same pool, queries, cells, recall and threads, in one run.

    python -m bench.retrieval [--sizes 1000000x100000 ...] [--dim 384] [--recall 0.98] [--rounds 3] [--name retrieval]

N = 4 neighbours by cosine. Both sides look into the same cells (spherical k-means by Faiss, 64 images per list), of two
numbers: the square root of the pool, as the `cluster` stage makes by default, and four times that. Each gets as few
probes as reach the recall, measured on 1,000 queries by brute force. The searches are timed in turn, round by round, so
that what else runs on the machine slows all of them; wall and CPU seconds are medians. The ratio asked for is that of
each side's better number of cells. Building: ours sorts the pool by cell, Faiss assigns and adds; k-means, which ours
needs not for the search alone, is in the last ratio on both sides. Faiss holds float32, ours float16; ours returns
exact products in the order that `retrieve` documents.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from bench.kmeans import embeddings
from bench.measure import machine, save
from tasks.algorithms.blocks import Floats, Rows
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


def sorted_by_cell(pool: Halves, index: faiss.IndexIVFFlat) -> Cells:
    """The cells of an index, as retrieval has them on disk after `sort_by_cell`."""
    lists: Any = index.invlists
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    rows = np.concatenate([faiss.rev_swig_ptr(lists.get_ids(n), sizes[n]) for n in range(index.nlist)])
    centroids = index.quantizer.reconstruct_n(0, index.nlist).astype(np.float16)
    return Cells(centroids, pool[rows], np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), rows)


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


class Searcher(NamedTuple):
    """One side with its cells and probes: what to time, and what it took to build."""

    name: str
    cells: int
    probes: int
    recall: float
    kmeans_seconds: float
    build_seconds: float
    run: Callable[[], Any]


def searchers(
    pool: Halves, pool32: Floats, queries: Halves, truth: Neighbours, wanted: float, *, cells: int
) -> list[Searcher]:
    """Both sides with so many cells, at the recall."""
    dim, queries32 = pool.shape[1], queries.astype(np.float32)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.cp.max_points_per_centroid = 64
    training, _ = timed(lambda: index.train(pool32))
    adding, _ = timed(lambda: index.add(pool32))
    sorting, held = timed(lambda: sorted_by_cell(pool, index))

    def theirs(some: Floats, probes: int) -> Neighbours:
        index.nprobe = probes
        return as_neighbours(index.search(some, NUM)[1])

    def recall_by(find: Callable[[Any, int], Neighbours], some: Any) -> Callable[[int], float]:
        def recall_at(probes: int) -> float:
            same, there = recall_of(find(some[:_SAMPLE], probes), truth)
            return same / there

        return recall_at

    mine, our_recall = fewest_probes(recall_by(lambda some, n: search(held, some, n), queries), wanted, cells // 8)
    other, their_recall = fewest_probes(recall_by(theirs, queries32), wanted, cells // 8)
    return [
        Searcher("ours", cells, mine, our_recall, training, sorting, lambda: search(held, queries, mine)),
        Searcher("faiss", cells, other, their_recall, training, adding, lambda: theirs(queries32, other)),
    ]


def in_turn(sides: list[Searcher], rounds: int) -> list[dict[str, Any]]:
    """Median wall and CPU seconds of every side, timed round by round."""
    wall: list[list[float]] = [[] for _ in sides]
    cpu: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for number, side in enumerate(sides):
            before = time.process_time()
            seconds, _ = timed(side.run)
            wall[number].append(seconds)
            cpu[number].append(time.process_time() - before)
            print(f"  {side.name} {side.cells} cells, {side.probes} probes: {seconds:.2f} s", flush=True)
    return [
        {
            "side": side.name,
            "cells": side.cells,
            "probes": side.probes,
            "recall": round(side.recall, 5),
            "kmeans_seconds": round(side.kmeans_seconds, 2),
            "build_seconds": round(side.build_seconds, 2),
            "search_seconds": round(statistics.median(wall[number]), 2),
            "search_cpu_seconds": round(statistics.median(cpu[number]), 2),
        }
        for number, side in enumerate(sides)
    ]


def compare(num_pool: int, num_queries: int, dim: int, wanted: float, rounds: int) -> dict[str, Any]:
    """Both sides at one size."""
    drawn = embeddings(num_pool + num_queries, dim)
    pool, queries = drawn[:num_pool], drawn[num_pool:]
    truth, pool32 = nearest(pool, queries[:_SAMPLE], num=NUM), pool.astype(np.float32)
    sides = []
    for cells in (round(num_pool**0.5), 4 * round(num_pool**0.5)):
        sides += searchers(pool, pool32, queries, truth, wanted, cells=cells)
    found = in_turn(sides, rounds)
    best = {name: min((s for s in found if s["side"] == name), key=_wall) for name in ("ours", "faiss")}
    sums = {name: side["build_seconds"] + side["search_seconds"] for name, side in best.items()}
    all_in = {name: sums[name] + side["kmeans_seconds"] for name, side in best.items()}
    cpu = {name: side["search_cpu_seconds"] for name, side in best.items()}
    ratios = {
        "search": _wall(best["faiss"]) / _wall(best["ours"]),
        "search_cpu": cpu["faiss"] / cpu["ours"],
        "with_build": sums["faiss"] / sums["ours"],
        "with_build_and_kmeans": all_in["faiss"] / all_in["ours"],
    }
    rounded = {name: round(ratio, 2) for name, ratio in ratios.items()}
    return {"pool": num_pool, "queries": num_queries, "dim": dim, "num": NUM, "sides": found, "ratios": rounded}


def _wall(side: dict[str, Any]) -> float:
    return float(side["search_seconds"])


def main() -> None:
    """Every size in turn; a table and bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1000000x100000"], help="images of the pool x queries")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="retrieval")
    options = parser.parse_args()
    faiss.omp_set_num_threads(_THREADS)
    content: dict[str, Any] = {"machine": machine(), "threads": _THREADS, "recall_wanted": options.recall, "runs": []}
    for size in options.sizes:
        num_pool, num_queries = (int(number) for number in size.split("x"))
        print(f"{num_pool:,} images, {num_queries:,} queries of {options.dim} dimensions", flush=True)
        content["runs"].append(compare(num_pool, num_queries, options.dim, options.recall, options.rounds))
        save(options.name, content)
    names = ("pool", "side", "cells", "probes", "recall", "search_seconds", "search_cpu_seconds")
    print("\n" + " ".join(f"{name:>18}" for name in names))
    for run in content["runs"]:
        for side in run["sides"]:
            print(" ".join(f"{value:>18}" for value in (run["pool"], *(side[name] for name in names[1:]))))
        print("  Faiss / ours: " + ", ".join(f"{name} {ratio}x" for name, ratio in run["ratios"].items()))


if __name__ == "__main__":
    main()
