"""WebDataset tar shards: an atomic, byte-deterministic writer that knows offsets and checksums, and a plain reader."""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Self

from storage.errors import UnreachableStorage
from storage.filesystem import open_read, write_atomic
from storage.manifest import FileEntry

_BLOCK = tarfile.BLOCKSIZE
_RECORD = tarfile.RECORDSIZE


class _Hashed:
    """A file that counts and hashes what goes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.position, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.position += len(data)


class SampleWriter:
    """Writes one tar shard; it appears at `path`, whole, when the block ends well.

    Equal samples in equal order give equal bytes: no times, owners or modes but fixed ones. Members of a sample stand
    together and share the key, as WebDataset wants. Keys must not hold a dot.
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
        if "." in posixpath.basename(key) or not members:
            raise ValueError(f"a sample needs a key without a dot and at least one member: {key!r}, {list(members)}")
        places = {}
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size, info.mode, info.mtime = len(data), 0o644, 0
            self._out.write(info.tobuf(tarfile.PAX_FORMAT))
            places[extension] = (self._out.position, len(data))
            self._out.write(data)
            self._out.write(b"\0" * (-len(data) % _BLOCK))
        self.num_samples += 1
        return places

    @property
    def bytes_written(self) -> int:
        """Bytes so far, headers included."""
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
            self._out.write(b"\0" * (2 * _BLOCK))
            self._out.write(b"\0" * (-self._out.position % _RECORD))
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            name = posixpath.basename(self.path)
            self._entry = FileEntry(name, self.num_samples, self._out.position, self._out.digest.hexdigest())


def read_samples(path: str, start: int = 0) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of a tar shard from sample number `start` on, streamed.

    Raises UnreachableStorage when the file is missing, is no tar or is cut.
    """
    for number, (key, sample) in enumerate(_all_samples(path)):
        if number >= start:
            yield key, sample


def _all_samples(path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, sample = "", dict[str, bytes]()
    try:
        with open_read(path) as file, tarfile.open(fileobj=(stream := _counted(file)), mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member)
                if content is None:
                    continue
                name, _, extension = posixpath.basename(member.name).partition(".")
                here = posixpath.join(posixpath.dirname(member.name), name)
                if sample and here != key:
                    yield key, sample
                    sample = {}
                key, sample[extension] = here, content.read()
            if stream.total < tar.offset + _BLOCK:  # tarfile takes a cut between members for the end
                raise tarfile.ReadError("it ends without its end mark")
    except tarfile.TarError as error:
        raise UnreachableStorage(f"{path} is not a whole tar: {error}. Write or fetch it again.") from error
    if sample:
        yield key, sample


class _Counted:
    """A file for tarfile's stream mode that counts the bytes it gave."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.total = file, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.total += len(data)
        return data


def _counted(file: IO[bytes]) -> Any:
    return _Counted(file)  # tarfile's stream mode calls `read` alone; its type stubs want a whole file
