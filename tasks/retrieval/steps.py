"""The steps of a retrieval up to the neighbours of all queries: what is mapped over the cluster, in which order."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.manifest import FileEntry, Manifest
from storage.vectors import Vectors, read_array, write_array
from tasks.algorithms.cell_order import group_cells
from tasks.cluster import CENTROIDS, load_centroids
from tasks.retrieval.base import KEPT, TRUTH_KEPT, Stored, Tables, match_bucket, searched_how, stretches_of, take_over
from tasks.retrieval.clusters import count_images
from tasks.retrieval.part_chunks import chunks_of
from tasks.retrieval.queries import survey, write_queries
from tasks.retrieval.rules import Retrieve
from tasks.retrieval.search import Blocks, CellChunk, Merge, Pass, merge_block, scan, search_cells, sort_by_cell
from tasks.retrieval.sorted_runs import read_groups, remove_scratch, run_offsets, runs_of
from tasks.stage import Outcome, Stage


class Work:
    """One run of the stage: what its steps hand to each other. Nothing here grows with the pool but lists of files."""

    def __init__(
        self, stage: Stage, embedded: Manifest, clustered: Manifest, queries: Manifest, config: Retrieve
    ) -> None:
        self.stage, self.config, self.embedded, self.queries = stage, config, embedded, queries
        tables = clustered.paths(".parquet")
        self.chunks = [
            CellChunk(chunk, tables[chunk.first_part : chunk.first_part + len(chunk.tables)])
            for chunk in chunks_of(embedded, config.images_per_task)
        ]
        self.query_chunks = chunks_of(queries, config.queries_per_task)
        self.exact = embedded.rows_kept <= config.exact_up_to
        self.centroids = clustered.file(CENTROIDS)
        self.num_clusters = len(load_centroids(self.centroids))
        sha256 = next(entry.sha256 for entry in clustered.files if entry.path == CENTROIDS)
        self.how = searched_how(embedded, sha256, None if self.exact else config.num_probes)
        self.facts: dict[str, Any] = {"search": self.how, "reused": 0}
        self.outcomes: list[Outcome] = []  # of every step: tables stay, arrays are scratch

    def map(self, prefix: str, function: Callable[..., Outcome], parts: Sequence[Any], **plain: Any) -> list[Outcome]:
        """As `Stage.map`; what it writes as .npy is scratch, what it writes as .parquet stays."""
        outcomes = self.stage.map(function, parts, prefix=prefix, **plain)
        self.outcomes += outcomes
        return outcomes

    def scratch(self, name: str, array: npt.NDArray[Any]) -> str:
        """Path of an array that several tasks read."""
        path = self.stage.path(f"scratch-{name}.npy")
        self.outcomes.append(Outcome(0, 0, files=[write_array(path, array)]))
        return path

    def paths(self, outcomes: Sequence[Outcome], suffix: str) -> list[str]:
        """The files that parts wrote."""
        return [self.stage.path(e.path) for outcome in outcomes for e in outcome.files if e.path.endswith(suffix)]

    def finish(self) -> list[FileEntry]:
        """Removes the scratch; the tables that stay."""
        entries = [entry for outcome in self.outcomes for entry in outcome.files]
        scratch = [entry for entry in entries if entry.path.endswith(".npy")]
        remove_scratch(self.stage.directory, [Outcome(0, 0, files=scratch)])
        return [entry for entry in entries if entry.path.endswith(".parquet")]

    def ask(self) -> None:
        """Clusters in an order of neighbourhood; the queries with the clusters that they look into."""
        self.found = survey(self.query_chunks, self.config)
        counted = self.map("sizes", count_images, self.chunks, num_clusters=self.num_clusters)
        self.sizes = np.zeros(self.num_clusters, dtype=np.int64)
        for path in self.paths(counted, ".npy"):
            self.sizes += read_array(path)
        centroids = load_centroids(self.centroids)
        groups = group_cells(centroids, self.sizes, rows_per_group=self.config.images_per_task)
        ends = np.cumsum([len(group) for group in groups]).tolist()
        self.groups = list(zip([0, *ends[:-1]], ends, strict=True))
        positions = np.empty(self.num_clusters, dtype=np.int64)
        positions[np.concatenate(groups)] = np.arange(self.num_clusters)
        self.positions = self.scratch("positions", positions)
        plain = {"found": self.found, "config": self.config, "centroids": self.centroids, "exact": self.exact}
        asked = self.map("queries", write_queries, self.query_chunks, positions=self.positions, **plain)
        self.blocks = Blocks(
            tables=self.paths(asked, ".parquet"),
            vectors=Vectors.of(self.queries),
            starts=np.array([*(chunk.first_row for chunk in self.query_chunks), self.queries.rows_kept]),
            probes=runs_of(self.stage.directory, asked),
        )

    def search(self, base: Manifest | None) -> None:
        """The neighbours of all queries, and the recall of the search."""
        stored: Sequence[str] = ()
        passes, truth = [Pass("all")], [Pass("truth", column="recall")]
        if base is not None and (base.version, base.facts.get("search")) == (self.stage.version, self.how):
            passes, truth, stored = self._take_over(base)
        runs = [run for which in passes for run in self._pass(which)]
        truth_runs = [run for which in truth for run in self._pass(which)] if not self.exact else []
        parts = [
            Merge(
                number,
                runs,
                truth_runs,
                [run for run in stored if run.endswith(f"-{number:05d}.stored")],
                [run for run in stored if run.endswith(f"-{number:05d}.truth")],
            )
            for number in range(len(self.query_chunks))
        ]
        rows = [
            entry.rows
            for entry in self.embedded.files
            if entry.path.startswith("part-") and entry.path.endswith(".npy")
        ]
        starts = self.scratch("starts", np.concatenate([[0], np.cumsum(rows)]).astype(np.int64))
        plain = {"blocks": self.blocks, "modes": self.found.modes, "part_starts": starts}
        merged = self.map("neighbours", merge_block, parts, **plain)
        self.hits = runs_of(self.stage.directory, merged)
        self.actual = {row.name: total(merged, "actual", row.name) for row in self.found.modes if row.mode == "sample"}
        true = sum(outcome.facts["recall_true"] for outcome in merged)
        self.facts |= {
            "recall": round(sum(outcome.facts["recall_found"] for outcome in merged) / true, 6) if true else 1.0,
            "recall_queries": sum(outcome.facts["recall_queries"] for outcome in merged),
        }

    def _take_over(self, base: Manifest) -> tuple[list[Pass], list[Pass], Sequence[str]]:
        """The passes that are left after an earlier run's neighbours, and the runs of what those are now."""
        tag = base.fingerprint[:8]
        pool_moves = self._moves(f"{tag}-pool", base, self.embedded, "part-")
        query_moves = self._moves(f"{tag}-queries", base, self.queries, "queries-")
        pairs = list(zip(self.query_chunks, self.blocks.tables, strict=True))
        plain = {"stored": Stored.of(base), "pool_moves": pool_moves, "query_moves": query_moves}
        taken = self.map(f"taken-{tag}", take_over, pairs, **plain)
        status = self.paths(taken, ".status.npy")
        reused, asked = total(taken, "reused"), total(taken, "asked")
        reused_truth, sampled = total(taken, "reused_truth"), total(taken, "sampled")
        self.facts |= {"base": base.reference, "reused": reused}
        passes = [Pass(f"{tag}-kept", known=pool_moves, status=status, bit=KEPT, value=True)]
        if reused < asked:
            passes.append(Pass(f"{tag}-fresh", status=status, bit=KEPT, value=False))
        kept = Pass(f"{tag}-truth", "recall", known=pool_moves, status=status, bit=TRUTH_KEPT, value=True)
        stored = runs_of(self.stage.directory, taken)
        if 2 * reused_truth >= sampled:  # enough to measure on: the pool need not be read for the others
            return passes, [kept], stored
        return passes, [Pass("truth", column="recall")], [run for run in stored if not run.endswith(".truth")]

    def _moves(self, name: str, base: Manifest, now: Manifest, prefix: str) -> str:
        """A file of stretches: where the rows of the earlier run are in `now`."""
        old, new = Tables.of(base, prefix, only_kept=False), Tables.of(now, "part-", only_kept=True)
        matched = self.map(f"match-{name}", match_bucket, range(old.num_buckets), old=old, new=new)
        return self.scratch(f"moves-{name}", stretches_of(runs_of(self.stage.directory, matched), old.num_windows))

    def _pass(self, which: Pass) -> list[str]:
        """Runs of candidates, by block of queries."""
        if self.exact or which.column == "recall":
            chunks = [part.chunk for part in self.chunks]
            common: dict[str, Any] = {"blocks": self.blocks, "which": which, "device": self.config.efficiency.device}
            return runs_of(self.stage.directory, self.map(f"scan-{which.name}", scan, chunks, **common))
        asked = _asked(self.blocks, which, self.num_clusters)
        groups = [group for group in self.groups if asked[slice(*group)].any()]
        if not groups:
            return []
        path = self.scratch(f"asked-{which.name}", asked)
        plain = {"positions": self.positions, "asked": path, "which": which}
        sorted_by_cell = self.map(f"cells-{which.name}", sort_by_cell, self.chunks, **plain)
        runs = runs_of(self.stage.directory, sorted_by_cell)
        more = {
            "blocks": self.blocks,
            "which": which,
            "queries_per_task": self.config.queries_per_task,
            "device": self.config.efficiency.device,
        }
        return runs_of(self.stage.directory, self.map(f"found-{which.name}", search_cells, groups, runs=runs, **more))


def total(outcomes: Sequence[Outcome], name: str, key: str | None = None) -> int:
    """The sum of a fact of the parts, or of one of its numbers by name."""
    return sum(outcome.facts[name] if key is None else outcome.facts[name].get(key, 0) for outcome in outcomes)


def _asked(blocks: Blocks, which: Pass, num_cells: int) -> npt.NDArray[np.bool_]:
    """[positions]: whether a query of this pass looks there."""
    asked = np.zeros(num_cells, dtype=bool)
    for block, run in enumerate(blocks.probes):
        counts = np.diff(run_offsets(run, 0, num_cells))
        if which.status is None:
            asked |= counts > 0
        else:
            takes_part = which.selects(block, read_groups(run, "query", 0, num_cells).astype(np.int64))
            asked[np.repeat(np.arange(num_cells), counts)[takes_part]] = True
    return asked
