"""The ways to find a pool's pairs: each gives files of pairs, facts, and what its recall is judged by."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.manifest import FileEntry
from tasks.algorithms.cross_join import first_shared_cell
from tasks.algorithms.quantiser import cells_wanted
from tasks.algorithms.self_join import Edges
from tasks.graph import by_faiss as graph_faiss
from tasks.graph import cells as graph_cells
from tasks.graph import recall as graph_recall
from tasks.graph.base import Base, Known
from tasks.graph.config import Cells, CopyGraph, Exact, Faiss
from tasks.graph.exact import exact_pairs
from tasks.graph.limit import Ranges
from tasks.graph.recall import Queries, Samples
from tasks.graph.rows import PoolFiles
from tasks.graph.scratch import Array, Files, save_array
from tasks.stage import Stage

_FIT_PER_CELL = 64
_MOST_FIT = 1 << 21
_SMALL_TASK_ROWS = 16_384
_TASKS = 64


class Run(NamedTuple):
    """What every method needs."""

    stage: Stage
    pool: PoolFiles
    config: CopyGraph
    ranges: Ranges
    base: Base | None
    known: Known | None

    @property
    def span_rows(self) -> int:
        """Rows of a span: at most what fills `group_bytes`, fewer in small pools so that there are tasks to share."""
        return tasks_rows(self.pool.num_rows, self.config.group_bytes // (2 * self.pool.dim))

    @property
    def new_rows(self) -> npt.NDArray[np.int64] | None:
        """Rows to be compared, if not all are."""
        return None if self.known is None or self.known.unused else self.known.new_rows

    def samples(self, num_fit: int) -> Samples:
        """Images by id, to fit and to measure on."""
        config = self.config
        return graph_recall.draw_samples(
            self.stage,
            self.pool,
            num_fit=num_fit,
            num_queries=config.recall_sample,
            seed=config.seed,
            rows=self.span_rows,
        )

    def truth(self, queries: Queries, **cells: Any) -> Array:
        """The true pairs of the queries."""
        spans = self.pool.spans(self.span_rows)
        threshold, neighbours = self.config.threshold, self.config.neighbours
        return graph_recall.true_pairs(self.stage, spans, queries, threshold=threshold, neighbours=neighbours, **cells)


def tasks_rows(num_rows: int, most: int) -> int:
    """Rows of a task: at most `most`, and so few that there are 64 tasks unless they would be small."""
    return max(1, min(most, max(_SMALL_TASK_ROWS, -(-num_rows // _TASKS))))


class Check(NamedTuple):
    """What the finished graph is judged by: true pairs of sampled and planted images, and which planted copies are
    found with their original."""

    queries: Queries
    truth: Array
    direct: npt.NDArray[np.bool_]
    advice: str


class Found(NamedTuple):
    """Files of pairs, files to be published, facts, and the check (None for the exact method)."""

    pairs: list[Files]
    files: list[FileEntry]
    facts: dict[str, Any]
    check: Check | None = None


def find_pairs(run: Run, method: Exact | Cells | Faiss) -> Found:
    """The pairs above the threshold, those that an earlier graph spares left out. Raises RecallTooLow."""
    if isinstance(method, Cells):
        return by_cells(run, method)
    return by_faiss(run, method) if isinstance(method, Faiss) else by_exact(run)


def by_exact(run: Run) -> Found:
    """All with all."""
    config = run.config
    pairs = exact_pairs(
        run.stage,
        run.pool,
        ranges=run.ranges,
        threshold=config.threshold,
        neighbours=config.neighbours,
        group_bytes=config.group_bytes,
        new_rows=run.new_rows,
    )
    return Found([pairs], [], {"method": "exact", "recall": 1.0})


def by_cells(run: Run, method: Cells) -> Found:
    """By cells; recall is known, and judged, before the first pair is computed."""
    config, stage, pool, assignments = run.config, run.stage, run.pool, method.assignments
    cell_rows = method.rows_of_a_cell(pool.num_rows)
    wanted = cells_wanted(pool.num_rows, assignments=assignments, cell_rows=cell_rows)
    samples = run.samples(min(_MOST_FIT, _FIT_PER_CELL * wanted))
    quantiser = _quantiser(run, samples, method)
    queries = graph_recall.make_queries(samples, threshold=config.threshold, seed=config.seed)
    levels = graph_cells.load_quantiser(stage.path(graph_cells.QUANTISER))
    cells_of_queries = graph_recall.query_cells(queries, levels, assignments)
    num = queries.num_sampled
    direct = first_shared_cell(cells_of_queries[:num], cells_of_queries[num:]) >= 0
    advice = f"Raise copy_graph.method.assignments (now {assignments})."
    planted = _planted(run, direct, advice)
    spans, cells = graph_cells.assign(stage, pool, assignments=assignments, rows=run.span_rows, new=_new_rows_file(run))
    truth = run.truth(queries, cells=cells, cells_of_queries=cells_of_queries)
    judge_sample(truth, queries, config, advice)
    dtype = graph_cells.record_type(pool.dim, assignments)
    sizes = graph_cells.cell_sizes(cells)
    group_rows = tasks_rows(int(sizes[0].sum()), max(2, config.group_bytes // dtype.itemsize))
    groups, group_of = graph_cells.plan_groups(sizes, group_rows)
    copies, moved = graph_cells.exchange(stage, spans, cells, group_of)
    pairs = graph_cells.join_groups(
        stage,
        groups,
        moved,
        ranges=run.ranges,
        threshold=config.threshold,
        neighbours=config.neighbours,
        shape=(pool.dim, assignments, max(1, group_rows // 2)),
    )
    facts = {"method": "cells", "num_cells": len(levels.centroids), "groups": len(groups), "copies": copies} | planted
    return Found([pairs], [quantiser], facts, Check(queries, truth, direct, advice))


def _quantiser(run: Run, samples: Samples, method: Cells) -> FileEntry:
    """The earlier graph's where there is one: its cells are what its pairs were found by."""
    if run.base is not None and any(entry.path == graph_cells.QUANTISER for entry in run.base.graph.files):
        return run.stage.adopt(run.base.graph, graph_cells.QUANTISER)
    return graph_cells.fit(
        run.stage,
        samples.fit,
        num_rows=run.pool.num_rows,
        assignments=method.assignments,
        cell_rows=method.rows_of_a_cell(run.pool.num_rows),
        seed=run.config.seed,
    )


def _new_rows_file(run: Run) -> str:
    if run.new_rows is None:
        return ""
    path = run.stage.path("scratch-new.npy")
    save_array(path, run.new_rows)
    return path


def by_faiss(run: Run, method: Faiss) -> Found:
    """By Faiss."""
    config, stage, pool = run.config, run.stage, run.pool
    shard_rows = min(method.shard_rows, pool.num_rows)
    num_lists = method.num_lists or max(1, round(4 * shard_rows**0.5))
    samples = run.samples(min(_MOST_FIT, _FIT_PER_CELL * num_lists))
    queries = graph_recall.make_queries(samples, threshold=config.threshold, seed=config.seed)
    num = queries.num_sampled
    how = graph_faiss.Search(config.threshold, method.probes, method.margin, config.neighbours)
    shards, indexes = graph_faiss.build_shards(
        stage, pool, samples.fit, shard_rows=shard_rows, num_lists=num_lists, code_bytes=method.code_bytes
    )
    planted = graph_faiss.search_queries(stage, queries.vectors[num:], shards, indexes, how)
    direct = np.zeros(num, dtype=np.bool_)
    direct[planted["query"][queries.rows[planted["query"]] == planted["row"]]] = True
    advice = f"Raise copy_graph.method.probes (now {method.probes}), code_bytes or margin."
    facts = _planted(run, direct, advice)
    pairs, counts = graph_faiss.search_shards(stage, pool.spans(run.span_rows), shards, indexes, how, run.ranges)
    truth = run.truth(queries)
    planted["query"] += num
    truth = np.concatenate([truth[truth["query"] < num], planted])
    facts |= {"method": "faiss", "num_lists": num_lists, "shards": len(shards)} | counts
    return Found([pairs], [], facts, Check(queries, truth, direct, advice))


def _planted(run: Run, direct: npt.NDArray[np.bool_], advice: str) -> dict[str, Any]:
    graph_recall.require(
        int(direct.sum()), len(direct), run.config.min_planted_recall, "planted copies with their original", advice
    )
    return graph_recall.planted_facts(direct, run.config.threshold)


def judge_sample(truth: Array, queries: Queries, config: CopyGraph, advice: str) -> dict[str, Any]:
    """Recall of the sampled images' true pairs. Raises RecallTooLow."""
    found, total = graph_recall.sample_recall(truth, queries)
    what = f"true pairs of {queries.num_sampled} sampled images"
    return {"recall": graph_recall.require(found, total, config.min_recall, what, advice), "recall_pairs": total}


def judge_graph(check: Check, found: Array, edges: Iterable[Edges], run: Run) -> dict[str, Any]:
    """The finished graph against the check: pairs of sampled images that are in it, planted copies' components."""
    truth = graph_recall.mark_found(check.truth, found, check.queries)
    facts = judge_sample(truth, check.queries, run.config, check.advice)
    hits = graph_recall.component_hits(truth, check.direct, check.queries, edges, run.pool.num_rows)
    floor = run.config.min_component_recall
    what = "planted copies in their original's component"
    recall = graph_recall.require(int(hits.sum()), len(hits), floor, what, check.advice)
    return facts | {"planted_component_recall": recall}
