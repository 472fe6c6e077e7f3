"""Rows spread over buckets by id through Parquet files whose row groups are the buckets: a shuffle on plain storage."""

import hashlib
import posixpath
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.filesystem import open_read, write_bytes
from storage.manifest import FileEntry

ID_CHARS = 24
_KEY_CHARS = 8  # 32 bits of the id decide the bucket


def hex_ids(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.bytes_]:
    """Ids (24 hexadecimal characters each) as fixed-length bytes, without an object per id. [rows] of S24"""
    whole = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    fixed = whole.cast(pa.binary()).cast(pa.binary(ID_CHARS))  # refuses an id of another length
    data = np.frombuffer(fixed.buffers()[1], np.uint8) if len(fixed) else np.zeros(0, np.uint8)
    start = fixed.offset * ID_CHARS
    return data[start : start + len(fixed) * ID_CHARS].view(f"S{ID_CHARS}")


def bucket_of_id(ids: pa.Array, num_buckets: int) -> NDArray[np.int64]:
    """Bucket of each hexadecimal id: equal ranges of its first 32 bits, so buckets in order are ids in order. [rows]"""
    digits = (
        hex_ids(ids).view(np.uint8).reshape(-1, ID_CHARS)[:, :_KEY_CHARS].astype(np.int64)
    )  # of b"0".."9", b"a".."f"
    nibbles = np.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    key = nibbles @ (1 << (4 * np.arange(_KEY_CHARS - 1, -1, -1, dtype=np.int64)))
    return (key * num_buckets) >> (4 * _KEY_CHARS)


def split_by_bucket(table: pa.Table, num_buckets: int) -> list[pa.Table]:
    """The rows of each bucket, in their order."""
    buckets = bucket_of_id(table["id"], num_buckets)
    order = np.argsort(buckets, kind="stable")
    ends = np.searchsorted(buckets[order], np.arange(num_buckets), side="right")
    ordered = table.take(pa.array(order))
    starts = [0, *ends[:-1].tolist()]
    return [ordered.slice(start, end - start) for start, end in zip(starts, ends.tolist(), strict=True)]


def write_groups(path: str, groups: Iterable[pa.Table], schema: pa.Schema) -> FileEntry:
    """One Parquet file with one row group per table, empty ones included."""
    sink = pa.BufferOutputStream()
    rows = 0
    with pq.ParquetWriter(sink, schema, compression="lz4") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
            rows += group.num_rows
    data = sink.getvalue().to_pybytes()
    write_bytes(path, data)
    return FileEntry(posixpath.basename(path), rows, len(data), hashlib.sha256(data).hexdigest())


def read_group(path: str, group: int) -> pa.Table:
    """One row group."""
    with open_read(path) as file:
        return pq.ParquetFile(file).read_row_group(group)


def read_bucket(paths: Sequence[str], bucket: int) -> pa.Table:
    """One bucket's rows of all files, in the files' order."""
    return pa.concat_tables([read_group(path, bucket) for path in paths])
