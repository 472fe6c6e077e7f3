"""WebDataset tar shards: an atomic, byte-deterministic writer that knows offsets and checksums; the index beside them.

The reader is in `storage.sample_reader`.
"""

import hashlib
import posixpath
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

from storage.filesystem import begin_writeback, write_atomic
from storage.manifest import FileEntry
from storage.sample_reader import INDEX_SCHEMA, Bookmark, Sample, SampleReader, index_path, read_samples
from storage.tar_headers import BLOCK_BYTES, RECORD_BYTES, tar_header

__all__ = [
    "INDEX_SCHEMA", "Bookmark", "Sample", "SampleReader", "SampleWriter", "index_path", "read_samples",
]  # fmt: skip

_FLUSH_BYTES = 1 << 20
_WRITEBACK_BYTES = 1 << 23
_PADDING = [b"\0" * (-size % BLOCK_BYTES) for size in range(BLOCK_BYTES)]


class _Hashed:
    """A file that counts and hashes what goes through it, a MiB at a time: calls cost more than small members do."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.position, self.digest = file, 0, hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = self._begun = 0

    def write(self, *parts: bytes) -> None:
        size = sum(map(len, parts))
        self._waiting.extend(parts)
        self._waiting_bytes += size
        self.position += size
        if self._waiting_bytes >= _FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        data = b"".join(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self.digest.update(data)  # lets other threads run, as `write` does
        self.file.write(data)
        if self.position - self._begun >= _WRITEBACK_BYTES:
            begin_writeback(self.file, self._begun, self.position - self._begun)
            self._begun = self.position


class SampleWriter:
    """Writes one tar shard; it appears at `path`, whole, when the block ends well.

    Equal samples in equal order give equal bytes: no times, owners or modes but fixed ones. Members of a sample stand
    together and share the key, as WebDataset wants. Keys must not hold a dot. Memory: 1 MiB and one sample.
    """

    def __init__(self, path: str) -> None:
        self.path, self.num_samples = path, 0
        self._stack = ExitStack()
        self._entry: FileEntry | None = None

    def __enter__(self) -> Self:
        self._out = _Hashed(self._stack.enter_context(write_atomic(self.path)))
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, tuple[int, int]]:
        """Append one sample; returns where each member's bytes lie: extension → (offset, size)."""
        if not members or ("." in key and "." in posixpath.basename(key)):
            raise ValueError(f"a sample needs a key without a dot and at least one member: {key!r}, {list(members)}")
        places, parts, position = {}, list[bytes](), self._out.position
        for extension, data in members.items():
            size = len(data)
            header = tar_header(f"{key}.{extension}", size)
            places[extension] = (position + len(header), size)
            padding = _PADDING[size % BLOCK_BYTES]
            parts += (header, data, padding)
            position += len(header) + size + len(padding)
        self._out.write(*parts)
        self.num_samples += 1
        return places

    @property
    def bytes_written(self) -> int:
        """Bytes so far, headers included: where the next sample starts."""
        return self._out.position

    @property
    def entry(self) -> FileEntry:
        """The finished shard's entry; only after the block."""
        if self._entry is None:
            raise ValueError(f"{self.path} is not finished: read `entry` after the with block")
        return self._entry

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            end = 2 * BLOCK_BYTES
            self._out.write(b"\0" * (end + -(self._out.position + end) % RECORD_BYTES))
            self._out.flush()
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            name = posixpath.basename(self.path)
            self._entry = FileEntry(name, self.num_samples, self._out.position, self._out.digest.hexdigest())
