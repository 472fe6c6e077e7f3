"""What stands in a local folder is found, whatever it is called and however it is linked."""

import logging
import os
from pathlib import Path

import fsspec
import pytest

from storage.filesystem import list_files

HARD_NAMES = ["photos [2020]", "what?", "a*b", "two\nlines", "ünï 日本", "[", "percent%20#x"]


def _touch(*paths: Path) -> list[str]:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return sorted(map(str, paths))


@pytest.mark.parametrize("name", HARD_NAMES)
def test_a_folders_own_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    files = _touch(folder / "a.jpg", folder / "deep" / "b.jpg", folder / f"{name}.jpg", folder / "c.tar")
    _touch(tmp_path / "photos 2" / "other.jpg", tmp_path / "axb" / "other.jpg")
    assert list_files(f"{folder}/**", only_files=True) == files
    assert list_files(f"{folder}/*.tar") == [str(folder / "c.tar")]
    assert list_files(f"{folder}/*/*.jpg") == [str(folder / "deep" / "b.jpg")]
    assert list_files(str(folder)) == [str(folder)]
    assert list_files(f"{folder}/{name}.jpg") == [str(folder / f"{name}.jpg")]


@pytest.mark.parametrize(
    "pattern", ["*", "*/*", "**", "**/*.tar", "*/?.jpg", "[ab]/*", "no/*", "a/*.jpg", "**/a/*", "*/.hidden", "a"]
)
def test_patterns_mean_what_they_mean_in_fsspec(tmp_path: Path, pattern: str) -> None:
    _touch(*(tmp_path / p for p in ("a/1.jpg", "a/2.tar", "b/3.jpg", "b/a/4.tar", "5.tar", "b/.hidden", "c d/6.jpg")))
    theirs = {path.rstrip("/") for path in fsspec.filesystem("file").glob(f"{tmp_path}/{pattern}")} - {str(tmp_path)}
    assert set(list_files(f"{tmp_path}/{pattern}")) == theirs


def test_only_files_leaves_out_folders_whatever_they_are_called(tmp_path: Path) -> None:
    files = _touch(tmp_path / "a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert list_files(f"{tmp_path}/**", only_files=True) == files
    assert list_files(f"{tmp_path}/*") == [*files, str(tmp_path / "folder.jpg")]


def test_links_to_folders_are_followed_but_not_round_and_round(tmp_path: Path) -> None:
    _touch(tmp_path / "elsewhere" / "a.jpg", tmp_path / "set" / "b.jpg")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "round").symlink_to(".")
    (tmp_path / "set" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "set" / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "set" / "file.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    found = list_files(f"{tmp_path}/set/**", only_files=True)
    assert [os.path.relpath(path, tmp_path / "set") for path in found] == ["b.jpg", "file.jpg", "linked/a.jpg"]


def test_a_folder_that_may_not_be_read_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _touch(tmp_path / "a.jpg")
    _touch(tmp_path / "secret" / "b.jpg")
    scan = os.scandir

    def refuse(place: str) -> object:  # root, who may run this, may read everything
        if place.endswith("secret"):
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with caplog.at_level(logging.WARNING):
        assert list_files(f"{tmp_path}/**", only_files=True) == files
    assert caplog.messages == [f"{tmp_path}/secret is left out: Permission denied."]
