"""The ways to find a pool's pairs: each gives files of pairs, facts, and what its recall is judged by."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.manifest import FileEntry
from tasks import graph_cells, graph_faiss, graph_recall
from tasks.algorithms.cross_join import first_shared_cell
from tasks.algorithms.quantiser import CELL_ROWS, cells_wanted
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig
from tasks.graph_base import Base, Known
from tasks.graph_exact import exact_pairs
from tasks.graph_limit import Ranges
from tasks.graph_recall import Queries, Samples
from tasks.graph_rows import PoolFiles
from tasks.graph_scratch import Array, Files, save_array
from tasks.stage import Stage

_LEAST_ROWS = 64
_FIT_PER_CELL = 64
_MOST_FIT = 1 << 21
_SMALL_TASK_ROWS = 16_384
_TASKS = 64


class Exact(StageConfig):
    """All images are compared with all."""

    kind: Literal["exact"] = "exact"


class Cells(StageConfig):
    """Images are compared that share a cell of a coarse quantiser."""

    kind: Literal["cells"] = "cells"
    assignments: Annotated[int, Field(ge=1, le=64)] = 8
    """Cells that each image is put in: more cost, more disk and more recall."""
    cell_rows: Annotated[int, Field(ge=16, le=65_536)] | None = None
    """Images of a cell, on average; null takes 384, more in pools above some 4 million images, so that finding an
    image's cells costs no more than comparing inside of them."""

    def rows_of_a_cell(self, num_rows: int) -> int:
        """`cell_rows`, or where assigning and joining cost the same (see `join_cost`)."""
        even = (10 * (num_rows / self.assignments) ** 0.5) ** (2 / 3)
        return self.cell_rows or max(CELL_ROWS, round(even))


class Faiss(StageConfig):
    """Faiss finds candidates (IVF-PQ, on GPUs where it has them), whose true cosine decides."""

    kind: Literal["faiss"] = "faiss"
    probes: Annotated[int, Field(ge=1)] = 64
    """Lists searched for every image: more cost and more recall."""
    num_lists: Annotated[int, Field(ge=1)] | None = None
    """Lists of the index of a shard; null takes four times the square root of the shard's images."""
    code_bytes: Annotated[int, Field(ge=1, le=256)] = 64
    """Bytes of an image's code."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.15
    """How far a cosine estimated from a code may lie below the threshold for the pair to be looked at."""
    shard_rows: Annotated[int, Field(ge=64)] = 20_000_000
    """Images of one index: what a worker's (or GPU's) memory holds, at code_bytes + 8 bytes each."""


class Auto(StageConfig):
    """All with all up to a size, by cells above it."""

    kind: Literal["auto"] = "auto"
    exact_up_to: Annotated[int, Field(ge=0)] = 200_000
    """Images up to which all are compared with all."""
    cells: Cells = Cells()
    """How it is done above."""


Method = Auto | Exact | Cells | Faiss


class CopyGraph(StageConfig):
    """Which pairs of images the graph holds, and how they are found."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"group_bytes"})

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Pairs whose cosine is above this are in the graph: the lowest threshold that any later stage uses."""
    neighbours: Annotated[int, Field(ge=1, le=1024)] = 64
    """Edges that every image keeps, its most similar ones; of its further ones those stay that hold groups together."""
    method: Method = Auto()
    """How pairs are found."""
    recall_sample: Annotated[int, Field(ge=3)] = 1_000
    """Images whose pairs are found by brute force too, and of each of which a copy is planted, to measure recall."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """The stage fails when a smaller share of the sample's true pairs is found."""
    min_planted_recall: Annotated[float, Field(ge=0, le=1)] = 0.9
    """The stage fails when a smaller share of planted copies, from the threshold to 1, is found with its original."""
    min_component_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """The stage fails when a smaller share of planted copies ends in its original's component."""
    seed: int = 0
    """Seed of the samples, the quantiser and the planted copies."""
    rows_per_file: Annotated[int, Field(ge=1)] = 1 << 21
    """Images whose edges share a file."""
    group_bytes: Annotated[int, Field(ge=1024)] = 1_000_000_000
    """Vectors that a task holds in memory at a time, in bytes."""


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


def resolve(method: Method, num_rows: int) -> Exact | Cells | Faiss:
    """The method for so many images: few are always compared with all."""
    if num_rows < _LEAST_ROWS or (isinstance(method, Auto) and num_rows <= method.exact_up_to):
        return Exact()
    return method.cells if isinstance(method, Auto) else method


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
