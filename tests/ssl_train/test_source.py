import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_train.data import source, tar_index, tars
from ssl_train.data.parquet import ParquetImages
from ssl_train.data.settings import Data
from ssl_train.data.source import BLOCK_IMAGES, EncodedImage, FolderImages, Images, split_evenly
from ssl_train.data.tars import TarImages
from ssl_train.errors import DataError
from storage.samples import INDEX_SCHEMA, SampleWriter, index_path


def all_of(images: Images) -> list[EncodedImage]:
    return list(images.read(range(len(images))))


def content(number: int, image: int) -> bytes:
    return f"image {number} {image}".encode()


def write_tars(folder: str, counts: Sequence[int], *, indexed: bool = False) -> list[str]:
    paths = []
    for number, count in enumerate(counts):
        path = f"{folder}/part-{number:05d}.tar"
        rows = []
        with SampleWriter(path) as writer:
            for image in range(count):
                places = writer.add(f"{number}-{image}", {"jpg": content(number, image), "json": b"{}"})
                offset, size = places["jpg"]
                rows.append(dict.fromkeys(INDEX_SCHEMA.names) | {"offset": offset, "bytes": size})
        if indexed:
            with fsspec.open(index_path(path), "wb") as file:
                pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), file)
        paths.append(path)
    return paths


def expected(counts: Sequence[int]) -> list[tuple[str, bytes]]:
    return [
        (f"{number}-{image}", content(number, image)) for number, count in enumerate(counts) for image in range(count)
    ]


@pytest.fixture
def no_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("a tar was scanned")

    monkeypatch.setattr(tar_index, "tar_members", refuse)


@pytest.mark.parametrize("indexed", [False, True])
def test_any_image_of_any_tar_is_read_by_number(tmp_path: Path, indexed: bool) -> None:
    paths = write_tars(str(tmp_path), [3, 0, 2], indexed=indexed)
    for shards in (paths, str(tmp_path / "part-*.tar")):
        images = TarImages(shards)
        assert all_of(images) == expected([3, 0, 2])
        assert list(images.read([4, 0, 4])) == [expected([3, 0, 2])[number] for number in (4, 0, 4)]


@pytest.mark.usefixtures("no_scans")
def test_tars_with_an_index_are_not_scanned(tmp_path: Path) -> None:
    write_tars(str(tmp_path), [3, 2], indexed=True)
    assert all_of(TarImages(str(tmp_path / "*.tar"))) == expected([3, 2])


def test_a_tar_is_scanned_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = []
    scan = tar_index.tar_members

    def counted(file: Any, path: str, **options: Any) -> Any:
        scanned.append(path)
        return scan(file, path, **options)

    monkeypatch.setattr(tar_index, "tar_members", counted)
    (path,) = write_tars(str(tmp_path), [3])
    cache = str(tmp_path / "cache")
    for _ in range(2):
        assert all_of(TarImages([path], index_cache=cache)) == expected([3])
    assert scanned == [path]
    write_tars(str(tmp_path), [4])
    assert all_of(TarImages([path], index_cache=cache)) == expected([4])
    assert scanned == [path, path]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert len(TarImages(write_tars(str(tmp_path), [2]), index_cache=str(tmp_path / "file" / "below"))) == 2


@pytest.mark.usefixtures("no_scans")
def test_of_a_remote_tar_with_an_index_only_the_images_asked_for_are_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = write_tars("memory://shards", [5, 5], indexed=True)
    images = TarImages(shards)
    memory = fsspec.filesystem("memory")
    fetched = []
    cat = type(memory).cat_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        data: bytes = cat(self, path, start=start, end=end, **options)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(type(memory), "cat_file", counted)
    monkeypatch.setattr(type(memory), "open", lambda *_, **__: pytest.fail("a whole tar was opened"))
    assert list(images.read([7, 1])) == [expected([5, 5])[number] for number in (7, 1)]
    assert fetched == [512 + len(content(0, 0))] * 2


PROCESS = """
import sys
import torch.distributed as dist
from ssl_train.data import source, tar_index, tars
from ssl_train.data.tars import TarImages

store, rank, shards = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
scan, scanned = tar_index.tar_members, []
tar_index.tar_members = lambda file, path, **options: scanned.append(path) or scan(file, path, **options)
images = TarImages(shards)
print(len(scanned), [image.key for image in images.read(range(len(images)))])
dist.destroy_process_group()
"""


def test_processes_share_the_scanning_and_know_the_same(tmp_path: Path) -> None:
    write_tars(str(tmp_path), [2, 3, 1])
    arguments = [[str(tmp_path / "store"), str(rank), str(tmp_path / "*.tar")] for rank in range(2)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, *some], env=environment, stdout=subprocess.PIPE, text=True)
        for some in arguments
    ]
    told = [process.communicate(timeout=100)[0] for process in started]
    keys = [key for key, _ in expected([2, 3, 1])]
    assert told == [f"{number} {keys}\n" for number in (2, 1)]


def test_blocks_are_announced_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_IMAGES", 2)
    paths = write_tars(str(tmp_path), [4, 2])
    announced: list[tuple[str, int, int]] = []
    monkeypatch.setattr(tars, "read_ahead", announced.append)
    images = TarImages(paths)
    list(images.read(range(6)))
    assert announced == []
    images.keep_blocks(2)
    assert [image.key for image in images.read([5, 0, 4, 1, 0])] == ["1-1", "0-0", "1-0", "0-1", "0-0"]
    assert [path for path, _, _ in announced] == [paths[1], paths[0]]
    for path, start, length in announced:
        stretch = Path(path).read_bytes()[start : start + length]
        assert [content(int(path == paths[1]), image) in stretch for image in range(3)] == [True, True, False]
    list(images.read(range(6)))
    assert len(announced) == 3


def test_reading_ahead_changes_nothing(tmp_path: Path) -> None:
    images = TarImages(write_tars(str(tmp_path), [3, 2]))
    images.keep_blocks(1)
    assert all_of(images) == expected([3, 2])


def test_tars_of_other_writers_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "other.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (
            ("folder", None),
            ("folder/a.PNG", b"first"),
            ("notes.txt", b"no image"),
            ("b.webp", b"second"),
        ):
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = tarfile.DIRTYPE
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    assert all_of(TarImages([str(path)])) == [("folder/a", b"first"), ("b", b"second")]


def test_a_table_beside_a_tar_that_is_no_index_of_it_is_passed_over(tmp_path: Path) -> None:
    (path,) = write_tars(str(tmp_path), [2])
    pq.write_table(pa.table({"url": ["a"]}), index_path(path))
    assert all_of(TarImages([path])) == expected([2])


def test_a_folder_is_read_with_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    images = FolderImages(str(tmp_path))
    assert {image.data.decode() for image in all_of(images)} == {"b.jpg", "a.PNG", "deep/er/c.webp"}


def write_parquet(path: Path, rows: Sequence[Any], kind: pa.DataType) -> str:
    table = pa.table({"label": list(range(len(rows))), "image": pa.array(rows, kind)})
    pq.write_table(table, path, row_group_size=2)
    return str(path)


HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_parquet_of_hugging_face_is_read_by_number(tmp_path: Path) -> None:
    first = [{"bytes": content(0, row), "path": f"{row}.jpg"} for row in range(5)]
    second = [{"bytes": content(1, row), "path": None} for row in range(2)]
    write_parquet(tmp_path / "train-0.parquet", first, HUGGING_FACE)
    write_parquet(tmp_path / "train-1.parquet", second, HUGGING_FACE)
    images = ParquetImages(str(tmp_path / "train-*.parquet"), column="image")
    assert all_of(images) == [(f"{row}.jpg", content(0, row)) for row in range(5)] + [
        (f"train-1.parquet#{row}", content(1, row)) for row in range(2)
    ]
    assert images.block_images() == [2, 2, 1, 2]
    assert list(images.read([6, 0]))[1].data == content(0, 0)


def test_parquet_of_plain_bytes_and_of_paths_is_read_too(tmp_path: Path) -> None:
    plain = write_parquet(tmp_path / "plain.parquet", [b"first"], pa.binary())
    assert all_of(ParquetImages([plain], column="image")) == [("plain.parquet#0", b"first")]
    (tmp_path / "beside.jpg").write_bytes(b"second")
    paths = write_parquet(tmp_path / "paths.parquet", [{"bytes": None, "path": "beside.jpg"}], HUGGING_FACE)
    assert all_of(ParquetImages([paths], column="image")) == [("beside.jpg", b"second")]


def test_a_row_without_an_image_is_undecodable_and_not_the_end(tmp_path: Path) -> None:
    rows = [None, {"bytes": None, "path": None}]
    images = ParquetImages([write_parquet(tmp_path / "a.parquet", rows, HUGGING_FACE)], column="image")
    assert [image.data for image in all_of(images)] == [b"", b""]


def test_row_groups_that_are_kept_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"bytes": content(0, row), "path": None} for row in range(6)]
    images = ParquetImages([write_parquet(tmp_path / "a.parquet", rows, HUGGING_FACE)], column="image")
    read = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(self: Any, number: int, *arguments: Any) -> Any:
        read.append(number)
        return read_row_group(self, number, *arguments)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    images.keep_blocks(2)
    assert [image.data for image in images.read([0, 2, 1, 3, 4, 1])] == [content(0, row) for row in (0, 2, 1, 3, 4, 1)]
    assert read == [0, 1, 2, 0]


def test_missing_and_damaged_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tars match data\.shards"):
        TarImages(str(tmp_path / "*.tar"))
    with pytest.raises(DataError, match=r"no images under data\.folder"):
        FolderImages(str(tmp_path))
    with pytest.raises(DataError, match=r"no files match data\.parquet"):
        ParquetImages(str(tmp_path / "*.parquet"), column="image")
    (tmp_path / "bad.tar").write_bytes(b"this is no tar" * 100)
    with pytest.raises(DataError, match=r"bad\.tar is not a whole tar"):
        TarImages([str(tmp_path / "bad.tar")])
    with pytest.raises(DataError, match="hold no images"):
        TarImages(write_tars(str(tmp_path), [0]))
    table = write_parquet(tmp_path / "a.parquet", [b""], pa.binary())
    with pytest.raises(DataError, match=r"no column 'picture', only label, image.*data\.parquet_column"):
        ParquetImages([table], column="picture")
    with pytest.raises(DataError, match=r"column 'label' of .*a\.parquet holds int64, no images.*data\.parquet_column"):
        ParquetImages([table], column="label")
    with pytest.raises(DataError, match=r"bad\.tar is no whole Parquet file: Parquet magic bytes not found"):
        ParquetImages([str(tmp_path / "bad.tar")], column="image")
    with pytest.raises(DataError, match=r"no folder at data\.folder = .*nowhere"):
        FolderImages(str(tmp_path / "nowhere"))


def test_blocks_hold_all_images_and_are_about_equal() -> None:
    for number in (1, 2, BLOCK_IMAGES, BLOCK_IMAGES + 1, 10 * BLOCK_IMAGES + 7):
        blocks = split_evenly(number)
        assert sum(blocks) == number
        assert max(blocks) - min(blocks) <= 1
        assert max(blocks) <= BLOCK_IMAGES


def test_the_settings_open_the_source_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (path,) = write_tars(str(tmp_path), [2])
    table = write_parquet(tmp_path / "a.parquet", [b"one"], pa.binary())
    (tmp_path / "a.jpg").write_bytes(b"two")
    kinds = [type(data.open()) for data in (Data(shards=(path,)), Data(folder=str(tmp_path)), Data(parquet=table))]
    assert kinds == [TarImages, FolderImages, ParquetImages]
    assert Data(shards=(path,), parquet=table).sources == ["shards", "parquet"]
    assert list((tmp_path / "cache" / "curate-lvd" / "tar-index").iterdir())
