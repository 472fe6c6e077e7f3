"""A crawl file as one seekable stream of bytes, wherever it is: a server that stumbles costs seconds, not the file."""

import io
import logging
import random
import time
from collections.abc import Callable
from typing import IO, Any

import aiohttp

from storage.errors import UnreachableStorage, refusals
from storage.filesystem import is_url, open_read

_log = logging.getLogger("tasks")
_TRIES = 8
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 60.0
_BUFFER_BYTES = 1 << 20

Wait = Callable[[float], Any]


def open_crawl_file(path: str, *, wait: Wait = time.sleep) -> IO[bytes]:
    """A local file, or a remote one that is opened again where it broke off: up to 7 times in a row, waiting 0.5 s,
    1 s, 2 s ... at most a minute (times 0.5 to 1 by chance, so that a thousand readers do not come back together).

    Raises UnreachableStorage when it cannot be opened, or when a remote file still does not answer after all that.
    """
    if not is_url(path):
        return open_read(path)
    return io.BufferedReader(RemoteFile(path, wait), _BUFFER_BYTES)


def can_go_back(file: IO[bytes]) -> bool:
    """Whether a part of a file from `open_crawl_file` can be read again at the cost of that part, and not of all that
    stands before it: not from a server without byte ranges."""
    raw = getattr(file, "raw", None)
    return not isinstance(raw, RemoteFile) or raw.has_ranges


def _passing() -> tuple[type[Exception], ...]:
    """What a store says when it wants to be asked later ("SlowDown"), or when the connection broke."""
    return (UnreachableStorage, *refusals(), aiohttp.ClientError, TimeoutError, EOFError)


class RemoteFile(io.RawIOBase):
    """`readinto` and `seek` over any fsspec file, also over those that cannot seek (servers without byte ranges)."""

    def __init__(self, path: str, wait: Wait) -> None:
        self._path, self._wait = path, wait
        self._file = open_read(path)
        self._at = 0  # where the next byte is read
        self._file_at = 0  # where the open file stands

    @property
    def has_ranges(self) -> bool:
        """Whether the store can begin anywhere."""
        return bool(self._file.seekable())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a remote file may not be known")
        self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        for attempt in range(_TRIES):
            try:
                if attempt:
                    self._file.close()
                    self._file, self._file_at = open_read(self._path), 0
                self._catch_up()
                data = self._file.read(len(buffer))
                break
            except _passing() as error:
                if attempt == _TRIES - 1:
                    raise UnreachableStorage(
                        f"{self._path} broke off at byte {self._at} and does not go on after {_TRIES} tries: {error}. "
                        "Check the network, or fetch the file; run again to go on with this part."
                    ) from error
                seconds = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1)
                logging.getLogger("tasks").info(
                    "%s at byte %d: %s; again in %.1f s", self._path, self._at, error, seconds
                )
                self._wait(seconds)
        buffer[: len(data)] = data
        self._at += len(data)
        self._file_at = self._at
        return len(data)

    def _catch_up(self) -> None:
        """Bring the open file to where the reader is: by seeking, or by reading on (and anew, if it is too far)."""
        if self._file_at == self._at:
            return
        if self._file.seekable():
            self._file.seek(self._at)
        else:
            if self._file_at > self._at:
                self._file.close()
                self._file, self._file_at = open_read(self._path), 0
            while self._file_at < self._at:
                skipped = len(self._file.read(min(self._at - self._file_at, _BUFFER_BYTES)))
                if not skipped:
                    raise EOFError(f"the file now ends at byte {self._file_at}")
                self._file_at += skipped
        self._file_at = self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
