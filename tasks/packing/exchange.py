"""Rows in the order of a seeded permutation, spread over files that each hold a sample of all of it.

Every file is sorted by (`order`, `id`) and cut into small row groups, so that any stretch of the permutation is read
from all files without reading the rest of them.
"""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.filesystem import open_read, write_atomic
from storage.manifest import FileEntry

Keys = npt.NDArray[np.uint64]
ORDER = "order"
_NUM_KEYS = 1 << 64
_MIN_ROW_GROUP = 1024


def write_ordered(path: str, table: pa.Table, *, num_ranges: int) -> FileEntry:
    """`table` sorted by (order, id), in row groups of about one of `num_ranges` equal ranges of keys each."""
    places = pc.sort_indices(table, sort_keys=[(ORDER, "ascending"), ("id", "ascending")])
    table = table.combine_chunks()  # rows are gathered a group at a time: never a second whole table
    group = max(_MIN_ROW_GROUP, -(-table.num_rows // num_ranges))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_statistics=[ORDER]) as writer:
        for start in range(0, table.num_rows, group):
            writer.write_table(table.take(places.slice(start, group)))
    data = sink.getvalue()
    with write_atomic(path) as file:
        file.write(data)
    return FileEntry(posixpath.basename(path), table.num_rows, data.size, hashlib.sha256(data).hexdigest())


def read_stretch(path: str, first: int, last: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one such file whose order is in [first, last]; `columns` must hold "order". Reads row groups it needs."""
    with open_read(path) as file:
        parquet = pq.ParquetFile(file)
        column = parquet.schema_arrow.get_field_index(ORDER)
        statistics = [parquet.metadata.row_group(i).column(column).statistics for i in range(parquet.num_row_groups)]
        wanted = [i for i, s in enumerate(statistics) if s is not None and s.max >= first and s.min <= last]
        table = parquet.read_row_groups(wanted, columns=list(columns) if columns is not None else None)
    low, high = pa.scalar(first, pa.uint64()), pa.scalar(last, pa.uint64())
    order = table[ORDER]
    return table.filter(pc.and_(pc.greater_equal(order, low), pc.less_equal(order, high)))


def range_bounds(num_ranges: int) -> list[tuple[int, int]]:
    """(first, last) key of each of `num_ranges` equal ranges of the 64-bit keys."""
    edges = [number * _NUM_KEYS // num_ranges for number in range(num_ranges + 1)]
    return [(low, high - 1) for low, high in pairwise(edges)]


def count_ranges(keys: Keys, num_ranges: int) -> npt.NDArray[np.int64]:
    """int64 [num_ranges]: how many keys fall into each range."""
    firsts = np.array([low for low, _ in range_bounds(num_ranges)], dtype=np.uint64)
    return np.bincount(np.searchsorted(firsts, keys, side="right") - 1, minlength=num_ranges)


@dataclass(frozen=True)
class Stretch:
    """Consecutive shards that one part writes, and where their rows stand: ranks [start, stop) of the permutation.

    `first`..`last` are the keys to look in, from the first key of the range in which the rank `rank` is the first, to
    the last key of the range in which the last shard ends.
    """

    shards: list[tuple[int, int, int]]  # number, start, stop
    first: int
    last: int
    rank: int


def plan_shards(counts: Sequence[int], *, samples_per_shard: int) -> list[Stretch]:
    """Shards of equal size, to one sample, over ranges with `counts` rows: one stretch for each range that has some.

    A shard belongs to the range in which it starts. There are as many shards as hold at most `samples_per_shard`.
    """
    total = sum(counts)
    num_shards = -(-total // samples_per_shard)
    edges = [number * total // num_shards for number in range(num_shards + 1)] if num_shards else [0]
    starts = np.cumsum([0, *counts])
    homes = np.searchsorted(starts, edges[:-1], side="right") - 1
    bounds = range_bounds(len(counts))
    stretches = []
    for home in np.unique(homes).tolist():
        shards = [(int(n), edges[n], edges[n + 1]) for n in np.flatnonzero(homes == home)]
        end = int(np.searchsorted(starts, shards[-1][2] - 1, side="right")) - 1
        stretches.append(Stretch(shards, bounds[home][0], bounds[end][1], int(starts[home])))
    return stretches


def take_ranks(source: Any, stretch: Stretch) -> pa.Table:
    """The rows of a stretch's shards, in order. `source(first, last, columns)` gives the rows of a range of keys.

    Reads the keys first (8 bytes a row), then the rows between the two that matter.
    """
    start, stop = stretch.shards[0][1], stretch.shards[-1][2]
    keys = np.sort(source(stretch.first, stretch.last, [ORDER])[ORDER].to_numpy())
    first, last = int(keys[start - stretch.rank]), int(keys[stop - 1 - stretch.rank])
    rows = source(first, last, None).sort_by([(ORDER, "ascending"), ("id", "ascending")])
    skipped = start - stretch.rank - int(np.searchsorted(keys, first))  # rows of equal keys before the start
    return rows.slice(skipped, stop - start)
