"""Many small ranges of many files, read ahead: what packing does with the images of a shuffled shard."""

import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

from storage.errors import UnreachableStorage
from storage.filesystem import is_url, read_bytes

Range = tuple[str, int, int]
"""Path or URL, offset, length in bytes."""

_MAX_OPEN = 128
_AHEAD = 32


def read_ranges(ranges: Sequence[Range]) -> Iterator[bytes]:
    """The bytes of each range, in order.

    Local files stay open (at most 128 at a time), and the kernel is told of the next ranges, 32 to 64 of them, so that
    a cold disk works on many at once. Of remote files 32 ranges are on their way at a time: memory 32 ranges.
    Raises UnreachableStorage for a missing file or one that ends early.
    """
    if any(is_url(path) for path, _, _ in ranges):
        return _read_remote(ranges)
    return _read_local(ranges)


def _read_local(ranges: Sequence[Range]) -> Iterator[bytes]:
    with _local_files() as files:
        for start in range(0, len(ranges), _AHEAD):
            for one in ranges[start + (_AHEAD if start else 0) : start + 2 * _AHEAD]:
                files.announce(*one)
            for one in ranges[start : start + _AHEAD]:
                yield files.read(*one)


def _read_remote(ranges: Sequence[Range]) -> Iterator[bytes]:
    coming = iter(ranges)
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting = deque(pool.submit(read_bytes, *one) for one in islice(coming, _AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read_bytes, *one) for one in islice(coming, 1))


class _LocalFiles:
    """Descriptors of the files last used."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def announce(self, path: str, offset: int, length: int) -> None:
        """Tell the kernel that this range will be read soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor(path), offset, length, os.POSIX_FADV_WILLNEED)

    def read(self, path: str, offset: int, length: int) -> bytes:
        descriptor = self._descriptor(path)
        data = os.pread(descriptor, length, offset)
        while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
            data += more
        if len(data) != length:
            raise UnreachableStorage(
                f"{path} ends early: {length} bytes wanted at {offset}, {len(data)} there. "
                "The file was cut or replaced; delete the stage's folder and run again."
            )
        return data

    def _descriptor(self, path: str) -> int:
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        try:
            found = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise UnreachableStorage(
                f"cannot reach {path}: {error.strerror}. Restore the file, or delete the stage's folder and run again."
            ) from error
        self._open[path] = found
        if len(self._open) > _MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return found

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


@contextmanager
def _local_files() -> Iterator[_LocalFiles]:
    files = _LocalFiles()
    try:
        yield files
    finally:
        files.close()
