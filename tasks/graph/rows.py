"""Rows of a pool for tasks that know nothing of its parts: spans of rows, and the files they lie in.

Tasks are cut by rows, never by parts: so what they write does not depend on how the pool is cut into files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.filesystem import join
from storage.manifest import Manifest
from storage.tables import kept, read_table
from storage.vectors import Vectors
from tasks.algorithms.blocks import Rows

Halves = npt.NDArray[np.float16]


class Span(NamedTuple):
    """Rows first <= row < last of a pool, and the parts they lie in: paths without extension, each part's first row."""

    first: int
    last: int
    parts: tuple[str, ...]
    starts: tuple[int, ...]


class PoolFiles:
    """Which rows lie in which part, from the manifest alone: no file is opened. Memory: the manifest's own."""

    def __init__(self, described: Manifest) -> None:
        named = [entry for entry in described.files if entry.path.startswith("part-") and entry.path.endswith(".npy")]
        self._parts = [join(described.directory, entry.path.removesuffix(".npy")) for entry in named]
        self._starts = [0]
        for entry in named:
            self._starts.append(self._starts[-1] + entry.rows)

    @property
    def num_rows(self) -> int:
        """Rows of the pool."""
        return self._starts[-1]

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return Vectors([f"{path}.npy" for path in self._parts if path is not None][:1]).shape[1]

    def span(self, first: int, last: int) -> Span:
        """Rows first <= row < last."""
        low, high = bisect_right(self._starts, first) - 1, bisect_right(self._starts, max(first, last - 1))
        return Span(first, last, tuple(self._parts[low:high]), tuple(self._starts[low:high]))

    def spans(self, rows: int) -> list[Span]:
        """The whole pool in spans of `rows` rows, the last shorter."""
        return [self.span(first, min(first + rows, self.num_rows)) for first in range(0, self.num_rows, rows)]

    def batches(self, rows: int) -> list[Span]:
        """The whole pool in spans of whole parts, each of `rows` rows or a little more."""
        found, low = list[Span](), 0
        for high in range(1, len(self._parts) + 1):
            if self._starts[high] - self._starts[low] >= rows or high == len(self._parts):
                parts, starts = tuple(self._parts[low:high]), tuple(self._starts[low:high])
                found.append(Span(starts[0], self._starts[high], parts, starts))
                low = high
        return found


def read_vectors(span: Span) -> Halves:
    """The vectors of a span, float16 [last - first, dim]."""
    return take_vectors(span, np.arange(span.first, span.last))


def take_vectors(span: Span, rows: Rows) -> Halves:
    """The vectors of some pool rows of a span, increasing, float16 [rows, dim]; only files that hold one are opened."""
    taken: list[Halves] = []
    for part, start, stop in _places(span):
        low, high = np.searchsorted(rows, [start, stop])
        if low < high:
            _, block = next(Vectors([f"{part}.npy"]).blocks(1 << 40))
            mine = rows[low:high] - start
            taken.append(block[mine[0] : mine[-1] + 1] if mine[-1] - mine[0] + 1 == len(mine) else block[mine])
    return np.concatenate(taken) if taken else np.zeros((0, 0), dtype=np.float16)


def read_columns(span: Span, columns: Sequence[str]) -> pa.Table:
    """Columns of the tables' kept rows in a span: [last - first] rows."""
    tables = []
    for part, start, stop in _places(span):
        low, high = max(span.first, start), min(span.last, stop)
        if low < high:
            tables.append(kept(read_table(f"{part}.parquet", ["drop", *columns])).slice(low - start, high - low))
    return pa.concat_tables(tables).select(list(columns))


def _places(span: Span) -> list[tuple[str, int, int]]:
    return list(zip(span.parts, span.starts, [*span.starts[1:], span.last], strict=True))
