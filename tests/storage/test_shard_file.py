"""A shard is the same bytes whatever way they take to the disk, and whoever hashes them."""

import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from storage.errors import StorageFull
from storage.samples import SampleWriter, read_samples
from storage.shard_file import PlainHasher

RANDOM = np.random.default_rng(0)
SAMPLES = {  # more than two buffers, one member larger than a buffer, one that ends a buffer almost to the byte
    f"key{number}": {"jpg": RANDOM.bytes(size)}
    for number, size in enumerate([700_000] * 6 + [9 << 20, 1, (4 << 20) - 5000, 0, 511, 512, 513, 100_000])
}


class Noting(PlainHasher):
    """Notes the members that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[bytes] = []
        self.largest = 0

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        super().update(data, members)
        assert len(data) % 512 == 0
        self.members += [bytes(data[start : start + size]) for start, size in members]
        self.largest = max(self.largest, len(data))


def written(path: str, *, past_cache: bool) -> tuple[SampleWriter, Noting]:
    hasher = Noting()
    with SampleWriter(path, hasher, past_cache=past_cache) as writer:
        places = {key: writer.add(key, members)["jpg"] for key, members in SAMPLES.items()}
    assert all(size == len(SAMPLES[key]["jpg"]) for key, (_, size) in places.items())
    return writer, hasher


@pytest.mark.parametrize("past_cache", [False, True])
def test_a_shard_holds_its_samples_and_tells_their_hasher(tmp_path: Path, past_cache: bool) -> None:
    writer, hasher = written(str(tmp_path / "s.tar"), past_cache=past_cache)
    data = (tmp_path / "s.tar").read_bytes()
    assert (writer.entry.bytes, writer.entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert hasher.members == [members["jpg"] for members in SAMPLES.values()]
    assert hasher.largest < 10 << 20
    assert dict(read_samples(str(tmp_path / "s.tar"))) == SAMPLES
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [f"{key}.jpg" for key in SAMPLES]


def test_remote_and_local_shards_are_the_same_bytes(tmp_path: Path) -> None:
    local, _ = written(str(tmp_path / "s.tar"), past_cache=True)
    remote, _ = written("memory://shards/s.tar", past_cache=True)
    assert local.entry == remote.entry


@pytest.mark.parametrize("taken", [0, 1, 4096, 4097])
def test_a_file_system_that_refuses_direct_writes_gets_them_by_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    usual, _ = written(str(tmp_path / "usual.tar"), past_cache=False)
    write, calls = os.write, []

    def refuses(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1 and not taken:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, bytes(data[:taken] if len(calls) == 1 else data))

    monkeypatch.setattr(os, "write", refuses)
    refused, _ = written(str(tmp_path / "refused.tar"), past_cache=True)
    assert calls
    assert refused.entry.sha256 == usual.entry.sha256
    assert (tmp_path / "refused.tar").read_bytes() == (tmp_path / "usual.tar").read_bytes()


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull, match="no space left while writing"):
        written(str(tmp_path / "s.tar"), past_cache=True)
    assert not list(tmp_path.iterdir())
