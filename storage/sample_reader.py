"""Samples of WebDataset tars, in order, with a bookmark after each: a killed reader goes on at exactly the next one."""

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ChecksumMismatch, UnreachableStorage
from storage.filesystem import exists, open_read
from storage.tar_headers import Member, tar_members

INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the sample's key
        ("shard", pa.string()),  # the tar that holds it
        ("extension", pa.string()),  # of the image
        ("start", pa.int64()),  # of the sample's first header in the tar: where a reader goes on
        ("offset", pa.int64()),  # of the image's bytes in the tar
        ("bytes", pa.int64()),
        ("sha256", pa.string()),  # of these bytes
        ("json_sha256", pa.string()),  # of the JSON beside them
        ("input_sha256", pa.string()),  # of the image this one was made of: itself, or what a bounded copy is of
        ("order", pa.uint64()),  # its place in the seeded permutation
    ]
)
"""A shard's index: row n is sample n. Lies beside the tar under the same name, as .parquet."""


@dataclass(frozen=True)
class Bookmark:
    """Where to go on: the next sample, by the number of its shard and its own number in it.

    Plain values, so that it pickles and goes through JSON: `Bookmark(**json.loads(text))` of `dataclasses.asdict`.
    """

    shard: int = 0
    sample: int = 0
    file: str | None = None
    """Name of that shard: another list of shards is refused instead of read from a wrong place."""


@dataclass(frozen=True)
class Sample:
    """One sample, {extension: bytes}, and the bookmark of the one after it."""

    key: str
    members: Mapping[str, bytes]
    bookmark: Bookmark


def index_path(tar: str) -> str:
    """Where a shard's index lies, if it has one."""
    return tar.removesuffix(".tar") + ".parquet"


class SampleReader:
    """The samples of some shards, one after the other, from a bookmark on.

    It goes to the bookmark by the shard's index; without one by the headers before it, reading no image. `check`
    compares every image and JSON with the index's SHA-256. Iterating again starts again at `start`.
    Memory: one sample, and 8 bytes per sample of the shard it starts in (120 with `check`).

    Raises UnreachableStorage for a tar that is missing, cut or none, ChecksumMismatch for bytes that are not the
    index's, ValueError for a bookmark that is not of these shards.
    """

    def __init__(self, paths: Sequence[str], start: Bookmark = Bookmark(), *, check: bool = False) -> None:
        self.paths, self.start, self.check = list(paths), start, check
        if not 0 <= start.shard <= len(self.paths) or start.sample < 0:
            raise ValueError(f"{start} is not a place in {len(self.paths)} shards. Start anew, or give all shards.")
        here = posixpath.basename(self.paths[start.shard]) if start.shard < len(self.paths) else None
        if start.file is not None and start.file != here:
            raise ValueError(f"{start} is of other shards: number {start.shard} is {here} here. Give the same list.")

    def __iter__(self) -> Iterator[Sample]:
        for shard in range(self.start.shard, len(self.paths)):
            yield from self._of_shard(shard, self.start.sample if shard == self.start.shard else 0)

    def _of_shard(self, shard: int, first: int) -> Iterator[Sample]:
        path = self.paths[shard]
        start = _start_of(path, first) if first else 0
        if start is None:
            return
        promised = _promised(path) if self.check else None
        with open_read(path) as file:
            samples = groupby(tar_members(file, path, start=start, with_data=True), key=_key)
            for number, (key, members) in enumerate(samples, start=first):
                sample = {_extension(member): member.data or b"" for member in members}
                if promised is not None:
                    _compare(path, number, key, sample, promised)
                yield Sample(key, sample, Bookmark(shard, number + 1, posixpath.basename(path)))


def read_samples(path: str, start: int = 0) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of a tar shard from sample number `start` on, streamed.

    Raises UnreachableStorage when the file is missing, is no tar or is cut, ValueError for a start beyond its end.
    """
    for sample in SampleReader([path], Bookmark(0, start)):
        yield sample.key, dict(sample.members)


def _key(member: Member) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _extension(member: Member) -> str:
    return member.name.rpartition("/")[2].partition(".")[2]


def _index(path: str, columns: Sequence[str]) -> pa.Table | None:
    """Columns of a shard's index; None when it has none (the table beside a download's tar is something else)."""
    if not exists(index_path(path)):
        return None
    with open_read(index_path(path)) as file:
        table = pq.ParquetFile(file)
        return table.read(list(columns)) if set(INDEX_SCHEMA.names) <= set(table.schema_arrow.names) else None


def _start_of(path: str, number: int) -> int | None:
    """Byte at which sample `number` begins; None right after the last one."""
    if (index := _index(path, ["start"])) is not None:
        starts: Sequence[int] = index["start"].to_pylist()
    else:
        with open_read(path) as file:
            members = groupby(tar_members(file, path, with_data=False), key=_key)
            starts = [next(group).start for _, group in members]
    if number > len(starts):
        raise ValueError(f"{path} holds {len(starts)} samples, none to go on from at {number}. Is it the same shard?")
    return starts[number] if number < len(starts) else None


def _promised(path: str) -> list[dict[str, Any]]:
    index = _index(path, ["id", "extension", "sha256", "json_sha256"])
    if index is None:
        raise UnreachableStorage(
            f"{path} cannot be checked: it has no index {index_path(path)}. Read without check, or pack again."
        )
    return index.to_pylist()


def _compare(path: str, number: int, key: str, sample: Mapping[str, bytes], promised: list[dict[str, Any]]) -> None:
    if number < len(promised) and key == promised[number]["id"]:
        row = promised[number]
        pairs = ((row["extension"], row["sha256"]), ("json", row["json_sha256"]))
        wrong = any(hashlib.sha256(sample.get(name, b"")).hexdigest() != wanted for name, wanted in pairs)
    else:
        wrong = True
    if wrong:
        raise ChecksumMismatch(
            f"sample {number} ({key}) of {path} is not what its index promises. Fetch or pack the shard again."
        )
