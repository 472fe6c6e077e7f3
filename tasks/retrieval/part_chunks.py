"""Kept rows of consecutive parts as arrays, without an object per row: what a task holds of a pool that no machine can.

A row's number is its place among the kept rows of all parts, as in `tasks.pool.Pool`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import Manifest
from storage.tables import kept, read_table
from storage.vectors import Vectors
from tasks.algorithms.blocks import Rows

Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Chunk:
    """Consecutive parts: their tables and matrices, the first one's number and the rows of each."""

    tables: Sequence[str]
    matrices: Sequence[str]
    first_part: int
    first_row: int
    rows: Sequence[int]

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    @property
    def starts(self) -> Rows:
        """First row of each part, and the row after the last."""
        return self.first_row + np.concatenate([[0], np.cumsum(self.rows)]).astype(np.int64)

    def vectors(self, places: Rows | None = None) -> npt.NDArray[Any]:
        """[rows, dim] float16, in memory: all, or those at some places. Files that hold none of them are not opened;
        without any, the shape is [0, 0]."""
        places = np.arange(self.num_rows) if places is None else places
        if len(places) == 0:
            return np.zeros((0, 0), dtype=np.float16)
        owner = np.searchsorted(self.starts - self.first_row, places, side="right") - 1
        some = np.unique(owner)
        shift = np.zeros(len(self.rows), dtype=np.int64)  # of each file's rows, when only some files are read
        rows = [self.rows[file] for file in some]
        shift[some] = np.cumsum([0, *rows[:-1]]) - (self.starts[:-1] - self.first_row)[some]
        return Vectors([self.matrices[file] for file in some], rows).take(places + shift[owner])

    def ids(self) -> Ids:
        """[rows]"""
        return concatenated([bytes_of(self._column(path, "id")) for path in self.tables])

    def column(self, name: str) -> pa.ChunkedArray:
        """Any column of the kept rows."""
        return pa.chunked_array([chunk for path in self.tables for chunk in self._column(path, name).chunks])

    @staticmethod
    def _column(path: str, name: str) -> pa.ChunkedArray:
        return kept(read_table(path, ["drop", name]))[name]


def chunks_of(manifest: Manifest, rows: int) -> list[Chunk]:
    """The parts of a stage that has vectors, in chunks of at most `rows` kept rows (or one part)."""
    tables, matrices = manifest.paths(".parquet"), manifest.paths(".npy")
    lengths = [entry.rows for entry in manifest.files if entry.path.startswith("part-") and entry.path.endswith(".npy")]
    chunks, first, row = list[Chunk](), 0, 0
    for part in range(len(tables)):
        if part + 1 == len(tables) or sum(lengths[first : part + 2]) > rows:
            here = slice(first, part + 1)
            chunks.append(Chunk(tables[here], matrices[here], first, row, lengths[here]))
            first, row = part + 1, row + sum(lengths[here])
    return chunks


def bytes_of(column: pa.ChunkedArray) -> Ids:
    """Strings as fixed-width bytes, [n]; nulls are empty. Memory: the strings once more."""
    text = pc.fill_null(column.cast(pa.large_binary()), b"").combine_chunks()
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    lengths = pc.binary_length(text)
    width = max(pc.max(lengths).as_py() or 1, 1)
    if len(text) and pc.min(lengths).as_py() == width:
        fixed = text.cast(pa.binary(width))
        return np.frombuffer(fixed.buffers()[1], dtype=f"S{width}")[fixed.offset : fixed.offset + len(fixed)]
    return np.asarray(text.to_numpy(zero_copy_only=False), dtype=f"S{width}")


def strings_of(ids: Ids) -> pa.Array:
    """What `bytes_of` made of strings, as strings."""
    width = ids.dtype.itemsize
    fixed = np.ascontiguousarray(ids)
    if len(ids) and (fixed.view(np.uint8).reshape(len(ids), width)[:, -1] == 0).any():  # of several lengths
        return pa.array(ids.tolist(), pa.binary()).cast(pa.string())
    buffers = [None, pa.py_buffer(fixed)]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(ids), buffers).cast(pa.binary()).cast(pa.string())


def concatenated(pieces: Sequence[Ids]) -> Ids:
    """Byte strings of any widths as one array."""
    filled = [piece for piece in pieces if len(piece)]
    return np.concatenate(filled) if filled else np.zeros(0, dtype="S1")
