"""Spherical k-means beside `faiss.Kmeans(spherical=True)`: the same rows, clusters, iterations and threads, in one run.

    python -m bench.kmeans [--sizes 1000000x256x4096 ...] [--iterations 20] [--repeats 3] [--name kmeans]

    python -m bench.kmeans --at-scale [--scale-size 400000x64x100000] [--scale-iterations 2]

The second form is ours alone, at the paper's number of clusters, in a process of its own: seconds of seeding and of
each iteration, the time per image and iteration, peak memory; it writes bench/results/kmeans_100k.json.

`faiss.SuperKmeans` (ADSampling and PDX pruning, approximate) runs along once, for whoever would take that instead.
The objective of all is measured afterwards in the same way: the mean cosine of all rows to their nearest final
centroid, exact. Faiss is given float32 in memory and does not subsample; ours reads float16. Seeding is part of all.

Predicted before it was written (two threads here: int8 products 1,800 GOP/s, bfloat16 900, float32 by MKL 150-180, by
OpenBLAS perhaps 300): an iteration of 1M x 256 x 4096 is 2.1 TOP, so 1.2 s in int8 against about 7 s; the scan for
candidates (0.3 us a row and thread), rounding, exact products of the 2 or 3 candidates and sums add 0.7 s; seeding by
k-means|| on 64 rows per cluster is worth one iteration. Expected: 3x to 3.5x. Pruning by bounds could save at most the
1.2 s, and needs state for every row (8 bytes and more, on disk at a billion): left out for that.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import torch

from bench.measure import machine, peak_megabytes, save
from tasks.algorithms.blocks import Floats, InMemory
from tasks.algorithms.kmeans import Here, KMeans, assign, fit, fit_kmeans
from tasks.algorithms.kmeans_kernels import add_columns, decide, in_slices, no_candidates, scan
from tasks.algorithms.kmeans_nearest import Centroids

_BLOCK = 65_536


def embeddings(num_rows: int, dim: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """Unit vectors as a crawl's embeddings are: topics of concepts of Zipf sizes, a falling spectrum, 5 % noise."""
    random = np.random.default_rng([seed, num_rows, dim])
    spectrum = np.arange(1, dim + 1) ** -0.4
    basis = np.linalg.qr(random.normal(size=(dim, dim)))[0].astype(np.float32)
    num_topics, num_concepts = max(8, num_rows // 4000), max(32, num_rows // 60)
    topics = random.normal(size=(num_topics, dim)) * spectrum
    concepts = (
        topics[random.integers(0, num_topics, num_concepts)] + 0.8 * random.normal(size=(num_concepts, dim)) * spectrum
    )
    shares = np.cumsum(1.0 / np.arange(1, num_concepts + 1) ** 0.8)
    vectors = np.empty((num_rows, dim), dtype=np.float16)
    for start in range(0, num_rows, _BLOCK):
        rows = min(_BLOCK, num_rows - start)
        concept = np.searchsorted(shares, random.random(rows) * shares[-1])
        own = random.standard_normal((rows, dim)) * spectrum
        near = (random.random(rows) > 0.05)[:, None] * concepts[concept]
        block = ((near + 0.7 * own) @ basis).astype(np.float32)
        vectors[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def mean_cosine(vectors: npt.NDArray[np.float16], centroids: Floats) -> float:
    """Of all rows to the nearest centroid, exact."""
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    total = sum(float(cosine.sum(dtype=np.float64)) for _, _, cosine in assign(InMemory(vectors), unit))
    return total / len(vectors)


class Run(NamedTuple):
    """One run: seconds by the clock, seconds of all threads' work (which other work on the machine lengthens less)."""

    seconds: float
    cpu_seconds: float
    objective: float


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """(seconds, seconds of work, what it returned)."""
    started, worked = time.perf_counter(), time.process_time()
    found = function()
    return time.perf_counter() - started, time.process_time() - worked, found


def compare(
    num_rows: int, dim: int, clusters: int, *, iterations: int, repeats: int, threads: int
) -> Iterator[dict[str, Any]]:
    """Both, alternating, `repeats` times; the medians so far after each time."""
    vectors = embeddings(num_rows, dim)
    exact = vectors.astype(np.float32)

    def ours(seed: int) -> Floats:
        found = fit_kmeans(InMemory(vectors), num_clusters=clusters, seed=seed, iterations=iterations, tolerance=-1.0)
        return found.centroids

    def peer(kind: type, seed: int) -> Floats:
        more = {"nredo": 1} if kind is faiss.Kmeans else {}
        kmeans = kind(
            dim, clusters, niter=iterations, spherical=True, seed=1 + seed, max_points_per_centroid=10**9, **more
        )
        kmeans.train(exact)
        return np.asarray(kmeans.centroids)

    programs: dict[str, Callable[[int], Floats]] = {"ours": ours, "faiss": partial(peer, faiss.Kmeans)}
    if (pruning := getattr(faiss, "SuperKmeans", None)) is not None:  # Faiss 1.15
        programs["faiss_super"] = partial(peer, pruning)
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    fit_kmeans(InMemory(vectors[:5000]), num_clusters=64, seed=0, iterations=2)  # compiles
    row = {"rows": num_rows, "dim": dim, "clusters": clusters, "iterations": iterations, "threads": threads}
    # Super-k-means comes last and once: no target hangs on it.
    order = [(name, repeat) for repeat in range(repeats) for name in ("ours", "faiss")]
    for name, repeat in order + [(name, 0) for name in programs if name == "faiss_super"]:
        seconds, worked, centroids = timed(partial(programs[name], repeat))
        runs[name].append(Run(seconds, worked, mean_cosine(vectors, centroids)))
        print(f"{num_rows}x{dim}, k={clusters}: {name} {runs[name][-1]}", flush=True)
        if runs["faiss"]:
            yield row | medians(runs)
    yield row | medians(runs) | {"profile_us_per_row": profile(vectors, clusters)}


def medians(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Of each program's runs, and their ratios."""
    row: dict[str, Any] = {}
    runs = {name: done for name, done in runs.items() if done}
    for name, done in runs.items():
        for field, values in zip(Run._fields, zip(*done, strict=True), strict=True):
            row[f"{name}_{field}"] = round(float(np.median(values)), 6 if field == "objective" else 2)
        row[f"{name}_all_seconds"] = [round(run.seconds, 2) for run in done]
    for name in set(runs) - {"ours"}:
        suffix = name.removeprefix("faiss")
        row[f"times_faster{suffix}"] = round(row[f"{name}_seconds"] / row["ours_seconds"], 2)
        row[f"times_less_work{suffix}"] = round(row[f"{name}_cpu_seconds"] / row["ours_cpu_seconds"], 2)
    row["objective_ratio"] = round(row["ours_objective"] / row["faiss_objective"], 5)
    return row


def at_scale(path: str, clusters: int, iterations: int) -> dict[str, Any]:
    """Ours on the vectors [rows, dim] in a file: what seeding and each iteration took."""
    vectors = np.load(path)
    fit_kmeans(InMemory(vectors[:5000]), num_clusters=64, seed=0, iterations=2)  # compiles
    marks, worked = [time.perf_counter()], [time.process_time()]

    def mark(state: KMeans) -> None:
        marks.append(time.perf_counter())
        worked.append(time.process_time())

    passes = Here(InMemory(vectors), seed=0)
    found = fit(passes, num_clusters=clusters, seed=0, iterations=iterations, tolerance=-1.0, on_iteration=mark)
    seconds, work = np.diff(marks), np.diff(worked)
    return {
        "seeding_seconds": round(float(seconds[0]), 2),
        "seeding_cpu_seconds": round(float(work[0]), 2),
        "iteration_seconds": [round(float(value), 2) for value in seconds[1:]],
        "iteration_cpu_seconds": [round(float(value), 2) for value in work[1:]],
        "microseconds_per_image_and_iteration": round(float(np.median(seconds[1:])) / len(vectors) * 1e6, 2),
        "cpu_microseconds_per_image_and_iteration": round(float(np.median(work[1:])) / len(vectors) * 1e6, 2),
        "objective": [round(value, 6) for value in found.objective],
        "empty": list(found.num_empty),
        "distinct_centroids": len(np.unique(found.centroids, axis=0)),
    }


def measured_at_scale(num_rows: int, dim: int, clusters: int, iterations: int) -> dict[str, Any]:
    """`at_scale` in a process of its own, with its peak memory; beside it what a k x k matrix would have taken."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "vectors.npy")
        vectors = embeddings(num_rows, dim)
        np.save(path, vectors)
        found, megabytes = peak_megabytes(at_scale, path, clusters, iterations)
    return {
        "rows": num_rows,
        "dim": dim,
        "clusters": clusters,
        "threads": torch.get_num_threads(),
        **found,
        "peak_mb": round(megabytes),
        "vectors_mb": round(vectors.nbytes / 2**20),
        "centroids_mb": round(4 * clusters * dim / 2**20),
        "clusters_squared_mb": round(4 * clusters**2 / 2**20),
    }


def profile(vectors: npt.NDArray[np.float16], clusters: int, rows: int = 1024) -> dict[str, float]:
    """Where an iteration's time goes: microseconds per row and 4096 clusters, one thread, the best of 10 on a tile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    centroids = fit_kmeans(InMemory(vectors[: 4 * clusters]), num_clusters=clusters, seed=0, iterations=1).centroids
    near, block = Centroids(centroids), vectors[:rows].astype(np.float32)
    low, slack = near._lower(block)
    width = min(4096, clusters)
    tile = near._products(low, slice(0, width))
    kind = np.int32 if near.precision == "int8" else np.float32
    labels, sums = np.zeros(rows, dtype=np.int32), np.zeros(centroids.shape, dtype=np.int64)

    def scanned() -> Any:
        found = no_candidates(rows, kind)
        in_slices(scan, rows, tile, slack, 0, *found)
        return found

    found = scanned()
    steps: dict[str, Callable[[], object]] = {
        "to_float32": lambda: vectors[:rows].astype(np.float32),
        "round": lambda: near._lower(block),
        "products": lambda: near._products(low, slice(0, width)),
        "scan": scanned,
        "decide": lambda: in_slices(decide, rows, block, near.exact, slack, *found, labels),
        "sums": lambda: in_slices(add_columns, block.shape[1], block, labels, sums),
    }
    result = {}
    for name, step in steps.items():
        step()
        result[name] = round(min(timed(step)[0] for _ in range(10)) / rows * 1e6, 3)
    torch.set_num_threads(threads)
    return result | {"candidates": round(float(found.counts.mean()), 2)}


def main() -> None:
    """Run and write bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1000000x256x4096"], help="rows x dim x clusters")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="kmeans")
    parser.add_argument("--at-scale", action="store_true", help="ours alone at 100,000 clusters: kmeans_100k.json")
    parser.add_argument("--scale-size", default="400000x64x100000", help="rows x dim x clusters of --at-scale")
    parser.add_argument("--scale-iterations", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    if options.at_scale:
        large = [int(number) for number in options.scale_size.split("x")]
        found = measured_at_scale(large[0], large[1], large[2], options.scale_iterations)
        save("kmeans_100k" if options.name == "kmeans" else options.name, {"machine": machine(), **found})
        return
    rows: list[dict[str, Any]] = []
    content = {"machine": machine(), "peer": "faiss.Kmeans(spherical=True), every row used, nredo=1", "rows": rows}
    for size in options.sizes:
        numbers = [int(number) for number in size.split("x")]
        rows.append({})
        how = {"iterations": options.iterations, "repeats": options.repeats, "threads": options.threads}
        for row in compare(*numbers, **how):
            rows[-1] = row
            save(options.name, content)
        print(
            f"{size}: {row['ours_seconds']} s, faiss {row['faiss_seconds']} s, {row['times_faster']}x, "
            f"objective {row['objective_ratio']} of faiss's"
        )


if __name__ == "__main__":
    main()
