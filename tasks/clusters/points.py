"""The rows that k-means runs over, as tasks see them: files of vectors, grouped, with a key of every row.

A group is what one task reads: some files, one after the other. How rows are grouped changes nothing but how much is
written per iteration (one sum of all clusters per group) and how many workers can help.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs

from storage.filesystem import exists, file_size, is_url, open_read, write_atomic
from storage.manifest import FileEntry, Manifest
from storage.tables import kept, read_table
from tasks.algorithms.blocks import Array
from tasks.algorithms.sampling import Keys, id_keys, mix

Part = tuple[str, str | None, int]
"""Vectors (.npy), the table whose kept rows they belong to (None: rows without ids), the first row's number."""
Group = list[Part]


def pool_parts(embedded: Manifest) -> list[Part]:
    """The pool's parts in order."""
    pairs = zip(embedded.paths(".npy"), embedded.paths(".parquet"), strict=True)
    return _numbered([(vectors, table) for vectors, table in pairs])


def array_parts(paths: Sequence[str]) -> list[Part]:
    """Files of vectors that have no ids: a row's number stands for it."""
    return _numbered([(path, None) for path in paths])


def _numbered(files: Sequence[tuple[str, str | None]]) -> list[Part]:
    parts, first = list[Part](), 0
    for vectors, table in files:
        parts.append((vectors, table, first))
        first += shape_of(vectors)[0]
    return parts


def groups_of(parts: Sequence[Part], num_groups: int) -> list[Group]:
    """At most `num_groups` runs of parts with about as many rows each."""
    ends = [*(part[2] for part in parts[1:]), parts[-1][2] + shape_of(parts[-1][0])[0]]
    groups: dict[int, Group] = {}
    for part, end in zip(parts, ends, strict=True):
        groups.setdefault(min(num_groups - 1, (part[2] + end) * num_groups // max(1, 2 * ends[-1])), []).append(part)
    return list(groups.values())


def part_keys(part: Part, *, seed: int) -> Keys:
    """The key of every row: by its id where it has one, else by its number."""
    vectors, table, first = part
    if table is not None:
        return id_keys(kept(read_table(table, ["drop", "id"]))["id"].to_numpy(zero_copy_only=False), seed=seed)
    rows = np.arange(first, first + shape_of(vectors)[0], dtype=np.uint64)
    return mix(rows ^ np.uint64(seed))


def shape_of(path: str) -> tuple[int, int]:
    """(rows, dim) of a .npy, from its header."""
    with open_read(path) as file:
        shape, _ = _header(file)
    return int(shape[0]), int(shape[1])


def read_array(path: str, first: int = 0, last: int | None = None) -> Array:
    """Rows first..last of a .npy: mapped where it is a local file, else read with one range."""
    if not is_url(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)[first:last]  # type: ignore[no-any-return]
    with open_read(path) as file:
        shape, dtype = _header(file)
        last = shape[0] if last is None else min(last, shape[0])
        row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        file.seek(file.tell() + first * row_bytes)
        data = file.read(max(0, last - first) * row_bytes)
    return np.frombuffer(data, dtype=dtype).reshape(-1, *shape[1:])


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran:
        raise ValueError("vectors must be stored row by row")
    return shape, dtype


def write_array(path: str, array: Array) -> FileEntry:
    """An array as .npy, whole or not at all; no checksum, it does not outlive the stage."""
    return write_blocks(path, array.shape, array.dtype, [array])


def write_blocks(path: str, shape: tuple[int, ...], dtype: npt.DTypeLike, blocks: Sequence[Array] | Any) -> FileEntry:
    """The same from blocks of rows, of which there need never be more than one in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with write_atomic(path) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=dtype).data)
    return FileEntry(path.rsplit("/", 1)[-1], shape[0], file_size(path) or 0, "")


class Parts:
    """Several .npy as one `VectorSource`, float16 or float32."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)

    @property
    def shape(self) -> tuple[int, int]:
        shapes = [shape_of(path) for path in self.paths]
        return sum(shape[0] for shape in shapes), max((shape[1] for shape in shapes), default=0)

    def blocks(self, rows: int) -> Iterator[tuple[int, Array]]:
        start = 0
        for path in self.paths:
            matrix = read_array(path)
            for first in range(0, len(matrix), rows):
                yield start + first, np.asarray(matrix[first : first + rows])
            start += len(matrix)

    def take(self, rows: npt.NDArray[np.int64]) -> Array:
        starts = np.cumsum([0, *(shape_of(path)[0] for path in self.paths)])
        taken = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        owner = np.searchsorted(starts, rows, side="right") - 1
        for index in np.unique(owner):
            mine = owner == index
            taken[mine] = read_array(self.paths[index])[rows[mine] - starts[index]]
        return taken


def remove(paths: Sequence[str]) -> None:
    """Deletes files that are no longer needed; those that are gone already are not missed."""
    for path in paths:
        if exists(path):
            filesystem, inner = url_to_fs(path)
            filesystem.rm_file(inner)
