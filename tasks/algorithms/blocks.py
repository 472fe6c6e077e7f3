"""Matrices read by block: what the algorithms need of a set of vectors that may not fit in memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class VectorSource(Protocol):
    """A [rows, dim] matrix of float16 or float32 that is read by block (`storage.vectors.Vectors` is one)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self, rows: int) -> Iterator[tuple[int, Array]]:
        """Consecutive blocks of at most `rows` rows, with the row each starts at."""
        ...

    def take(self, rows: Rows) -> Array:
        """The rows asked for, in the order asked for."""
        ...


class InMemory:
    """An array as a `VectorSource`."""

    def __init__(self, array: Array) -> None:
        if array.ndim != 2:
            raise ValueError(f"vectors must be a matrix [rows, dim], got shape {array.shape}")
        self.array = array

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    def blocks(self, rows: int) -> Iterator[tuple[int, Array]]:
        for start in range(0, len(self.array), rows):
            yield start, self.array[start : start + rows]

    def take(self, rows: Rows) -> Array:
        return np.asarray(self.array[rows])


class Concatenated:
    """Several sources, one after the other, as one; row numbers run on."""

    def __init__(self, sources: Sequence[VectorSource]) -> None:
        dims = {source.shape[1] for source in sources if source.shape[0]}
        if len(dims) > 1:
            raise ValueError(f"vectors to be compared must have one dimension, got {sorted(dims)}")
        self.sources = list(sources)
        self.starts = np.cumsum([0, *(source.shape[0] for source in sources)])
        self.dim = dims.pop() if dims else 0

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.starts[-1]), self.dim

    def blocks(self, rows: int) -> Iterator[tuple[int, Array]]:
        for offset, source in zip(self.starts[:-1], self.sources, strict=True):
            for start, block in source.blocks(rows):
                yield int(offset) + start, block

    def take(self, rows: Rows) -> Array:
        rows = np.asarray(rows, dtype=np.int64)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        taken = np.empty((len(rows), self.dim), dtype=np.float32)
        for index in np.unique(owner):
            mine = owner == index
            taken[mine] = self.sources[index].take(rows[mine] - self.starts[index])
        return taken


def even_blocks(vectors: VectorSource, rows: int) -> Iterator[tuple[int, Floats]]:
    """Float32 blocks of exactly `rows` rows (the last may be shorter), wherever the source's own blocks end.

    A result that is rounded (a sum, a product) then depends on `rows` alone and not on how the vectors were
    cut into files. Memory: 4 * dim * rows bytes, twice.
    """
    held: list[Array] = []
    start = num_held = 0
    for _, block in vectors.blocks(rows):
        while len(block):
            piece, block = block[: rows - num_held], block[rows - num_held :]
            held.append(piece)
            num_held += len(piece)
            if num_held == rows:
                yield start, _as_floats(held)
                start, num_held, held = start + rows, 0, []
    if held:
        yield start, _as_floats(held)


def _as_floats(pieces: list[Array]) -> Floats:
    return np.concatenate([np.asarray(piece, dtype=np.float32) for piece in pieces])


class Selected:
    """Some rows of a source, in increasing order, as a source."""

    def __init__(self, source: VectorSource, rows: Rows) -> None:
        if len(rows) and (np.diff(rows) <= 0).any():
            raise ValueError("rows must increase")
        self.source, self.rows = source, np.asarray(rows, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.source.shape[1]

    def blocks(self, rows: int) -> Iterator[tuple[int, Array]]:
        for start in range(0, len(self.rows), rows):
            yield start, self.source.take(self.rows[start : start + rows])

    def take(self, rows: Rows) -> Array:
        return self.source.take(self.rows[rows])
