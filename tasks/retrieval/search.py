"""The neighbours of all queries, for pools and sources that no machine holds: sorted by cell, searched cell by cell.

Pool images are sorted by cell, chunk by chunk (`sort_by_cell`); a task takes a group of neighbouring cells out of all
chunks and every query that looks into one of them (`search_cells`); what the groups found is merged by block of queries
(`merge_block`). A small pool, and the sample on which recall is measured, is compared whole, chunk by chunk (`scan`).

Cost: queries * images in the probed cells * 2 * dim operations; the pool is read twice and written once, a query is
read once for every group that it looks into. Memory of a task: its group's images twice, its queries twice; 44 bytes
per candidate. Disk, until the stage ends: the probed part of the pool; 44 bytes per query, group and neighbour.
"""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystem import join
from storage.tables import read_table, write_table
from storage.vectors import Vectors, read_array
from tasks.algorithms.blocks import Rows
from tasks.algorithms.neighbours import (
    Asking,
    Neighbours,
    finder_for,
    first_of_each,
    id_words,
    nearest,
    nearest_in_cells,
    ranks,
)
from tasks.algorithms.neighbours import with_equals as by_similarity
from tasks.retrieval.part_chunks import Chunk, Ids, bytes_of, concatenated, strings_of
from tasks.retrieval.rules import SourceMode
from tasks.retrieval.sorted_runs import Array, gather_groups, read_groups, run_offsets, write_run
from tasks.stage import Outcome

CANDIDATE = ("query", "row", "similarity", "id")


@dataclass(frozen=True)
class Blocks:
    """The queries by block: files queries-*.parquet, their vectors, the runs of their probes (none: exact)."""

    tables: Sequence[str]
    vectors: Vectors
    starts: Rows  # [blocks + 1]: first query of each block
    probes: Sequence[str] = ()


@dataclass(frozen=True)
class Pass:
    """Which queries are compared with which images. Without an earlier run: all with all, in one pass.

    `column`: depth (the search) or recall (the sample). `known`: stretches of images (see retrieval.base) that are left
    out. `status`: one array per block; a query takes part when bit `bit` of its status is `value`.
    """

    name: str
    column: str = "depth"
    known: str | None = None
    status: Sequence[str] | None = None
    bit: int = 0
    value: bool = False

    def selects(self, block: int, queries: Rows) -> npt.NDArray[np.bool_]:
        """Mask of the queries (their places in the block) that take part."""
        if self.status is None:
            return np.ones(len(queries), dtype=bool)
        status = np.asarray(read_array(self.status[block]))[queries]
        return np.asarray(((status >> self.bit) & 1).astype(bool) == self.value)

    def images(self, first: int, count: int) -> Rows:
        """Which of the rows first..first + count take part, as places from `first` on."""
        new = np.ones(count, dtype=bool)
        if self.known is not None:
            stretches = np.asarray(read_array(self.known))
            starts, stops = stretches[:, 1] - first, stretches[:, 1] + stretches[:, 2] - first
            here = (starts < count) & (stops > 0)
            for start, stop in zip(starts[here].tolist(), stops[here].tolist(), strict=True):
                new[max(start, 0) : stop] = False
        return np.flatnonzero(new)


class CellChunk(NamedTuple):
    """A chunk of the pool with the tables that say each image's cluster."""

    chunk: Chunk
    clusters: Sequence[str]

    def cells(self) -> npt.NDArray[np.int32]:
        """[rows]: cluster of each image. Raises ValueError when the tables are of other images."""
        column = Chunk(self.clusters, (), 0, 0, ()).column("cluster")
        cells = np.asarray(column.to_numpy(), dtype=np.int32)
        if len(cells) != self.chunk.num_rows:
            raise ValueError(f"{self.clusters[0]} and on: clusters of {len(cells)} images, not {self.chunk.num_rows}")
        return cells


def sort_by_cell(part: CellChunk, out: str, *, positions: str, asked: str, which: Pass) -> Outcome:
    """The run of one chunk: vectors, ids and rows of its images in cells that are asked, by position of the cell."""
    place = np.asarray(read_array(positions))[part.cells()]
    wanted = np.asarray(read_array(asked))
    rows = which.images(part.chunk.first_row, part.chunk.num_rows)
    rows = rows[wanted[place[rows]]]
    vectors, ids = part.chunk.vectors(rows), part.chunk.ids()[rows]
    return write_run(
        out, place[rows], len(wanted), {"vectors": vectors, "ids": ids, "rows": rows + part.chunk.first_row}
    )


def search_cells(
    group: tuple[int, int],
    out: str,
    *,
    runs: Sequence[str],
    blocks: Blocks,
    which: Pass,
    queries_per_task: int,
    device: str,
) -> Outcome:
    """Images of the cells at positions group[0]..group[1] compared with the queries that look there: a run by block."""
    columns, cells = gather_groups(runs, ("vectors", "ids", "rows"), *group)
    order = np.argsort(cells, kind="stable")
    vectors, ids, rows = columns["vectors"][order], columns["ids"][order], columns["rows"][order]
    bounds = np.searchsorted(cells[order], np.arange(group[1] - group[0] + 1)).astype(np.int64)
    ties, finder = _rank(ids), finder_for(device)
    found: list[tuple[Rows, Neighbours]] = []
    for pairs in _asking(group, blocks, which, queries_per_task) if len(rows) else ():
        queries, number = np.unique(pairs.query, return_inverse=True)
        depth = np.zeros(len(queries), dtype=np.int64)
        depth[number] = pairs.depth
        asking = Asking.of(pairs.cell, number, len(bounds) - 1)
        asked = blocks.vectors.take(queries)
        near = nearest_in_cells(vectors, bounds, asked, asking, num=depth, ties=ties, finder=finder)
        found.append((queries, near))
    return _write_candidates(out, found, ids, rows, blocks)


def scan(chunk: Chunk, out: str, *, blocks: Blocks, which: Pass, device: str) -> Outcome:
    """What the images of one chunk are to all queries that take part: a run by block."""
    here = which.images(chunk.first_row, chunk.num_rows)
    vectors, ids = chunk.vectors(here), chunk.ids()[here]
    ties, finder = _rank(ids), finder_for(device)
    found: list[tuple[Rows, Neighbours]] = []
    for block, table in enumerate(blocks.tables if len(here) else ()):
        columns = read_table(table, ["depth", "recall"])
        asks = np.asarray(columns["depth"].to_numpy()) > 0
        if which.column == "recall":
            asks &= np.asarray(columns["recall"].to_numpy(zero_copy_only=False))
        places = np.flatnonzero(asks)
        places = places[which.selects(block, places)]
        depth = np.asarray(columns["depth"].to_numpy())[places]
        queries = places + blocks.starts[block]
        near = nearest(vectors, blocks.vectors.take(queries), num=depth, ties=ties, finder=finder)
        found.append((queries, near))
    return _write_candidates(out, found, ids, here + chunk.first_row, blocks)


class _Pairs(NamedTuple):
    cell: Rows  # position in the group
    query: Rows
    depth: Rows


def _asking(group: tuple[int, int], blocks: Blocks, which: Pass, at_most: int) -> Iterator[_Pairs]:
    """Who looks into the group's cells: of as many blocks at a time as `at_most` queries come from, at least one."""
    held: list[_Pairs] = []
    num_held = 0
    for block, run in enumerate(blocks.probes):
        cell = np.repeat(np.arange(group[1] - group[0]), np.diff(run_offsets(run, *group)))
        query = read_groups(run, "query", *group).astype(np.int64)
        mask = which.selects(block, query)
        depth = read_groups(run, "depth", *group).astype(np.int64)
        pairs = _Pairs(cell[mask], query[mask] + blocks.starts[block], depth[mask])
        count = len(np.unique(pairs.query))
        if num_held and num_held + count > at_most:
            yield _Pairs(*(np.concatenate(columns) for columns in zip(*held, strict=True)))
            held, num_held = [], 0
        held.append(pairs)
        num_held += count
    if num_held:
        yield _Pairs(*(np.concatenate(columns) for columns in zip(*held, strict=True)))


def _rank(ids: Ids) -> Rows:
    """The place of each id among all, sorted: what equals are ordered by."""
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.lexsort(tuple(reversed(id_words(ids))))] = np.arange(len(ids))
    return rank


def _write_candidates(
    out: str, found: Sequence[tuple[Rows, Neighbours]], ids: Ids, rows: Rows, blocks: Blocks
) -> Outcome:
    query = np.concatenate([np.zeros(0, dtype=np.int64), *(np.repeat(q, np.diff(n.offsets)) for q, n in found)])
    place = np.concatenate([np.zeros(0, dtype=np.int64), *(near.rows for _, near in found)])
    similarity = np.concatenate([np.zeros(0, dtype=np.float32), *(near.similarity for _, near in found)])
    block = np.searchsorted(blocks.starts, query, side="right") - 1
    columns = {"query": query, "row": rows[place], "similarity": similarity, "id": ids[place]}
    return write_run(out, block, len(blocks.tables), columns)


class Merge(NamedTuple):
    """What a block's neighbours are made of: its number, the runs of all passes, of the sample's, and what was stored
    by an earlier run (a run of one block each)."""

    block: int
    runs: Sequence[str]
    truth_runs: Sequence[str]
    stored: Sequence[str] = ()
    stored_truth: Sequence[str] = ()


def merge_block(part: Merge, out: str, *, blocks: Blocks, modes: Sequence[SourceMode], part_starts: str) -> Outcome:
    """neighbours-*.parquet and truth-*.parquet of one block; the run `hits`: what mode sample takes, by pool part.

    facts: `actual` (images that each row of the composition retrieved, repeats counted), `recall_queries` (of the
    sample), `recall_true` (their neighbours) and `recall_found`.
    """
    table = read_table(blocks.tables[part.block], ["query_id", "source", "depth", "recall"])
    first = int(blocks.starts[part.block])
    depth = np.asarray(table["depth"].to_numpy(), dtype=np.int64)
    best = _merged(part.runs, part.stored, part.block, first, depth)
    sampled = np.asarray(table["recall"].to_numpy(zero_copy_only=False))
    truth = _merged(part.truth_runs, part.stored_truth, part.block, first, np.where(sampled, depth, 0))
    measured = np.isin(best["query"], np.unique(truth["query"]))
    same = np.isin(_pair(best, measured), _pair(truth, np.ones(len(truth["row"]), dtype=bool)))
    files = [
        write_table(f"{out}.parquet", _as_table(best)),
        write_table(join(posixpath.dirname(out), f"truth-{part.block:05d}.parquet"), _as_table(truth)),
    ]
    hits, actual = _hits(best, table, first, modes)
    starts = np.asarray(read_array(part_starts))
    owner = np.searchsorted(starts, hits["row"], side="right") - 1
    run = write_run(f"{out}.hits", owner, len(starts) - 1, hits)
    facts = {
        "actual": actual,
        "recall_found": int(same.sum()),
        "recall_true": len(truth["row"]),
        "recall_queries": len(np.unique(truth["query"])),
    }
    return Outcome(len(table), len(table), files=[*files, *run.files], facts=facts)


def _merged(runs: Sequence[str], stored: Sequence[str], block: int, first: int, depth: Rows) -> dict[str, Array]:
    """The best depth[q] candidates of each query, sorted by query, similarity and id, with their rank."""
    pieces = [gather_groups(runs, CANDIDATE, block, block + 1)[0]] if runs else []
    pieces += [gather_groups([run], CANDIDATE, 0, 1)[0] for run in stored]
    if not pieces:
        pieces = [{"query": _EMPTY, "row": _EMPTY, "similarity": _EMPTY.astype(np.float32), "id": concatenated([])}]
    columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in CANDIDATE}
    order = by_similarity(columns["similarity"], id_words(columns["id"]), columns["query"])
    order = order[first_of_each(columns["query"][order] - first, depth)]
    best = {name: column[order] for name, column in columns.items()}
    return best | {"rank": ranks(best["query"]).astype(np.int32)}


_EMPTY: Rows = np.zeros(0, dtype=np.int64)


def _pair(found: dict[str, Array], some: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    columns = [found["query"][some], found["row"][some]]
    return np.rec.fromarrays(columns, dtype=[("query", "i8"), ("row", "i8")])


def _as_table(found: dict[str, Array]) -> pa.Table:
    names = ("query", "rank", "row", "similarity")
    return pa.table({**{name: found[name] for name in names}, "image_id": strings_of(found["id"])})


def _hits(
    best: dict[str, Array], table: pa.Table, first: int, modes: Sequence[SourceMode]
) -> tuple[dict[str, Array], dict[str, int]]:
    """What mode sample takes of the neighbours: row, rule (its place among `modes`), similarity, query's id."""
    rule, taken = np.full(len(table), -1, dtype=np.int16), np.zeros(len(table), dtype=np.int64)
    for number, row in enumerate(modes):
        if row.mode == "sample":
            mine = np.asarray(pc.equal(table["source"], row.source).to_numpy(zero_copy_only=False))
            rule[mine], taken[mine] = number, row.neighbours
    place = best["query"] - first
    here = best["rank"] < taken[place]
    hits = {
        "row": best["row"][here],
        "rule": rule[place[here]],
        "similarity": best["similarity"][here],
        "query": bytes_of(table["query_id"])[place[here]],
    }
    counts = np.bincount(hits["rule"], minlength=len(modes))
    return hits, {row.name: int(counts[number]) for number, row in enumerate(modes) if row.mode == "sample"}
