"""Parquet shards: written whole or not at all, read by column."""

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import UnreachableStorage
from storage.filesystem import open_read, write_atomic
from storage.manifest import FileEntry


def write_table(path: str, table: pa.Table) -> FileEntry:
    """Write one Parquet file atomically; its entry names it relative to its own folder."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    with write_atomic(path) as file:
        file.write(data)
    return FileEntry(posixpath.basename(path), table.num_rows, len(data), hashlib.sha256(data).hexdigest())


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file. Raises UnreachableStorage when it is missing or not Parquet."""
    with open_read(path) as file:
        try:
            return pq.read_table(file, columns=list(columns) if columns is not None else None)
        except pa.ArrowInvalid as error:
            raise UnreachableStorage(
                f"{path} is not a readable Parquet file: {error}. Delete its stage's folder."
            ) from error


def read_tables(paths: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The tables of several files, one at a time."""
    for path in paths:
        yield read_table(path, columns)


def kept(table: pa.Table) -> pa.Table:
    """The rows whose verdict is to stay."""
    return table.filter(pc.is_null(table["drop"]))


def table_from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as dicts → table; columns that a row lacks are null, columns that the schema lacks are an error."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the schema {schema.names}")
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def count_drops(table: pa.Table) -> dict[str, int]:
    """Number of rows by drop reason, sorted by reason."""
    counts = pc.value_counts(table["drop"].drop_null()).to_pylist()
    return dict(sorted((item["values"], item["counts"]) for item in counts))
