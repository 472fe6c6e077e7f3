"""A shard's bytes on their way to the disk: gathered in one buffer, hashed there, written in large pieces."""

import fcntl
import hashlib
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Protocol

_BUFFER_BYTES = 4 << 20
_DISK_BLOCK_BYTES = 4096
_O_DIRECT = getattr(os, "O_DIRECT", 0)  # macOS and Windows have none


class ShardHasher(Protocol):
    """What takes the hash of a shard as it is written; it may take those of its members on the way."""

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        """The shard's next bytes, a multiple of 512, and where members lie in them: (offset, size), in order."""

    def hexdigest(self) -> str:
        """The shard's SHA-256 so far."""


class PlainHasher:
    """The shard's hash alone."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class ShardFile:
    """An open file that is only appended to. `position` counts what was added, `finish` writes what still waits.

    `past_cache`: whole buffers go to a local disk directly, where its file system takes that. The page cache costs a
    copy, and a page of memory for every page of a file that nobody reads soon: a crawl of terabytes would drive all
    else out of it. Memory: 4 MiB, or one member that is larger.
    """

    def __init__(self, file: IO[bytes], hasher: ShardHasher, *, past_cache: bool = False) -> None:
        self._file, self._hasher = file, hasher
        self.position = 0
        self._buffer = _new_buffer(_BUFFER_BYTES)
        self._fill = self._hashed = self._begun = 0
        self._members: list[tuple[int, int]] = []
        self._direct = past_cache and self._set_direct(True)

    def add(self, header: bytes, data: bytes, padding: bytes) -> None:
        """Append a member, multiples of 512 bytes together."""
        size = len(header) + len(data) + len(padding)
        if self._fill + size > len(self._buffer):
            self.flush()
            self._make_room(self._fill + size)
        buffer, start = self._buffer, self._fill
        body = start + len(header)
        end = body + len(data)
        buffer[start:body] = header
        buffer[body:end] = data
        buffer[end : end + len(padding)] = padding
        self._members.append((body - self._hashed, len(data)))
        self._fill += size
        self.position += size

    def end(self, zeros: int) -> None:
        """Append the zeros that end a tar, and write everything."""
        self.flush()
        self._make_room(self._fill + zeros)
        self._buffer[self._fill : self._fill + zeros] = bytes(zeros)
        self._fill += zeros
        self.position += zeros
        self.flush()
        if self._direct:  # what is left is no whole block
            self._direct = self._set_direct(False)
        self._write(self._fill)

    def flush(self) -> None:
        """Hash what is new, and write what fills whole blocks of the disk; the rest of a block waits in the buffer."""
        with memoryview(self._buffer) as whole, whole[self._hashed : self._fill] as new:
            self._hasher.update(new, self._members)
        self._members, self._hashed = [], self._fill
        self._write(self._fill // _DISK_BLOCK_BYTES * _DISK_BLOCK_BYTES)

    def _write(self, size: int) -> None:
        with memoryview(self._buffer) as whole:
            if self._direct:
                self._write_directly(whole[:size])
            else:
                self._file.write(whole[:size])
        rest = self._fill - size
        self._buffer[:rest] = self._buffer[size : self._fill]
        self._fill = self._hashed = rest
        if not self._direct:
            self._begin_writeback()

    def _write_directly(self, data: memoryview) -> None:
        """A file system may take the flag and refuse the write, or take a part: then the rest goes by the cache."""
        written = 0
        while written < len(data):
            try:
                written += os.write(self._file.fileno(), data[written:])
            except OSError:
                if not self._direct:
                    raise
                self._direct = self._set_direct(False)
            if written % _DISK_BLOCK_BYTES and self._direct:
                self._direct = self._set_direct(False)

    def _set_direct(self, wanted: bool) -> bool:
        """Whether the file is written past the cache now."""
        try:
            descriptor = self._file.fileno()
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | _O_DIRECT if wanted else flags & ~_O_DIRECT)
        except (OSError, AttributeError):  # a remote file, or a file system without direct writing
            return False
        return wanted and bool(_O_DIRECT)

    def _begin_writeback(self) -> None:
        """Have the kernel begin to write to disk, so that the sync at the end waits for less. A hint: nothing happens
        for remote files, and where a system has no such call."""
        begun, self._begun = self._begun, self.position - self._fill
        with suppress(OSError, AttributeError, TypeError):
            # Linux starts to write what is dirty in the range, without waiting; what is dirty stays in the cache.
            os.posix_fadvise(self._file.fileno(), begun, self._begun - begun, os.POSIX_FADV_DONTNEED)

    def _make_room(self, size: int) -> None:
        """A buffer of at least this size, and no larger a one than is needed for it."""
        wanted = max(_BUFFER_BYTES, -(-size // _DISK_BLOCK_BYTES) * _DISK_BLOCK_BYTES)
        if wanted != len(self._buffer):
            larger = _new_buffer(wanted)
            larger[: self._fill] = self._buffer[: self._fill]
            self._buffer = larger


def _new_buffer(size: int) -> mmap.mmap:
    """Begins at a page, as direct writing wants; of large pages where there are some, of which fewer are to be held."""
    buffer = mmap.mmap(-1, size)
    with suppress(OSError, AttributeError):  # Linux alone has such advice, and not every kernel such pages
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer
