"""Files that parts of the copy graph leave for one another, gone once it is published.

A bucket file is one file of many small lists: where each bucket's records begin (int64), then the records. A task
that wants one bucket of many files reads two numbers and one range of each: no file per pair of tasks is needed.
"""

import dataclasses
import hashlib
import io
import json
import posixpath
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from fsspec.core import url_to_fs

from storage.filesystem import file_sizes, is_url, join, read_bytes, write_atomic, write_bytes
from storage.manifest import FileEntry
from tasks.stage import Outcome, Stage

Array = npt.NDArray[Any]
_PREFIX = "scratch-"


class Files(NamedTuple):
    """What the parts of one step left: `prefix`-00000 and so on."""

    prefix: str
    num: int

    def path(self, number: int, extension: str) -> str:
        """Path of one part's file."""
        return f"{self.prefix}-{number:05d}{extension}"

    def paths(self, extension: str) -> list[str]:
        """Paths of all parts' files."""
        return [self.path(number, extension) for number in range(self.num)]


def scratch_map(
    stage: Stage, name: str, function: Callable[..., Outcome], parts: Sequence[Any], **plain: Any
) -> tuple[list[Outcome], Files]:
    """`stage.map` for a step whose files are not published.

    The files' names hold a hash of what the step is to do: a run that goes on with another cut into tasks (more memory,
    an earlier graph to start from) takes nothing for done that was another task.
    """
    key = hashlib.sha256(json.dumps([name, parts, plain]).encode()).hexdigest()[:10]
    prefix = f"{_PREFIX}{name}-{key}"
    return stage.map(function, parts, prefix=prefix, **plain), Files(stage.path(prefix), len(parts))


def sweep(stage: Stage) -> None:
    """Delete the files of all steps."""
    for name in file_sizes(stage.directory):
        if name.startswith(_PREFIX):
            filesystem, inner = url_to_fs(join(stage.directory, name))
            filesystem.rm_file(inner)


def scratch_entry(path: str, rows: int, size: int) -> FileEntry:
    """Entry of a file that is never published: its size says whether it is whole, a checksum would only cost time."""
    return FileEntry(posixpath.basename(path), rows, size, "")


def save_array(path: str, array: Array) -> FileEntry:
    """An array as .npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())
    return scratch_entry(path, len(array), buffer.tell())


def load_array(path: str) -> Array:
    """An array of `save_array`: mapped where the file is local, read elsewhere."""
    if is_url(path):
        return np.asarray(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))
    return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def write_buckets(path: str, sizes: npt.NDArray[np.integer], blocks: Iterable[Array]) -> FileEntry:
    """A bucket file; `blocks` are the records of all buckets, one bucket after the other, `sizes` their numbers."""
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    num_bytes = offsets.nbytes
    with write_atomic(path) as file:
        file.write(offsets.tobytes())
        for block in blocks:
            file.write(np.ascontiguousarray(block).tobytes())
            num_bytes += block.nbytes
    return scratch_entry(path, int(offsets[-1]), num_bytes)


def bucket_size(path: str, bucket: int) -> int:
    """How many records one bucket of a file has."""
    first, last = _bounds(path, bucket)
    return last - first


def read_bucket(
    path: str, bucket: int, *, num_buckets: int, dtype: np.dtype[Any], start: int = 0, stop: int | None = None
) -> Array:
    """Records start <= i < stop of one bucket of a file of `num_buckets`."""
    first, last = _bounds(path, bucket)
    low, high = first + start, last if stop is None else min(first + stop, last)
    if low >= high:
        return np.zeros(0, dtype=dtype)
    head = 8 * (num_buckets + 1)
    data = read_bytes(path, head + low * dtype.itemsize, (high - low) * dtype.itemsize)
    return np.frombuffer(data, dtype=dtype)


def _bounds(path: str, bucket: int) -> tuple[int, int]:
    first, last = np.frombuffer(read_bytes(path, 8 * bucket, 16), dtype=np.int64).tolist()
    return first, last


def whole(rows: int, files: Sequence[FileEntry] = (), **facts: Any) -> Outcome:
    """The outcome of a part that drops nothing."""
    return dataclasses.replace(Outcome(rows, rows), files=list(files), facts=facts)
