"""Float16/32 matrices on disk, one .npy per part, read by block so that a billion rows never stand in memory."""

import hashlib
import io
import posixpath
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.errors import UnreachableStorage
from storage.filesystem import is_url, open_read, write_atomic
from storage.manifest import FileEntry


def write_vectors(path: str, vectors: NDArray[np.floating]) -> FileEntry:
    """Write a [rows, dim] matrix as float16 .npy (float32 and float64 are rounded), atomically."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(vectors, dtype=np.float16), allow_pickle=False)
    data = buffer.getvalue()
    with write_atomic(path) as file:
        file.write(data)
    return FileEntry(posixpath.basename(path), len(vectors), len(data), hashlib.sha256(data).hexdigest())


def _open(path: str) -> NDArray[np.float16]:
    try:
        if not is_url(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with open_read(path) as file:
            return np.load(io.BytesIO(file.read()), allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise UnreachableStorage(
            f"cannot read vectors {path}: {error}. Delete its stage's folder and run again."
        ) from error


@dataclass(frozen=True)
class Vectors:
    """Matrices of several files seen as one [rows, dim] matrix, in the order of `paths`.

    Memory: the files are mapped, `blocks` and `take` copy only what they return.
    """

    paths: Sequence[str]

    @property
    def starts(self) -> list[int]:
        """First row of each file, and the number of rows last."""
        starts = [0]
        for path in self.paths:
            starts.append(starts[-1] + _open(path).shape[0])
        return starts

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim), summed over the files; files without rows may have any dim."""
        shapes = [_open(path).shape for path in self.paths]
        return sum(shape[0] for shape in shapes), next(
            (shape[1] for shape in shapes if shape[0]), max((shape[1] for shape in shapes), default=0)
        )

    def blocks(self, rows: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
        """(first row, [≤ rows, dim]) over the whole matrix; a block may span files."""
        start, pending = 0, list[NDArray[np.float16]]()
        for path in self.paths:
            matrix = _open(path)
            for first in range(0, matrix.shape[0], rows):
                pending.append(np.asarray(matrix[first : first + rows]))
                while sum(map(len, pending)) >= rows:
                    merged = np.concatenate(pending)
                    yield start, merged[:rows]
                    start, pending = start + rows, [merged[rows:]] if len(merged) > rows else []
        if pending:
            yield start, np.concatenate(pending)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float16]:
        """The given rows [n, dim], in the given order."""
        starts = self.starts
        wanted = np.asarray(rows, dtype=np.int64)
        result = np.empty((len(wanted), self.shape[1]), dtype=np.float16)
        files = np.array([bisect_right(starts, row) - 1 for row in wanted.tolist()], dtype=np.int64)
        for file in np.unique(files):
            here = np.flatnonzero(files == file)
            result[here] = _open(self.paths[file])[wanted[here] - starts[file]]
        return result
