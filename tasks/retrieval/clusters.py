"""Images of the clusters that queries fall in: which clusters count, and which of their images are the first M.

An image's place in its cluster is that of a 64-bit key, a hash of its id and the seed: nothing depends on the order of
the pool, and a smaller M or cap takes a part of what a larger one takes. What is taken comes down to a number per
source and cluster, the largest key that is still in: so verdicts are made part by part. Memory of the flow: 8 bytes per
cluster and source, 16 per image up to a source's cap. Cost: the keys of the clusters that count are sorted once.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.tables import read_table
from storage.vectors import read_array, write_array
from tasks.algorithms.blocks import Rows
from tasks.algorithms.neighbours import ranks
from tasks.algorithms.sampling import Keys, id_keys
from tasks.retrieval.part_chunks import bytes_of
from tasks.retrieval.rules import SourceMode
from tasks.retrieval.search import Blocks, CellChunk
from tasks.retrieval.sorted_runs import gather_groups, read_groups, run_offsets, write_run
from tasks.stage import Outcome

_NO_KEYS: Keys = np.zeros(0, dtype=np.uint64)


def count_images(part: CellChunk, out: str, *, num_clusters: int) -> Outcome:
    """Images of one chunk in each cluster: {out}.sizes.npy."""
    counts = np.bincount(part.cells(), minlength=num_clusters)
    return Outcome(len(counts), len(counts), files=[write_array(f"{out}.sizes.npy", counts.astype(np.int64))])


def count_queries(tables: Sequence[str], sources: Sequence[str], num_clusters: int) -> npt.NDArray[np.int64]:
    """[sources, clusters]: queries of each source at home in each cluster."""
    counts = np.zeros((len(sources), num_clusters), dtype=np.int64)
    number = pa.array(list(sources))
    for path in tables:
        table = read_table(path, ["source", "cluster"])
        source = np.asarray(pa.compute.index_in(table["source"], number).to_numpy(), dtype=np.int64)
        np.add.at(counts, (source, table["cluster"].to_numpy()), 1)
    return counts


def clusters_table(
    sources: Sequence[str], queries: npt.NDArray[np.int64], images: npt.NDArray[np.int64], min_queries: int
) -> pa.Table:
    """clusters.parquet: a row for every source and cluster with a query."""
    source, cluster = np.nonzero(queries)
    num = queries[source, cluster]
    return pa.table(
        {
            "source": pa.array(list(sources)).take(pa.array(source)),
            "cluster": cluster.astype(np.int32),
            "num_queries": num,
            "images": images[cluster],
            "counts": num > min_queries,
        }
    )


def keys_by_cluster(part: CellChunk, out: str, *, counting: str, seed: int) -> Outcome:
    """The run of one chunk: keys and rows of the images in clusters that count for some source."""
    counts, cells = np.logical_or.reduce(read_array(counting), axis=0), part.cells()
    rows = np.flatnonzero(counts[cells])
    keys = id_keys(part.chunk.ids()[rows], seed=seed)
    return write_run(out, cells[rows], len(counts), {"keys": keys, "rows": rows + part.chunk.first_row})


def cluster_ranges(sizes: npt.NDArray[np.int64], rows: int) -> list[tuple[int, int]]:
    """Consecutive clusters of at most `rows` images in all, or one."""
    ends = np.cumsum(sizes)
    ranges, first = list[tuple[int, int]](), 0
    while first < len(sizes):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + rows, side="right")))
        ranges.append((first, last))
        first = last
    return ranges


def first_members(clusters: tuple[int, int], out: str, *, runs: Sequence[str], per_cluster: int, shown: int) -> Outcome:
    """The first `per_cluster` images of each of these clusters, in their order: a run; {out}.shown.npy: [images, 3]
    cluster, rank and row of the `shown` first ones. Memory: 24 bytes per image of these clusters."""
    columns, cells = gather_groups(runs, ("keys", "rows"), *clusters)
    order = np.lexsort((columns["keys"], cells))
    rank = ranks(cells[order])
    first = order[rank < per_cluster]
    run = write_run(f"{out}.first", cells[first], clusters[1] - clusters[0], {"keys": columns["keys"][first]})
    few = rank < shown
    table = np.stack([cells[order[few]] + clusters[0], rank[few], columns["rows"][order[few]]], axis=1)
    entry = write_array(f"{out}.shown.npy", table.astype(np.int64))
    return Outcome(len(order), len(first), files=[entry, *run.files])


def members_table(paths: Sequence[str]) -> pa.Table:
    """members.parquet, from the files of `first_members`."""
    shown = np.concatenate([np.zeros((0, 3), dtype=np.int64), *(np.asarray(read_array(path)) for path in paths)])
    cluster, rank, row = shown.T
    return pa.table({"cluster": cluster.astype(np.int32), "rank": rank.astype(np.int32), "row": row})


class Limits(NamedTuple):
    """Of each source in mode cluster: the largest key that each cluster gives, and the images before the cap."""

    keys: Keys  # [sources, clusters]
    actual: Rows  # [sources]


def limits_of(
    modes: Sequence[SourceMode],
    counting: npt.NDArray[np.bool_],
    ranges: Sequence[tuple[int, int]],
    runs: Sequence[str],
) -> Limits:
    """What each source takes, from the runs of `first_members` in turn. `counting` [sources, clusters]."""
    keys = np.zeros(counting.shape, dtype=np.uint64)
    actual = np.zeros(len(modes), dtype=np.int64)
    smallest = [_NO_KEYS] * len(modes)
    for clusters, rank, key in _members(ranges, runs):
        for number, mode in enumerate(modes):
            taken = counting[number, clusters] & (rank < mode.per_cluster)
            actual[number] += int(taken.sum())
            keys[number, clusters[taken]] = key[taken]  # keys rise within a cluster: the last one stays
            smallest[number] = _up_to(np.concatenate([smallest[number], key[taken]]), mode.cap)
    for number, mode in enumerate(modes):
        if actual[number] > mode.cap:
            keys[number] = np.minimum(keys[number], smallest[number].max())
    return Limits(keys, actual)


def _members(ranges: Sequence[tuple[int, int]], runs: Sequence[str]) -> Iterator[tuple[Rows, Rows, Keys]]:
    """(cluster, rank, key) of the first members, range after range."""
    for (first, last), run in zip(ranges, runs, strict=True):
        offsets = run_offsets(run, 0, last - first)
        clusters = np.repeat(np.arange(first, last), np.diff(offsets))
        yield clusters, ranks(clusters), read_groups(run, "keys", 0, last - first)


def _up_to(keys: Keys, num: int) -> Keys:
    return keys if len(keys) <= num else np.partition(keys, num - 1)[:num]


def queries_by_cluster(part: tuple[int, str], out: str, *, blocks: Blocks, counting: str) -> Outcome:
    """The run of one source (number, name): vectors and ids of its queries in clusters that count, by cluster.

    Memory: those queries, twice.
    """
    number, name = part
    counts = np.asarray(read_array(counting)[number])
    queries, cells, ids = [], [], []
    for path, start in zip(blocks.tables, blocks.starts[:-1].tolist(), strict=True):
        table = read_table(path, ["query_id", "source", "cluster"])
        table = table.append_column("query", pa.array(np.arange(start, start + len(table))))
        table = table.filter(pa.compute.equal(table["source"], name))
        cell = np.asarray(table["cluster"].to_numpy())
        queries.append(np.asarray(table["query"].to_numpy())[counts[cell]])
        cells.append(cell[counts[cell]])
        ids.append(bytes_of(table["query_id"])[counts[cell]])
    vectors = blocks.vectors.take(np.concatenate(queries))
    return write_run(out, np.concatenate(cells), len(counts), {"vectors": vectors, "ids": np.concatenate(ids)})
