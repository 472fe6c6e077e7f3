"""What many tasks write by group, many others read by group, from anywhere, and nothing is left of it."""

from pathlib import Path

import numpy as np
import pytest

from storage.errors import UnreachableStorage
from tasks.retrieval.sorted_runs import (
    gather_groups,
    read_groups,
    read_rows,
    remove_scratch,
    run_offsets,
    runs_of,
    write_run,
)
from tasks.stage import Outcome


def written(folder: str, seed: int, rows: int, num_groups: int = 9) -> tuple[str, np.ndarray, np.ndarray, Outcome]:
    random = np.random.default_rng(seed)
    groups = random.integers(0, num_groups, rows)
    vectors = random.normal(size=(rows, 3)).astype(np.float16)
    names = np.array([f"{n:06x}" for n in random.integers(0, 10**6, rows)], dtype="S6")
    outcome = write_run(f"{folder}/run-{seed}", groups, num_groups, {"vectors": vectors, "names": names})
    (run,) = runs_of(folder, [outcome])
    return run, groups, vectors, outcome


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_range_of_groups_comes_back_in_the_order_it_was_written(tmp_path: Path, place: str) -> None:
    folder = str(tmp_path) if place == "local" else f"memory://{tmp_path.name}"
    run, groups, vectors, _ = written(folder, 1, 200)
    for first, last in [(0, 9), (3, 4), (2, 7), (8, 9)]:
        expected = np.concatenate([vectors[groups == group] for group in range(first, last)])
        assert np.array_equal(read_groups(run, "vectors", first, last), expected)
        sizes = [(groups == group).sum() for group in range(first, last)]
        assert np.diff(run_offsets(run, first, last)).tolist() == sizes


def test_groups_of_several_runs_are_gathered_whatever_some_of_them_lack(tmp_path: Path) -> None:
    folder = str(tmp_path)
    runs, groups, vectors, _ = zip(
        *(written(folder, seed, rows) for seed, rows in [(1, 50), (2, 0), (3, 70)]), strict=True
    )
    empty = write_run(
        f"{folder}/shapeless", np.zeros(0, dtype=int), 9, {"vectors": np.zeros((0, 0)), "names": np.zeros(0, "S1")}
    )
    columns, owner = gather_groups([*runs, *runs_of(folder, [empty])], ["vectors", "names"], 2, 6)
    expected = sum(int(((g >= 2) & (g < 6)).sum()) for g in groups)
    assert len(columns["vectors"]) == len(columns["names"]) == len(owner) == expected
    for group in range(2, 6):
        theirs = np.concatenate([v[g == group] for g, v in zip(groups, vectors, strict=True)])
        assert np.array_equal(columns["vectors"][owner == group - 2], theirs)


def test_without_a_row_anywhere_there_are_none(tmp_path: Path) -> None:
    run, *_ = written(str(tmp_path), 4, 0)
    columns, owner = gather_groups([run], ["vectors"], 0, 9)
    assert columns["vectors"].shape == (0, 3)
    assert len(owner) == 0


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    run, *_ = written(str(tmp_path), 5, 40)
    path = Path(f"{run}.vectors.npy")
    path.write_bytes(path.read_bytes()[:-6])
    assert len(read_rows(str(path), 0, 39)) == 39
    with pytest.raises(UnreachableStorage, match="ends before row 40"):
        read_rows(str(path), 0, 40)


def test_scratch_is_removed_even_if_some_of_it_is_gone(tmp_path: Path) -> None:
    run, _, _, outcome = written(str(tmp_path), 6, 10)
    Path(f"{run}.names.npy").unlink()
    remove_scratch(str(tmp_path), [outcome])
    assert list(tmp_path.iterdir()) == []
