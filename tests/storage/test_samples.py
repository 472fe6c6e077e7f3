"""Tar headers are tarfile's to the byte, readers go on at exactly the next sample, damage is told and never passed."""

import dataclasses
import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import ChecksumMismatch, UnreachableStorage
from storage.range_reader import read_ranges
from storage.samples import INDEX_SCHEMA, Bookmark, SampleReader, SampleWriter, index_path
from storage.tables import write_table
from storage.tar_headers import NotATar, tar_header, tar_members

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=140)


@settings(max_examples=200, deadline=None)
@given(name=NAMES, size=st.one_of(st.integers(0, 10**6), st.integers(8**11 - 2, 8**11 + 2)))
def test_a_header_is_the_bytes_that_tarfile_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    assert tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT)


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(NAMES.map(lambda name: name.strip("/") or "x"), min_size=1, max_size=4),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    sizes=st.lists(st.integers(0, 1100), min_size=4, max_size=4),
)
def test_members_are_what_tarfile_reads_from_its_own_archives(names: list[str], form: int, sizes: list[int]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (name, size) in enumerate(zip(names, sizes, strict=False)):
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes([number + 1]) * size))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        wanted = [(m.name, m.offset, m.offset_data, m.size) for m in tar if m.isreg()]
    for with_data in (True, False):
        found = list(tar_members(io.BytesIO(buffer.getvalue()), "t.tar", with_data=with_data))
        assert [(m.name, m.start, m.offset, m.size) for m in found] == wanted
    assert [m.data for m in tar_members(buffer, "t.tar", with_data=True)] == [
        bytes([number + 1]) * size for number, (_, size) in enumerate(zip(names, sizes, strict=False))
    ]


SAMPLES = [(f"key{n}", {"jpg": bytes([n]) * (400 * n + 1), "json": b'{"n": %d}' % n}) for n in range(6)]


def _shards(folder: Path, *, index: bool, counts: tuple[int, ...] = (3, 0, 2, 1)) -> list[str]:
    """Some shards of SAMPLES in order, one of them empty, with or without an index."""
    paths, samples = [], iter(SAMPLES)
    for number, count in enumerate(counts):
        rows = []
        with SampleWriter(str(folder / f"s-{number}.tar")) as writer:
            for _, (key, members) in zip(range(count), samples, strict=False):
                start = writer.bytes_written
                offset, size = writer.add(key, members)["jpg"]
                sha256 = hashlib.sha256(members["jpg"]).hexdigest()
                told = hashlib.sha256(members["json"]).hexdigest()
                rows.append((key, "", "jpg", start, offset, size, sha256, told, sha256, 0))
        if index:
            columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in INDEX_SCHEMA]
            write_table(index_path(writer.path), pa.table(columns, schema=INDEX_SCHEMA))
        paths.append(writer.path)
    return paths


@pytest.mark.parametrize("index", [True, False])
def test_a_reader_killed_after_any_sample_goes_on_at_exactly_the_next(tmp_path: Path, index: bool) -> None:
    paths = _shards(tmp_path, index=index)
    whole = [(sample.key, dict(sample.members)) for sample in SampleReader(paths)]
    assert whole == SAMPLES
    for killed_after, sample in enumerate(SampleReader(paths), start=1):
        bookmark = Bookmark(**json.loads(json.dumps(dataclasses.asdict(sample.bookmark))))
        assert bookmark == pickle.loads(pickle.dumps(sample.bookmark)) == sample.bookmark
        again = [(later.key, dict(later.members)) for later in SampleReader(paths, bookmark)]
        assert again == SAMPLES[killed_after:]


def test_with_an_index_nothing_before_the_bookmark_is_read(tmp_path: Path) -> None:
    paths = _shards(tmp_path, index=True)
    bookmark = next(iter(SampleReader(paths))).bookmark
    data = bytearray(Path(paths[0]).read_bytes())
    data[:1024] = b"x" * 1024  # the first sample's headers are no more
    Path(paths[0]).write_bytes(data)
    assert [sample.key for sample in SampleReader(paths, bookmark)] == [key for key, _ in SAMPLES[1:]]
    with pytest.raises(NotATar, match=r"s-0\.tar is not a whole tar: at byte 0"):
        next(iter(SampleReader(paths)))


def test_a_bookmark_of_other_shards_is_refused(tmp_path: Path) -> None:
    paths = _shards(tmp_path, index=True)
    bookmark = list(SampleReader(paths))[-1].bookmark
    with pytest.raises(ValueError, match=r"number 3 is s-0\.tar here"):
        SampleReader(paths[::-1], bookmark)
    with pytest.raises(ValueError, match="not a place in 2 shards"):
        SampleReader(paths[:2], bookmark)
    with pytest.raises(ValueError, match="holds 3 samples"):
        list(SampleReader(paths, Bookmark(0, 4)))


def test_changed_bytes_pass_unseen_but_for_a_reader_that_checks(tmp_path: Path) -> None:
    paths = _shards(tmp_path, index=True)
    assert len(list(SampleReader(paths, check=True))) == 6
    data = bytearray(Path(paths[0]).read_bytes())
    place = data.index(bytes([2]) * 700)
    data[place + 100] = 77
    Path(paths[0]).write_bytes(data)
    assert len(list(SampleReader(paths))) == 6
    with pytest.raises(ChecksumMismatch, match=r"sample 2 \(key2\)"):
        list(SampleReader(paths, check=True))


def test_a_check_without_index_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnreachableStorage, match="no index"):
        list(SampleReader(_shards(tmp_path, index=False), check=True))


def test_a_tar_cut_anywhere_before_its_end_mark_is_an_error(tmp_path: Path) -> None:
    path = Path(_shards(tmp_path, index=False)[0])
    whole = path.read_bytes()
    members = list(tar_members(io.BytesIO(whole), "t", with_data=False))
    end = members[-1].offset + members[-1].size + -members[-1].size % 512
    for cut in range(0, end + 512, 100):
        path.write_bytes(whole[:cut])
        with pytest.raises(NotATar, match="not a whole tar"):
            list(SampleReader([str(path)]))


def test_a_damaged_header_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = Path(_shards(tmp_path, index=False)[0])
    whole = bytearray(path.read_bytes())
    second = list(tar_members(io.BytesIO(whole), "t", with_data=False))[1].start
    whole[second + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(NotATar, match=f"at byte {second} a header's checksum is wrong"):
        list(SampleReader([str(path)]))


def test_ranges_of_many_files_come_in_the_order_they_were_asked_for(tmp_path: Path) -> None:
    for number in range(200):  # more than stay open
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 50)
    wanted = [(number * 7 % 200, number % 40, number % 11) for number in range(600)]
    found = list(read_ranges([(str(tmp_path / f"{n}"), offset, size) for n, offset, size in wanted]))
    assert found == [bytes([n]) * size for n, _, size in wanted]
    urls = list(read_ranges([(f"file://{tmp_path}/{n}", offset, size) for n, offset, size in wanted[:50]]))
    assert urls == found[:50]


def test_a_range_beyond_a_file_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(UnreachableStorage, match="ends early: 3 bytes wanted at 4, 1 there"):
        list(read_ranges([(str(tmp_path / "a"), 4, 3)]))
    with pytest.raises(UnreachableStorage, match="missing"):
        list(read_ranges([(str(tmp_path / "missing"), 0, 1)]))
