"""Ranges of a finished file overwritten, nothing moved: what must no longer be readable where it lies."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from storage.filesystem import file_sha256, open_read, write_atomic

_COPY_BYTES = 1 << 20

Place = tuple[int, int]
"""(offset, bytes)."""


def overwrite(path: str, places: Sequence[Place], content: Callable[[Place], bytes]) -> tuple[int, str]:
    """The file again with `content(place)` at every place, in place of the old one; nothing is written if it is there
    already. Returns the file's (bytes, hex SHA-256).

    Killed anywhere, the file is the old or the new one. Places must not overlap. Memory: 1 MiB and one place. Raises
    ValueError for a content that is not as long as its place, or a place that is not in the file.
    """
    places = sorted(places)
    with open_read(path) as old:
        if all(_read(old, place) == content(place) for place in places):
            return file_sha256(path)
        digest, size = hashlib.sha256(), 0
        with write_atomic(path) as new:
            for block in _blocks(old, path, places, content):
                digest.update(block)
                new.write(block)
                size += len(block)
    return size, digest.hexdigest()


def _blocks(old: IO[bytes], path: str, places: Sequence[Place], content: Callable[[Place], bytes]) -> Iterator[bytes]:
    position = 0
    for place in places:
        yield from _copied(old, position, place[0])
        data = content(place)
        if len(data) != place[1] or place[0] < position:
            raise ValueError(f"{path}: {len(data)} bytes cannot take the place {place}, after byte {position}")
        yield data
        position = sum(place)
    yield from _copied(old, position, None)


def _copied(file: IO[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """The bytes from `start` to `end`, or to the file's."""
    file.seek(start)
    while end is None or start < end:
        block = file.read(_COPY_BYTES if end is None else min(_COPY_BYTES, end - start))
        if not block:
            if end is not None:
                raise ValueError(f"{file.name}: ends at byte {start}, before the place at byte {end}")
            return
        start += len(block)
        yield block


def _read(file: IO[bytes], place: Place) -> bytes:
    file.seek(place[0])
    return file.read(place[1])
