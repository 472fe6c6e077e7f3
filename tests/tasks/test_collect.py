"""Collections are read in place, a bad file is a verdict, an empty collection an error that says where."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UnreachableStorage
from storage.filesystem import file_sha256, read_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.collect import Collect, Collection, EmptyCollection, collect
from tasks.collection_files import NoImageColumn, images_of
from tasks.stage import PartsFailed
from tests.helpers import jpeg


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "flowers"
    (root / "red").mkdir(parents=True)
    for number in range(3):
        (root / "red" / f"{number}.jpg").write_bytes(jpeg(number))
    (root / "broken.jpg").write_bytes(jpeg(9)[:400])
    (root / "notes.txt").write_text("not an image")
    return root


def test_every_image_of_a_folder_is_a_row_and_broken_ones_have_a_reason(folder: Path, layout: Layout) -> None:
    manifest = collect.fn("sources", [Collection(name="flowers", path=str(folder))], Collect(), layout)
    rows = read_table(manifest.paths(".parquet")[0]).to_pylist()
    assert [row["path"] for row in rows] == ["broken.jpg", "red/0.jpg", "red/1.jpg", "red/2.jpg"]
    assert [row["drop"] is None for row in rows] == [False, True, True, True]
    assert (manifest.rows_in, manifest.rows_kept) == (4, 3)
    assert read_bytes(rows[1]["image_file"], rows[1]["image_offset"], rows[1]["image_bytes"]) == jpeg(0)


def test_a_tar_is_read_in_place(folder: Path, tmp_path: Path, layout: Layout) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(folder / "red/1.jpg", "a/1.jpg")
        tar.add(folder / "notes.txt", "a/1.txt")
    manifest = collect.fn("sources", [Collection(name="t", path=str(tmp_path / "set.tar"))], Collect(), layout)
    (row,) = read_table(manifest.paths(".parquet")[0]).to_pylist()
    assert read_bytes(row["image_file"], row["image_offset"], row["image_bytes"]) == jpeg(1)


def test_a_changed_file_makes_a_new_result_and_an_unchanged_folder_is_reused(folder: Path, layout: Layout) -> None:
    collections = [Collection(name="flowers", path=str(folder))]
    first = collect.fn("sources", collections, Collect(), layout)
    assert collect.fn("sources", collections, Collect(), layout) == first
    (folder / "red/0.jpg").write_bytes(jpeg(7))
    assert collect.fn("sources", collections, Collect(), layout).fingerprint != first.fingerprint


def test_parts_hold_at_most_the_configured_number_of_images(folder: Path, layout: Layout) -> None:
    collections = [Collection(name="a", path=str(folder)), Collection(name="a", path=str(folder / "red"), split="test")]
    manifest = collect.fn("sources", collections, Collect(images_per_part=2), layout)
    assert [read_table(path).num_rows for path in manifest.paths(".parquet")] == [2, 2, 2, 1]


def test_a_collection_without_images_is_named(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyCollection, match=r"'birds'.*no images in.*empty.*Correct the path"):
        collect.fn("sources", [Collection(name="birds", path=str(tmp_path / "empty"))], Collect(), layout)
    with pytest.raises(EmptyCollection, match="'birds'"):
        collect.fn("sources", [Collection(name="birds", path=str(tmp_path / "nowhere"))], Collect(), layout)


HUB = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hub_table(images: Sequence[dict[str, Any] | None], **labels: Any) -> pa.Table:
    """As the `datasets` library writes a set of images."""
    columns = {"image": pa.array(images, type=HUB)} | {name: pa.array(values) for name, values in labels.items()}
    return pa.table(columns)


def collected(path: Path | str, layout: Layout, **more: Any) -> Manifest:
    return collect.fn("sources", [Collection(name="set", path=str(path), **more)], Collect(), layout)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for path in manifest.paths(".parquet") for row in read_table(path).to_pylist()]


def bytes_of(row: dict[str, Any], layout: Layout) -> bytes:
    return read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])


def test_images_inside_of_parquet_are_laid_into_a_tar_of_the_stage_with_their_labels(
    tmp_path: Path, layout: Layout
) -> None:
    (tmp_path / "set/data").mkdir(parents=True)
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg" if number else None} for number in range(3)]
    table = hub_table(images, label=[4, 5, None], score=[0.5, float("nan"), 1.0], text=["a", "b", "c"])
    pq.write_table(table, tmp_path / "set/data/train-00000-of-00002.parquet", row_group_size=2)
    pq.write_table(table.slice(1, 1), tmp_path / "set/data/train-00001-of-00002.parquet")
    manifest = collected(tmp_path / "set", layout)
    rows = rows_of(manifest)
    assert [row["path"] for row in rows] == [
        *(f"data/train-00000-of-00002.parquet/{number:08d}" for number in range(3)),
        "data/train-00001-of-00002.parquet/00000000",
    ]
    assert [bytes_of(row, layout) for row in rows] == [jpeg(0), jpeg(1), jpeg(2), jpeg(1)]
    assert len({row["id"] for row in rows}) == 4
    assert [json.loads(row["labels"]) for row in rows[:3]] == [
        {"label": 4, "score": 0.5, "text": "a"},
        {"path": "1.jpg", "label": 5, "score": None, "text": "b"},
        {"path": "2.jpg", "label": None, "score": 1.0, "text": "c"},
    ]
    tars = [entry for entry in manifest.files if entry.path.endswith(".tar")]
    assert [(entry.path, entry.rows) for entry in tars] == [("part-00000.tar", 3), ("part-00001.tar", 1)]
    assert all(file_sha256(manifest.file(entry.path)) == (entry.bytes, entry.sha256) for entry in tars)
    assert not any(row["image_file"].startswith("/") for row in rows), "the root can be moved"


@pytest.mark.parametrize(
    "note", ["names", "[]", "no JSON", '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_the_names_of_classes_go_along_where_the_file_tells_them(note: str, tmp_path: Path, layout: Layout) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    text = json.dumps({"info": {"features": features}}) if note == "names" else note
    table = hub_table([{"bytes": jpeg(1), "path": None}] * 3, label=[1, 7, None])
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "set.parquet")
    labels = [json.loads(row["labels"]) for row in rows_of(collected(tmp_path / "set.parquet", layout))]
    known = {"label_name": "dog"} if note == "names" else {}
    assert labels == [{"label": 1} | known, {"label": 7}, {"label": None}]


def test_a_binary_column_is_one_of_images_and_may_be_named(tmp_path: Path, layout: Layout) -> None:
    pq.write_table(pa.table({"payload": [jpeg(1)], "n": [1]}), tmp_path / "one.parquet")
    (row,) = rows_of(collected(tmp_path / "one.parquet", layout))
    assert (bytes_of(row, layout), row["path"]) == (jpeg(1), "one.parquet/00000000")
    pq.write_table(pa.table({"a": [jpeg(1)], "b": [jpeg(2)]}), tmp_path / "two.parquet")
    with pytest.raises(PartsFailed, match=r"NoImageColumn.*two\.parquet: one column.*a \(binary\), b \(binary\)"):
        collected(tmp_path / "two.parquet", layout)
    (row,) = rows_of(collected(tmp_path / "two.parquet", layout, image_column="b"))
    assert bytes_of(row, layout) == jpeg(2)
    with pytest.raises(PartsFailed, match=r"column 'c' of images"):
        collected(tmp_path / "two.parquet", layout, image_column="c")


def test_rows_without_bytes_point_at_files_of_the_collection_and_nowhere_else(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/images/1.jpg").write_bytes(jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    places = ["images/1.jpg", "../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg"]
    places += [f"file://{tmp_path}/secret.jpg", "images/none.jpg", "~/x.jpg", ".", None]
    images = [{"bytes": None, "path": place} for place in places]
    pq.write_table(hub_table([*images, None]), tmp_path / "set/index.parquet")
    manifest = collected(tmp_path / "set/index.parquet", layout)
    rows = rows_of(manifest)
    assert bytes_of(rows[0], layout) == jpeg(1)
    assert rows[0]["image_file"].endswith("set/images/1.jpg")
    assert [row["drop"] for row in rows] == [None] + ["missing_image"] * 9
    assert "no such file in the collection: ../secret.jpg" in rows[1]["detail"]
    assert not [entry for entry in manifest.files if entry.path.endswith(".tar")]


def test_images_of_parquet_that_do_not_decode_are_drops_and_are_not_stored(tmp_path: Path, layout: Layout) -> None:
    contents = [b"", b"no image", jpeg(1)[:300], jpeg(2)]
    pq.write_table(hub_table([{"bytes": data, "path": "x.jpg"} for data in contents]), tmp_path / "bad.parquet")
    manifest = collected(tmp_path / "bad.parquet", layout)
    rows = rows_of(manifest)
    assert [row["drop"] for row in rows] == ["empty_body", "not_an_image", "truncated", None]
    assert [row["image_file"] is None for row in rows] == [True, True, True, False]
    assert (manifest.rows_in, manifest.rows_kept) == (4, 1)
    assert next(entry.rows for entry in manifest.files if entry.path.endswith(".tar")) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1PAR1", b"not Parquet"])
def test_a_file_that_is_no_parquet_is_one_clear_error(content: bytes, tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "bad.parquet").write_bytes(content)
    with pytest.raises(PartsFailed, match=r"bad\.parquet is not a whole Parquet file.*Fetch it again"):
        collected(tmp_path / "bad.parquet", layout)


def test_damaged_parquet_gives_rows_or_that_error_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    images = [{"bytes": jpeg(number), "path": "x.jpg"} for number in range(12)]
    pq.write_table(hub_table(images, label=list(range(12)), text=["text"] * 12), path, row_group_size=5)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    errors = 0
    for number in range(150):
        damaged = bytearray(whole[: random.integers(len(whole))] if number % 3 == 0 else whole)
        for place in random.integers(0, max(len(damaged), 1), 4 if number % 2 else 40):
            damaged[min(place, len(damaged) - 1) : place + 1] = bytes([random.integers(256)])
        path.write_bytes(bytes(damaged))
        try:
            assert all(isinstance(found.data, bytes) for found in images_of(str(path), root=str(tmp_path)))
        except (UnreachableStorage, NoImageColumn):
            errors += 1
    assert 50 < errors < 150


def test_a_collection_may_lie_behind_a_url(layout: Layout) -> None:
    files = fsspec.filesystem("memory")
    table = hub_table([{"bytes": jpeg(3), "path": None}])
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files.pipe("/far/birds/red/1.jpg", jpeg(1))
    files.pipe("/hub/data/a.parquet", sink.getvalue().to_pybytes())
    try:
        (row,) = rows_of(collected("memory://far/birds", layout))
        assert (row["path"], bytes_of(row, layout)) == ("red/1.jpg", jpeg(1))
        (row,) = rows_of(collected("memory://hub", layout))
        assert (row["path"], bytes_of(row, layout)) == ("data/a.parquet/00000000", jpeg(3))
    finally:
        files.rm("/far", recursive=True)
        files.rm("/hub", recursive=True)


def test_tars_of_one_name_in_two_folders_have_images_of_their_own(folder: Path, tmp_path: Path, layout: Layout) -> None:
    for name in ("a", "b"):
        (tmp_path / "tars" / name).mkdir(parents=True)
        with tarfile.open(tmp_path / "tars" / name / "0.tar", "w") as tar:
            tar.add(folder / "red/1.jpg", "1.jpg")
    manifest = collected(tmp_path / "tars", layout)
    assert [row["path"] for row in rows_of(manifest)] == ["a/0.tar/1.jpg", "b/0.tar/1.jpg"]
    assert len({row["id"] for row in rows_of(manifest)}) == 2
    assert len(manifest.paths(".parquet")) == 2, "a part for each tar"
