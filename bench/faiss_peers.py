"""Faiss's ways to the k-nearest-neighbour graph of `bench.self_join`, each tuned to the same recall."""

import io
import time
from contextlib import redirect_stdout
from typing import Any, NamedTuple, Protocol

import faiss
import numpy as np
import numpy.typing as npt
import torch
from faiss.contrib.big_batch_search import big_batch_search

NEIGHBOURS = 64
RECALL = 0.99
_QUERIES = 2000
_BATCH = 50_000
_MOST_QUERIES = 3000
Floats = npt.NDArray[np.float32]


class Truth(Protocol):
    """Pairs of sampled rows; see `bench.self_join.Truth`."""

    @property
    def rows(self) -> npt.NDArray[np.int64]: ...
    @property
    def neighbours(self) -> npt.NDArray[np.int64]: ...
    @property
    def nearest(self) -> npt.NDArray[np.bool_]: ...


class Known(NamedTuple):
    """What recall is measured on: the rows to search for, and the true pairs as places among them and as rows."""

    queries: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]


def known(truth: Truth) -> Known:
    """Both ends of the sampled pairs, so that a pair found from either end counts; at most 3000 rows to search for."""
    rows, neighbours = truth.rows[truth.nearest], truth.neighbours[truth.nearest]
    random = np.random.default_rng(2)
    while len(queries := np.union1d(rows, neighbours)) > _MOST_QUERIES:  # some of the pairs, all alike
        keep = np.sort(random.choice(len(rows), int(len(rows) * 0.8), replace=False))
        rows, neighbours = rows[keep], neighbours[keep]
    return Known(queries, rows, neighbours)


def recall(found: npt.NDArray[np.int64], pairs: Known) -> float:
    """Of the true pairs, the share that either end has among its neighbours [queries, k]."""
    left, right = np.searchsorted(pairs.queries, pairs.rows), np.searchsorted(pairs.queries, pairs.neighbours)
    forth = (found[left] == pairs.neighbours[:, None]).any(axis=1)
    back = (found[right] == pairs.rows[:, None]).any(axis=1)
    return float((forth | back).mean())


def measure(vectors: npt.NDArray[np.float16], truth: Truth, *, hnsw_seconds: float) -> dict[str, Any]:
    """Seconds for the whole graph by brute force, IVF-Flat and HNSW, at a recall of 0.99 where they reach it."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    floats = vectors.astype(np.float32)
    faiss.normalize_L2(floats)
    pairs = known(truth)
    # Queries that are timed are drawn evenly from all rows; those of the recall stem from copies and would not be.
    queries = floats[np.random.default_rng(3).choice(len(floats), min(_QUERIES, len(floats)), replace=False)]
    peers = {"brute_force": brute_force(floats, queries)}
    print(f"  brute force {peers['brute_force']}", flush=True)
    root = len(floats) ** 0.5
    for lists in (round(root), round(2 * root), round(4 * root)):
        by_query, in_batches = ivf_flat(floats, queries, pairs, lists=lists)
        peers |= {f"ivf_flat_{lists}": by_query, f"ivf_flat_{lists}_big_batch": in_batches}
        print(f"  ivf {lists} {by_query}\n  ivf {lists} big_batch_search {in_batches}", flush=True)
    if hnsw_seconds > 0:
        peers["hnsw"] = hnsw(floats, queries, pairs, seconds=hnsw_seconds)
        print(f"  hnsw {peers['hnsw']}", flush=True)
    return peers


def brute_force(floats: Floats, queries: Floats) -> dict[str, Any]:
    """`faiss.knn`, all with all."""
    queries = queries[:1024]
    seconds = _timed(lambda: faiss.knn(queries, floats, NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT))
    scaled = seconds * len(floats) / len(queries)
    return {"seconds": round(scaled, 1), "recall": 1.0, "timed_queries": len(queries)}


def ivf_flat(floats: Floats, queries: Floats, pairs: Known, *, lists: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trained as cheaply as does no harm (64 rows per list, 10 iterations), with the fewest probes that suffice.

    Searched query by query, and list by list with all the queries of a list at once (`faiss.contrib.big_batch_search`).
    """
    quantizer = faiss.IndexFlatIP(floats.shape[1])
    index = faiss.IndexIVFFlat(quantizer, floats.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.max_points_per_centroid = True, 10, 64
    train = _timed(lambda: index.train(floats))
    add = _timed(lambda: index.add(floats))
    reached, probes = 0.0, 0
    for probes in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64):
        index.nprobe = probes
        reached = recall(index.search(floats[pairs.queries], NEIGHBOURS + 1)[1], pairs)
        if reached >= RECALL:
            break
    shared = {"recall": round(reached, 5), "train_seconds": round(train, 1), "add_seconds": round(add, 1)}
    shared |= {"lists": lists, "probes": probes}
    search = _timed(lambda: index.search(queries, NEIGHBOURS + 1)) * len(floats) / len(queries)
    batches = _big_batches(index, floats)
    by_query = {"search_seconds": round(search, 1), "timed_queries": len(queries)}
    in_batches = {"search_seconds": round(batches, 1), "timed_queries": min(_BATCH, len(floats))}
    return (
        {"seconds": round(train + add + search, 1)} | shared | by_query,
        {"seconds": round(train + add + batches, 1)} | shared | in_batches,
    )


def _big_batches(index: Any, floats: Floats) -> float:
    """Seconds for all rows as queries. What every call pays (reading all lists) is told apart from what grows with the
    queries by timing a batch and half a batch."""
    whole, half = min(_BATCH, len(floats)), min(_BATCH, len(floats)) // 2
    with redirect_stdout(io.StringIO()):  # it reports every list
        first = _timed(lambda: big_batch_search(index, floats[:half], NEIGHBOURS + 1))
        second = _timed(lambda: big_batch_search(index, floats[:whole], NEIGHBOURS + 1))
    return second + max(second - first, 0.0) / (whole - half) * (len(floats) - whole)


def hnsw(floats: Floats, queries: Floats, pairs: Known, *, seconds: float) -> dict[str, Any]:
    """M = 32, efConstruction = 40 (Faiss's default), the smallest efSearch that suffices.

    Where building does not end in time, its seconds are scaled linearly (it grows as N log N) and nothing is searched:
    then recall is not known, and building alone is the figure.
    """
    index = faiss.IndexHNSWFlat(floats.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    started, step = time.perf_counter(), 20_000
    while index.ntotal < len(floats) and time.perf_counter() - started < seconds:
        index.add(floats[index.ntotal : index.ntotal + step])
    build = (time.perf_counter() - started) * len(floats) / index.ntotal
    settings = {"m": 32, "ef_construction": index.hnsw.efConstruction, "timed_queries": len(queries)}
    if index.ntotal < len(floats):
        note = f"building alone, scaled from the first {index.ntotal} rows; not searched"
        return {"seconds": round(build, 1), "recall": 0.0, "note": note} | settings
    reached = 0.0
    for depth in (64, 96, 128, 192, 256, 512):
        index.hnsw.efSearch = depth
        reached = recall(index.search(floats[pairs.queries], NEIGHBOURS + 1)[1], pairs)
        if reached >= RECALL:
            break
    search = _timed(lambda: index.search(queries, NEIGHBOURS + 1)) * len(floats) / len(queries)
    parts = {"build_seconds": round(build, 1), "search_seconds": round(search, 1), "ef_search": index.hnsw.efSearch}
    return {"seconds": round(build + search, 1), "recall": round(reached, 5)} | parts | settings


def _timed(function: Any) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
