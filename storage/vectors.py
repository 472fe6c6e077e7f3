"""Matrices on disk, one .npy per part, read by block so that a billion rows never stand in memory.

Vectors are float16; row r of a part's matrix belongs to the r-th kept row of the part's table, which holds its id.
"""

import hashlib
import io
import posixpath
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from storage.errors import UnreachableStorage
from storage.filesystem import is_url, open_read, write_atomic
from storage.manifest import FileEntry, Manifest

_OPEN_MAPS = 64  # each holds a file descriptor; a process commonly may have 1,024
_OPEN_COPIES = 4  # files of remote storage are read whole: 10 MB for 10,000 rows of 512


def write_vectors(path: str, vectors: NDArray[np.floating]) -> FileEntry:
    """Write a [rows, dim] matrix as float16 .npy (float32 and float64 are rounded), atomically."""
    return write_array(path, np.asarray(vectors, dtype=np.float16))


def write_array(path: str, array: NDArray[Any]) -> FileEntry:
    """Write an array as .npy, as it is, atomically; `rows` of the entry is its first length."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    data = buffer.getbuffer()
    with write_atomic(path) as file:
        file.write(data)
    return FileEntry(posixpath.basename(path), len(array), len(data), hashlib.sha256(data).hexdigest())


def read_array(path: str) -> NDArray[Any]:
    """An array that `write_array` wrote: mapped where the file is local, else read. Raises UnreachableStorage."""
    try:
        if not is_url(path):
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with open_read(path) as file:
            return np.load(io.BytesIO(file.read()), allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise UnreachableStorage(
            f"cannot read vectors {path}: {error}. Delete its stage's folder and run again."
        ) from error


def remove_files(paths: Iterable[str]) -> None:
    """Files that only helped to make others; those that are gone already are no error."""
    for path in paths:
        filesystem, inner = url_to_fs(path)
        with suppress(FileNotFoundError):
            filesystem.rm_file(inner)


class Vectors:
    """Matrices of several files seen as one [rows, dim] matrix, in the order of `paths`.

    `rows` are the files' numbers of rows where they are known (`Vectors.of` takes them from a manifest): else every
    file is opened once, when they are first needed (about 0.1 ms each). Memory: 8 bytes per file and its path; files
    are mapped, at most 64 at a time, and `blocks` and `take` copy only what they return. Picklable; threads may share
    it. Raises UnreachableStorage for a file that is missing, damaged or of other length than `rows` says.
    """

    def __init__(self, paths: Sequence[str], rows: Sequence[int] | None = None) -> None:
        if rows is not None and len(rows) != len(paths):
            raise ValueError(f"{len(rows)} numbers of rows for {len(paths)} files")
        self.paths = list(paths)
        self._starts = None if rows is None else _starts(rows)
        self._dim: int | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        self._maps = _Maps()

    @classmethod
    def of(cls, manifest: Manifest) -> "Vectors":
        """The vectors of a finished stage's parts, whose lengths its manifest knows."""
        entries = [entry for entry in manifest.files if entry.path.startswith("part-") and entry.path.endswith(".npy")]
        return cls(manifest.paths(".npy"), [entry.rows for entry in entries])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_maps": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _maps=_Maps())

    @property
    def starts(self) -> NDArray[np.int64]:
        """First row of each file, and the number of rows last: [files + 1]."""
        if self._starts is None:
            self._starts = _starts([read_array(path).shape[0] for path in self.paths])
        return self._starts

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, dim), summed over the files; files without rows may have any dim."""
        if self._dim is None:
            filled = np.flatnonzero(np.diff(self.starts))
            if len(filled) or self.paths:
                first = read_array(self.paths[filled[0] if len(filled) else 0])
                self._dim, self._dtype = first.shape[1], first.dtype
            else:
                self._dim = 0
        return int(self.starts[-1]), self._dim

    def blocks(self, rows: int) -> Iterator[tuple[int, NDArray[np.floating]]]:
        """(first row, [≤ rows, dim]) over the whole matrix; a block may span files."""
        start, pending, held = 0, list[NDArray[np.floating]](), 0
        for number in range(len(self.paths)):
            matrix = self._whole(number)
            for first in range(0, matrix.shape[0], rows):
                pending.append(np.asarray(matrix[first : first + rows]))
                held += len(pending[-1])
                if held >= rows:
                    merged = np.concatenate(pending)
                    yield start, merged[:rows]
                    start, held, pending = start + rows, held - rows, [merged[rows:]] if held > rows else []
        if held:
            yield start, np.concatenate(pending)

    def take(self, rows: Sequence[int] | range | NDArray[np.integer]) -> NDArray[np.floating]:
        """The given rows [n, dim], in the given order. Raises IndexError for a row that is not there."""
        total, dim = self.shape
        wanted = np.asarray(rows, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= total):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} are wanted of {total}")
        result = np.empty((len(wanted), dim), dtype=self._dtype)
        files = np.searchsorted(self.starts, wanted, side="right") - 1
        order = np.argsort(files, kind="stable")
        bounds = np.flatnonzero(np.diff(files[order], prepend=-1, append=len(self.paths)))
        for first, last in pairwise(bounds.tolist()):
            here, file = order[first:last], int(files[order[first]])
            local = wanted[here] - self.starts[file]
            result[here] = self._maps.get(self.paths[file], partial(self._whole, file))[local]
        return result

    def _whole(self, number: int) -> NDArray[np.floating]:
        matrix, expected = read_array(self.paths[number]), int(self.starts[number + 1] - self.starts[number])
        if matrix.ndim != 2 or len(matrix) != expected:
            raise UnreachableStorage(
                f"{self.paths[number]} holds {matrix.shape}, expected {expected} rows: it was replaced. Delete its "
                "stage's folder and run again."
            )
        return matrix


def _starts(rows: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.asarray(rows, dtype=np.int64))]).astype(np.int64)


class _Maps:
    """The files opened last; the one not used for longest goes first."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, path: str, opened: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
                return self._open[path]
        matrix = opened()
        with self._lock:
            self._open[path] = matrix
            while len(self._open) > (_OPEN_COPIES if is_url(path) else _OPEN_MAPS):
                self._open.popitem(last=False)
        return matrix
