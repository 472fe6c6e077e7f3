"""Many small ranges of many files, read ahead: what packing does with the images of a shuffled shard."""

import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice

from storage.errors import UnreachableStorage
from storage.filesystem import is_url, read_bytes

Range = tuple[str, int, int]
"""Path or URL, offset, length in bytes."""

_MAX_OPEN = 128
_LOCAL_AHEAD = 64
_REMOTE_AHEAD = 32


def read_ranges(ranges: Sequence[Range]) -> Iterator[bytes]:
    """The bytes of each range, in order.

    Local files stay open (at most 128 at a time), and the kernel is told of the next 64 ranges, so that a cold disk
    works on many at once. Of remote files 32 ranges are on their way at a time: memory 32 ranges.
    Raises UnreachableStorage for a missing file or one that ends early.
    """
    with ExitStack() as stack:
        local = stack.enter_context(_local_files())
        pool: ThreadPoolExecutor | None = None
        waiting: deque[tuple[Range, Future[bytes] | None]] = deque()
        coming = iter(ranges)
        while True:
            ahead = _REMOTE_AHEAD if pool else _LOCAL_AHEAD
            for one in islice(coming, max(0, ahead - len(waiting))):
                if is_url(one[0]):
                    pool = pool or stack.enter_context(ThreadPoolExecutor(_REMOTE_AHEAD))
                    waiting.append((one, pool.submit(read_bytes, *one)))
                else:
                    local.announce(*one)
                    waiting.append((one, None))
            if not waiting:
                return
            one, future = waiting.popleft()
            yield local.read(*one) if future is None else future.result()


class _LocalFiles:
    """Descriptors of the files last used."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def announce(self, path: str, offset: int, length: int) -> None:
        """Tell the kernel that this range will be read soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor(path), offset, length, os.POSIX_FADV_WILLNEED)

    def read(self, path: str, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor(path), length, offset)
        while len(data) < length and (more := os.pread(self._descriptor(path), length - len(data), offset + len(data))):
            data += more
        if len(data) != length:
            raise UnreachableStorage(
                f"{path} ends early: {length} bytes wanted at {offset}, {len(data)} there. "
                "The file was cut or replaced; delete the stage's folder and run again."
            )
        return data

    def _descriptor(self, path: str) -> int:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
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
