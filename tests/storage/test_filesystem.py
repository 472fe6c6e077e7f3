"""Files appear whole or not at all, and every refusal says what, where and what to do."""

import errno
import hashlib
from pathlib import Path

import fsspec
import pytest

from storage.errors import ChecksumMismatch, StorageFull, UnreachableStorage
from storage.filesystem import (
    content_key,
    fetch_verified,
    file_sizes,
    join,
    link_or_copy,
    list_files,
    read_bytes,
    write_atomic,
    write_bytes,
)


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with pytest.raises(RuntimeError, match="stop"), write_atomic(str(target)) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert list(target.parent.iterdir()) == []
    write_bytes(str(target), b"whole")
    assert target.read_bytes() == b"whole"


def test_an_existing_file_survives_a_failed_rewrite(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    write_bytes(str(target), b"old")
    with pytest.raises(RuntimeError), write_atomic(str(target)) as file:
        file.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    with pytest.raises(StorageFull, match=r"no space left while writing .*file\.bin.*Free space"):
        with write_atomic(str(target)):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_kernels_own_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="no space left"), write_atomic(str(tmp_path / "x")):
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/nowhere/at/all.bin", "nosuchprotocol://bucket/key"])
def test_an_unreachable_path_names_itself(path: str) -> None:
    with pytest.raises(UnreachableStorage, match=path.split("/")[-1].replace(".", r"\.") + r"|nosuchprotocol"):
        read_bytes(path)


def test_a_range_that_ends_early_is_an_error(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / "f"), b"0123456789")
    assert read_bytes(str(tmp_path / "f"), 2, 3) == b"234"
    with pytest.raises(UnreachableStorage, match="ends early"):
        read_bytes(str(tmp_path / "f"), 8, 3)


def test_memory_and_local_storage_behave_alike() -> None:
    write_bytes("memory://bucket/a/b.bin", b"data")
    assert read_bytes("memory://bucket/a/b.bin") == b"data"
    assert list_files("memory://bucket/a/*.bin") == ["memory:///bucket/a/b.bin"]
    assert file_sizes("memory://bucket/a") == {"b.bin": 4}
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_fetched_files_are_trusted_by_checksum_only(tmp_path: Path) -> None:
    data = b"weights"
    good = hashlib.sha256(data).hexdigest()
    write_bytes("memory://weights/w.bin", data)
    cache = str(tmp_path / "cache")
    local = fetch_verified("memory://weights/w.bin", good, cache)
    assert Path(local).read_bytes() == data
    with pytest.raises(ChecksumMismatch, match="expected 0000"):
        fetch_verified("memory://weights/w.bin", "0" * 64, cache)
    assert [p for p in Path(cache).rglob("*") if p.is_file()] == [Path(local)]
    Path(local).write_bytes(b"tampered")
    with pytest.raises(ChecksumMismatch):
        fetch_verified("memory://weights/w.bin", good, cache)
    fsspec.filesystem("memory").rm("/weights", recursive=True)


def test_content_keys_follow_content_not_time(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"same")
    b.write_bytes(b"same")
    assert content_key(str(a)) == content_key(str(b))
    b.write_bytes(b"samf")
    assert content_key(str(a)) != content_key(str(b))


def test_join_starts_anew_at_absolute_paths_and_urls() -> None:
    assert join("/root", "a", "b") == "/root/a/b"
    assert join("/root", "/abs", "b") == "/abs/b"
    assert join("/root", "s3://bucket/x") == "s3://bucket/x"


def test_a_linked_file_survives_that_the_first_one_is_replaced_or_removed(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a" / "first"), str(tmp_path / "b" / "second")
    write_bytes(first, b"one")
    link_or_copy(first, second)
    link_or_copy(first, second)  # again: the same
    assert Path(first).stat().st_ino == Path(second).stat().st_ino
    write_bytes(first, b"two")
    assert read_bytes(second) == b"one"
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["second"]


def test_where_no_link_can_be_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", no_links)
    write_bytes(str(tmp_path / "first"), b"one")
    link_or_copy(str(tmp_path / "first"), str(tmp_path / "second"))
    assert read_bytes(str(tmp_path / "second")) == b"one"


def test_a_missing_file_cannot_be_taken_over(tmp_path: Path) -> None:
    with pytest.raises(UnreachableStorage, match="first"):
        link_or_copy(str(tmp_path / "first"), str(tmp_path / "second"))
    assert not list(tmp_path.iterdir())
