"""Pairs by Faiss: the pool in shards, an index of each, every row searched in every shard, candidates checked exactly.

Memory of a task: the index of a shard (code_bytes + 8 per row: 1.4 GB for 20 million rows and 64 bytes), a span of
vectors (`group_bytes`), and the candidates of one batch of queries. 1.2 billion rows of 512 dimensions: 60 shards,
1,229 spans, 74,000 tasks, in the order of the shards, so that a worker reads an index once and keeps it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from storage.filesystem import read_bytes, write_bytes
from tasks.algorithms.blocks import Rows
from tasks.algorithms.cross_join import pair_similarity
from tasks.algorithms.edge_limit import join_blocks, limit_edges
from tasks.algorithms.faiss_join import add_vectors, from_bytes, search, to_bytes, train_index
from tasks.algorithms.self_join import Edges
from tasks.graph.limit import Ranges, write_pairs
from tasks.graph.recall import PAIR
from tasks.graph.rows import PoolFiles, Span, read_vectors, take_vectors
from tasks.graph.scratch import Array, Files, load_array, save_array, scratch_entry, scratch_map, whole
from tasks.stage import Outcome, Stage

_FILL_ROWS = 1 << 18
_QUERY_ROWS = 1 << 14


class Search(NamedTuple):
    """How an index is searched: lists looked at, how far a coded cosine may lie below the threshold, edges an image."""

    threshold: float
    probes: int
    margin: float
    neighbours: int


def build_shards(
    stage: Stage, pool: PoolFiles, sample: Array, *, shard_rows: int, num_lists: int, code_bytes: int
) -> tuple[list[Span], Files]:
    """The pool in shards, and an index of each; all are trained on the one sample."""
    trained = stage.path("scratch-trained.faiss")
    write_bytes(trained, to_bytes(train_index(sample, num_lists=num_lists, code_bytes=code_bytes)))
    shards = pool.spans(shard_rows)
    return shards, scratch_map(stage, "index", fill_shard, shards, trained=trained)[1]


def fill_shard(shard: Span, out: str, *, trained: str) -> Outcome:
    """The index of one shard; its rows are numbered from 0. Vectors pass through in blocks."""
    index = from_bytes(read_bytes(trained), gpu=False)
    for first in range(shard.first, shard.last, _FILL_ROWS):
        add_vectors(index, read_vectors(shard._replace(first=first, last=min(first + _FILL_ROWS, shard.last))))
    data = to_bytes(index)
    write_bytes(f"{out}.faiss", data)
    return whole(shard.last - shard.first, [scratch_entry(f"{out}.faiss", shard.last - shard.first, len(data))])


@lru_cache(maxsize=1)
def _index(path: str) -> Any:
    return from_bytes(read_bytes(path))


def search_shards(
    stage: Stage, spans: Sequence[Span], shards: Sequence[Span], indexes: Files, how: Search, ranges: Ranges
) -> tuple[Files, dict[str, int]]:
    """The pairs of every span with every shard, and how many searches had to be extended, or ended before all pairs."""
    parts = [(span, shard, indexes.path(number, ".faiss")) for number, shard in enumerate(shards) for span in spans]
    outcomes, files = scratch_map(stage, "pairs", search_shard, parts, how=how, ranges=ranges)
    return files, {name: sum(outcome.facts[name] for outcome in outcomes) for name in ("extended", "cut_off")}


def search_shard(part: tuple[Span, Span, str], out: str, *, how: Search, ranges: Ranges) -> Outcome:
    """The pairs of the rows of a span with those of a shard."""
    span, shard, index = part
    kept: list[Edges] = []
    num_extended = num_cut = 0
    for first in range(span.first, span.last, _QUERY_ROWS):
        batch = span._replace(first=first, last=min(first + _QUERY_ROWS, span.last))
        found = near(index, read_vectors(batch), shard, how)
        rows = found.left + first
        other = rows != found.right
        ends = (rows[other], found.right[other])
        edges = Edges(np.minimum(*ends), np.maximum(*ends), found.similarity[other])
        kept.append(_limited(edges, how.neighbours))
        num_extended, num_cut = num_extended + found.num_extended, num_cut + found.num_cut
    return whole(0, [write_pairs(f"{out}.pairs", join_blocks(kept), ranges)], extended=num_extended, cut_off=num_cut)


def _limited(edges: Edges, neighbours: int) -> Edges:
    rows, ends = np.unique(np.concatenate([edges.left, edges.right]), return_inverse=True)
    compact = Edges(ends[: len(edges.left)], ends[len(edges.left) :], edges.similarity)
    limited = limit_edges(compact, num_rows=len(rows), neighbours=neighbours)
    return Edges(rows[limited.left], rows[limited.right], limited.similarity)


class Near(NamedTuple):
    """Queries (left, numbers) and pool rows (right) whose true cosine is above the threshold."""

    left: Rows
    right: Rows
    similarity: np.ndarray
    num_extended: int
    num_cut: int


def near(index: str, queries: Array, shard: Span, how: Search) -> Near:
    """The rows of a shard that are truly similar to queries, among the candidates of its index."""
    found = search(
        _index(index), queries, neighbours=how.neighbours, probes=how.probes, at_least=how.threshold - how.margin
    )
    rows, place = np.unique(found.rows, return_inverse=True)
    similarity = np.zeros(len(found.rows))
    vectors = take_vectors(shard, rows + shard.first)
    for start in range(0, len(place), _FILL_ROWS):
        here = slice(start, start + _FILL_ROWS)
        similarity[here] = pair_similarity(queries[found.queries[here]], vectors[place[here]])
    above = similarity > how.threshold
    rows = found.rows[above] + shard.first
    return Near(found.queries[above], rows, similarity[above].astype(np.float32), found.num_extended, found.num_cut)


def search_queries(stage: Stage, queries: Array, shards: Sequence[Span], indexes: Files, how: Search) -> Array:
    """What the indexes find of vectors that are not in the pool: records of PAIR."""
    path = stage.path("scratch-planted.npy")
    save_array(path, queries)
    parts = [(shard, indexes.path(number, ".faiss")) for number, shard in enumerate(shards)]
    _, files = scratch_map(stage, "planted", search_planted, parts, queries=path, how=how)
    return np.concatenate([load_array(path) for path in files.paths(".npy")])


def search_planted(part: tuple[Span, str], out: str, *, queries: str, how: Search) -> Outcome:
    """What one shard's index finds of them."""
    shard, index = part
    found = near(index, np.asarray(load_array(queries)), shard, how)
    records = np.empty(len(found.left), dtype=PAIR)
    for name, column in zip(PAIR.names or (), (found.left, found.right, found.similarity, True), strict=True):
        records[name] = column
    return whole(0, [save_array(f"{out}.npy", records)])
