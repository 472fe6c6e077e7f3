"""WebDataset tar shards: an atomic, byte-deterministic writer that knows offsets and checksums; the index beside them.

The reader is in `storage.sample_reader`.
"""

import posixpath
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from storage.filesystem import write_atomic
from storage.manifest import FileEntry
from storage.sample_reader import INDEX_SCHEMA, Bookmark, Sample, SampleReader, index_path, read_samples
from storage.shard_file import PlainHasher, ShardFile, ShardHasher
from storage.tar_headers import BLOCK_BYTES, RECORD_BYTES, tar_header

__all__ = [
    "INDEX_SCHEMA", "Bookmark", "Sample", "SampleReader", "SampleWriter", "index_path", "read_samples",
]  # fmt: skip

_PADDING = [b"\0" * (-size % BLOCK_BYTES) for size in range(BLOCK_BYTES)]


class SampleWriter:
    """Writes one tar shard; it appears at `path`, whole, when the block ends well.

    Equal samples in equal order give equal bytes: no times, owners or modes but fixed ones. Members of a sample stand
    together and share the key, as WebDataset wants. Keys must not hold a dot. Memory: 4 MiB, or one larger member.
    `hasher` takes the shard's SHA-256 instead of `hashlib`; `past_cache` is for shards that are not read soon.
    """

    def __init__(self, path: str, hasher: ShardHasher | None = None, *, past_cache: bool = False) -> None:
        self.path, self.num_samples = path, 0
        self._hasher, self._past_cache = hasher or PlainHasher(), past_cache
        self._stack = ExitStack()
        self._entry: FileEntry | None = None
        self._finished = False

    def __enter__(self) -> Self:
        file = self._stack.enter_context(write_atomic(self.path))
        self._out = ShardFile(file, self._hasher, past_cache=self._past_cache)
        return self

    def add(self, key: str, members: Mapping[str, bytes]) -> dict[str, tuple[int, int]]:
        """Append one sample; returns where each member's bytes lie: extension → (offset, size)."""
        if not members or ("." in key and "." in posixpath.basename(key)):
            raise ValueError(f"a sample needs a key without a dot and at least one member: {key!r}, {list(members)}")
        places = {}
        for extension, data in members.items():
            size = len(data)
            header = tar_header(f"{key}.{extension}", size)
            places[extension] = (self._out.position + len(header), size)
            self._out.add(header, data, _PADDING[size % BLOCK_BYTES])
        self.num_samples += 1
        return places

    @property
    def bytes_written(self) -> int:
        """Bytes so far, headers included: where the next sample starts."""
        return self._out.position

    def finish(self) -> None:
        """Write the end of the tar, which `hasher` sees: what is to be asked of it before the shard appears."""
        if not self._finished:
            end = 2 * BLOCK_BYTES
            self._out.end(end + -(self._out.position + end) % RECORD_BYTES)
            self._finished = True

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
            self.finish()
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            name = posixpath.basename(self.path)
            self._entry = FileEntry(name, self.num_samples, self._out.position, self._hasher.hexdigest())
