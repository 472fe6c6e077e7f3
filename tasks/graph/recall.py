"""What a join that looks at fewer than all pairs has missed: of a sample's true pairs, and of planted copies.

A sample of images chosen by id, and one planted copy of each (`plant_copies`), are compared with every image of the
pool by brute force: 2 * queries * rows products, in tasks by spans of rows; of each query the `neighbours` most similar
images count. Memory of a task: a span of vectors and queries * neighbours * 21 bytes.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.algorithms.components import Components
from tasks.algorithms.cross_join import cross_pairs, first_shared_cell
from tasks.algorithms.planted import plant_copies
from tasks.algorithms.sampling import id_keys, sample
from tasks.algorithms.self_join import Edges, Quantiser, assign_cells
from tasks.graph.rows import PoolFiles, Span, read_columns, read_vectors
from tasks.graph.scratch import Array, Files, load_array, save_array, scratch_map, whole
from tasks.stage import Outcome, Stage

PAIR = np.dtype([("query", "<i8"), ("row", "<i8"), ("similarity", "<f4"), ("found", "?")])
_SAMPLED = np.dtype([("key", "<u8"), ("row", "<i8")])
_OVERDRAW = 4
_BANDS = 4


class RecallTooLow(RuntimeError):
    """The join missed more true pairs of the sample, or more planted copies, than the config allows."""


class Samples(NamedTuple):
    """Of a pool: vectors to fit a quantiser or index on, and the images that recall is measured on, by id."""

    fit: Array
    rows: npt.NDArray[np.int64]
    vectors: Array


class Queries(NamedTuple):
    """Vectors [queries, dim] to find pairs of: the sampled images, then as many planted copies, one of each."""

    vectors: Array
    rows: npt.NDArray[np.int64]
    """Pool rows of the sampled images."""

    @property
    def originals(self) -> npt.NDArray[np.int64]:
        """The pool row that each query is, or is a copy of."""
        return np.concatenate([self.rows, self.rows])

    @property
    def num_sampled(self) -> int:
        """How many of them are images of the pool."""
        return len(self.rows)


def draw_samples(stage: Stage, pool: PoolFiles, *, num_fit: int, num_queries: int, seed: int, rows: int) -> Samples:
    """Images chosen by their ids: about `num_fit` to fit on, `num_queries` to measure on (all, if there are fewer)."""
    shares = [min(1.0, num_fit / pool.num_rows), min(1.0, _OVERDRAW * num_queries / pool.num_rows)]
    _, files = scratch_map(stage, "sample", sample_span, pool.spans(rows), shares=shares, seed=seed)
    drawn = np.concatenate([load_array(path) for path in files.paths(".rows.npy")])
    vectors = _stacked(files.paths(".vectors.npy"))
    chosen = sample(drawn["key"], num_queries)
    chosen = chosen[np.argsort(drawn["key"][chosen], kind="stable")]  # by id: whatever the order of the pool
    return Samples(_stacked(files.paths(".fit.npy")), np.ascontiguousarray(drawn["row"][chosen]), vectors[chosen])


def sample_span(span: Span, out: str, *, shares: Sequence[float], seed: int) -> Outcome:
    """The vectors of a share of one span's images, twice: to fit on, and to measure on with rows and keys."""
    ids = read_columns(span, ["id"])["id"].to_pylist()
    vectors = read_vectors(span)
    keys = [id_keys(ids, seed=2 * seed + number) for number in range(2)]
    fit, drawn = (
        np.flatnonzero(key < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))) if share < 1 else np.arange(len(ids))
        for key, share in zip(keys, shares, strict=True)
    )
    rows = np.empty(len(drawn), dtype=_SAMPLED)
    rows["key"], rows["row"] = keys[1][drawn], drawn + span.first
    entries = [
        save_array(f"{out}.{name}.npy", array)
        for name, array in (("fit", vectors[fit]), ("rows", rows), ("vectors", vectors[drawn]))
    ]
    return whole(len(ids), entries)


def _stacked(paths: Iterable[str]) -> Array:
    return np.concatenate([load_array(path) for path in paths])


def make_queries(samples: Samples, *, threshold: float, seed: int) -> Queries:
    """The sampled images and a planted copy of each, as float16."""
    copies = plant_copies(samples.vectors, threshold=threshold, seed=seed)
    return Queries(np.concatenate([samples.vectors, copies.astype(np.float16)]), samples.rows)


def query_cells(queries: Queries, quantiser: Quantiser, assignments: int) -> npt.NDArray[np.int32]:
    """The cells of every query, as if it was an image of the pool."""
    return assign_cells(queries.vectors, quantiser, assignments=assignments)


def true_pairs(
    stage: Stage,
    spans: Sequence[Span],
    queries: Queries,
    *,
    threshold: float,
    neighbours: int,
    cells: Files | None = None,
    cells_of_queries: npt.NDArray[np.int32] | None = None,
) -> Array:
    """Of every query the `neighbours` most similar images above the threshold, by brute force: records of PAIR.

    `found` says whether a join by cells finds the pair, where cells are given. An image is no copy of itself.
    """
    paths = [stage.path(f"scratch-queries{extension}.npy") for extension in ("", "-cells")]
    save_array(paths[0], queries.vectors)
    if cells_of_queries is not None:
        save_array(paths[1], cells_of_queries)
    parts = [(span, "" if cells is None else cells.path(number, ".npy")) for number, span in enumerate(spans)]
    plain: dict[str, Any] = {
        "queries": paths[0],
        "cells_of_queries": paths[1],
        "own_rows": queries.rows.tolist(),
        "threshold": threshold,
        "neighbours": neighbours,
    }
    _, files = scratch_map(stage, "truth", truth_span, parts, **plain)
    return best_of_each(np.concatenate([load_array(path) for path in files.paths(".npy")]), neighbours)


def truth_span(
    part: tuple[Span, str],
    out: str,
    *,
    queries: str,
    cells_of_queries: str,
    own_rows: Sequence[int],
    threshold: float,
    neighbours: int,
) -> Outcome:
    """The most similar images of one span for every query."""
    span, cells_path = part
    vectors, own = load_array(queries), np.array(own_rows, dtype=np.int64)
    cells = (np.asarray(load_array(cells_of_queries)), np.asarray(load_array(cells_path))) if cells_path else None
    best = np.empty(0, dtype=PAIR)
    for edges in cross_pairs(vectors, read_vectors(span), threshold=threshold):
        block = np.empty(len(edges.left), dtype=PAIR)
        block["query"], block["row"], block["similarity"] = edges.left, edges.right + span.first, edges.similarity
        block["found"] = cells is not None and first_shared_cell(cells[0][edges.left], cells[1][edges.right]) >= 0
        sampled = np.flatnonzero(block["query"] < len(own))
        itself = sampled[own[block["query"][sampled]] == block["row"][sampled]]
        best = best_of_each(np.concatenate([best, np.delete(block, itself)]), neighbours)
    return whole(span.last - span.first, [save_array(f"{out}.npy", best)])


def best_of_each(pairs: Array, num: int) -> Array:
    """The `num` most similar rows of every query; of equal ones the smaller row."""
    pairs = pairs[np.lexsort((pairs["row"], -pairs["similarity"], pairs["query"]))]
    starts = np.flatnonzero(np.r_[True, pairs["query"][1:] != pairs["query"][:-1]][: len(pairs)])
    rank = np.arange(len(pairs)) - np.repeat(starts, np.diff(np.r_[starts, len(pairs)]))
    return np.asarray(pairs[rank < num])


def mark_found(truth: Array, found: Array, queries: Queries) -> Array:
    """`truth` with `found` as the graph has it for sampled images; `found` holds edges (row, other) of theirs."""
    keys = {(int(row), int(other)) for row, other in zip(found["row"], found["other"], strict=True)}
    marked = truth.copy()
    for index in np.flatnonzero(truth["query"] < queries.num_sampled):
        pair = truth[index]
        marked["found"][index] = (int(queries.rows[pair["query"]]), int(pair["row"])) in keys
    return marked


def sample_recall(truth: Array, queries: Queries) -> tuple[int, int]:
    """(found, all) of the sampled images' true pairs."""
    sampled = truth[truth["query"] < queries.num_sampled]
    return int(sampled["found"].sum()), len(sampled)


def planted_facts(hit: npt.NDArray[np.bool_], threshold: float) -> dict[str, Any]:
    """The share of planted copies whose pair with the original is found, in all and by bands of similarity."""
    ends = np.linspace(0, len(hit), _BANDS + 1).astype(int)
    limits = threshold + (1 - threshold) * ends / len(hit)
    bands = {
        f"{low:.2f}-{high:.2f}": round(float(hit[first:last].mean()), 4)
        for low, high, first, last in zip(limits, limits[1:], ends, ends[1:], strict=False)
        if first < last
    }
    return {"planted": len(hit), "planted_recall": round(float(hit.mean()), 5), "planted_recall_by_similarity": bands}


def component_hits(
    truth: Array, direct: npt.NDArray[np.bool_], queries: Queries, edges: Iterable[Edges], num_rows: int
) -> npt.NDArray[np.bool_]:
    """Whether each planted copy ends in its original's component: by their pair, or by a found pair with a row of it.

    `edges` are the graph's. Memory: 4 bytes per row of the pool (8 above 2**31 rows).
    """
    forest = Components(num_rows)
    for block in edges:
        forest.add(block.left, block.right)
    labels = forest.labels()
    planted = truth[(truth["query"] >= queries.num_sampled) & truth["found"]]
    copies = planted["query"] - queries.num_sampled
    hit = direct.copy()
    hit[copies[labels[planted["row"]] == labels[queries.rows[copies]]]] = True
    return hit


def require(found: int, total: int, floor: float, what: str, advice: str) -> float:
    """The share found. Raises RecallTooLow below the floor; nothing to find is all found."""
    recall = found / total if total else 1.0
    if recall < floor:
        raise RecallTooLow(
            f"copy_graph finds {found} of {total} {what} ({recall:.3f}, at least {floor} wanted). {advice}"
        )
    return round(recall, 5)
