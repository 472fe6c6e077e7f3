"""Collections are read in place, a bad file is a verdict, an empty collection an error that says where."""

import tarfile
from pathlib import Path

import pytest

from storage.filesystem import read_bytes
from storage.layout import Layout
from storage.tables import read_table
from tasks.collect import Collect, Collection, EmptyCollection, collect
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
