"""Matrices of many files are one matrix: whatever is asked for, however the rows are cut, with few files open."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import vectors as module
from storage.errors import UnreachableStorage
from storage.manifest import FileEntry, Manifest
from storage.vectors import Vectors, read_array, remove_files, write_array, write_vectors


def written(folder: Path, sizes: list[int], dim: int = 3) -> tuple[list[FileEntry], np.ndarray]:
    """Parts of these sizes: their entries, and all rows as one matrix."""
    whole = np.arange(sum(sizes) * dim, dtype=np.float16).reshape(-1, dim)
    starts = np.cumsum([0, *sizes])
    names = [str(folder / f"part-{number:05d}.npy") for number in range(len(sizes))]
    return [write_vectors(name, whole[starts[n] : starts[n + 1]]) for n, name in enumerate(names)], whole


def paths(folder: Path, entries: list[FileEntry]) -> list[str]:
    return [str(folder / entry.path) for entry in entries]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6), data=st.data())
def test_any_rows_in_any_order_are_those_of_the_whole_matrix(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    entries, whole = written(folder, sizes)
    picked = data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=9 if len(whole) else 0))
    for vectors in (Vectors(paths(folder, entries)), Vectors(paths(folder, entries), [one.rows for one in entries])):
        assert vectors.shape == whole.shape
        assert np.array_equal(vectors.take(picked), whole[np.array(picked, dtype=np.int64)])
        assert vectors.starts.tolist() == np.cumsum([0, *sizes]).tolist()


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    original: Callable[[str], np.ndarray] = module.read_array
    monkeypatch.setattr(module, "read_array", lambda path: (opened.append(path), original(path))[1])
    return opened


def test_a_file_is_opened_once_and_not_at_all_where_no_row_of_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, whole = written(tmp_path, [4] * 20)
    vectors = Vectors(paths(tmp_path, entries), [4] * 20)
    assert vectors.shape == whole.shape
    opened = counting(monkeypatch)
    for _ in range(5):
        assert np.array_equal(vectors.take([70, 3, 33, 2]), whole[[70, 3, 33, 2]])
    assert sorted(Path(path).name for path in opened) == ["part-00000.npy", "part-00008.npy", "part-00017.npy"]


def test_few_files_stay_open_however_many_are_read(tmp_path: Path) -> None:
    entries, whole = written(tmp_path, [2] * 300)
    vectors = Vectors(paths(tmp_path, entries))
    before = len(os.listdir("/proc/self/fd"))
    order = np.random.default_rng(0).permutation(len(whole))
    assert np.array_equal(vectors.take(order), whole[order])
    assert np.array_equal(np.concatenate([block for _, block in vectors.blocks(7)]), whole)
    assert len(os.listdir("/proc/self/fd")) - before <= 64


def test_vectors_travel_to_workers_without_their_maps(tmp_path: Path) -> None:
    entries, whole = written(tmp_path, [5, 0, 7])
    vectors = Vectors(paths(tmp_path, entries))
    vectors.take(range(12))
    sent = pickle.dumps(vectors)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).take([11, 0]), whole[[11, 0]])


def test_a_manifests_vectors_know_their_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, whole = written(tmp_path, [5, 0, 7])
    other = write_array(str(tmp_path / "centroids.npy"), np.zeros((9, 9)))
    files = (FileEntry("part-00000.parquet", 5, 1, ""), *entries, other)
    manifest = Manifest("embed", 1, "f" * 64, str(tmp_path), {}, {}, files, 12, 12, {})
    opened = counting(monkeypatch)
    vectors = Vectors.of(manifest)
    assert (vectors.shape, vectors.paths) == (whole.shape, paths(tmp_path, entries))
    assert len(opened) == 1  # for the dimension


def test_rows_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    entries, _ = written(tmp_path, [5, 7])
    for wrong in ([-1], [12], [0, 99]):
        with pytest.raises(IndexError, match="of 12"):
            Vectors(paths(tmp_path, entries)).take(wrong)


def test_a_file_that_was_replaced_is_named(tmp_path: Path) -> None:
    entries, _ = written(tmp_path, [5, 7])
    write_vectors(str(tmp_path / "part-00001.npy"), np.zeros((6, 3)))
    vectors = Vectors(paths(tmp_path, entries), [5, 7])
    for read in (lambda: vectors.take([6]), lambda: list(vectors.blocks(100))):
        with pytest.raises(UnreachableStorage, match=r"part-00001\.npy holds \(6, 3\), expected 7 rows"):
            read()
    with pytest.raises(ValueError, match="1 numbers of rows for 2 files"):
        Vectors(paths(tmp_path, entries), [5])


def test_arrays_keep_their_type_and_vectors_of_float32_are_read_as_such(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint64).reshape(3, 4)
    entry = write_array(str(tmp_path / "index.npy"), numbers)
    assert (entry.rows, entry.bytes) == (3, (tmp_path / "index.npy").stat().st_size)
    assert np.array_equal(read_array(str(tmp_path / "index.npy")), numbers)
    precise = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    write_array(str(tmp_path / "raw.npy"), precise)
    assert np.array_equal(Vectors([str(tmp_path / "raw.npy")]).take([1, 0]), precise[[1, 0]])


def test_no_rows_at_all_are_a_matrix_too(tmp_path: Path) -> None:
    entry = write_vectors(str(tmp_path / "part-00000.npy"), np.zeros((0, 4)))
    vectors = Vectors(paths(tmp_path, [entry]))
    assert (vectors.shape, vectors.take([]).shape, list(vectors.blocks(3))) == ((0, 4), (0, 4), [])
    assert Vectors([]).shape == (0, 0)


def test_removing_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    entries, _ = written(tmp_path, [1, 1])
    remove_files([*paths(tmp_path, entries), str(tmp_path / "never.npy")])
    remove_files(paths(tmp_path, entries))
    assert list(tmp_path.iterdir()) == []
