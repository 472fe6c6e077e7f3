"""A manifest is the same file for the same result, and a damaged one is never trusted."""

from pathlib import Path

import pytest

from storage.errors import BadManifest
from storage.manifest import FileEntry, Manifest, fingerprint, load_manifest, save_manifest


def _manifest(directory: Path, seconds: float = 1.0) -> Manifest:
    return Manifest(
        stage="describe",
        version=1,
        fingerprint="ab" * 32,
        directory=str(directory),
        config={"k": 64},
        inputs={"images": "safety/" + "cd" * 32},
        files=(FileEntry("part-00000.parquet", 3, 10, "00"), FileEntry("mean.npy", 0, 5, "11")),
        rows_in=3,
        rows_kept=2,
        drops={"copy": 1},
        facts={"edges": 4},
        seconds=seconds,
    )


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    save_manifest(_manifest(tmp_path))
    assert load_manifest(str(tmp_path)) == _manifest(tmp_path)
    assert load_manifest(str(tmp_path)).paths(".parquet") == [str(tmp_path / "part-00000.parquet")]


def test_equal_results_give_equal_manifests_whatever_the_time_they_took(tmp_path: Path) -> None:
    save_manifest(_manifest(tmp_path / "a", seconds=1.0))
    save_manifest(_manifest(tmp_path / "b", seconds=9.0))
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b'{"format": 1, "files": 3}'])
def test_a_damaged_manifest_is_an_error_that_says_what_to_do(tmp_path: Path, damage: bytes) -> None:
    save_manifest(_manifest(tmp_path))
    (tmp_path / "manifest.json").write_bytes(damage)
    with pytest.raises(BadManifest, match="Delete its folder"):
        load_manifest(str(tmp_path))


def test_a_missing_manifest_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadManifest, match="has not finished"):
        load_manifest(str(tmp_path))
    with pytest.raises(BadManifest, match=r"no file 'other\.npy'"):
        _manifest(tmp_path).file("other.npy")


def test_the_fingerprint_depends_on_version_config_and_inputs_only() -> None:
    base = fingerprint("s", 1, {"a": 1, "b": 2}, {"x": "y"})
    assert base == fingerprint("s", 1, {"b": 2, "a": 1}, {"x": "y"})
    others = [("s", 2, {"a": 1, "b": 2}, {"x": "y"}), ("s", 1, {"a": 1}, {"x": "y"}), ("s", 1, {"a": 1, "b": 2}, {})]
    assert len({base, *(fingerprint(*other) for other in others)}) == 4  # type: ignore[arg-type]
