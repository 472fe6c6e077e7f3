"""Files of vectors are the same wherever they lie, in whatever groups."""

import numpy as np
import pytest

from storage.filesystem import exists
from storage.layout import Layout
from tasks.clusters.points import (
    Parts,
    array_parts,
    groups_of,
    part_keys,
    pool_parts,
    read_array,
    remove,
    shape_of,
    write_array,
    write_blocks,
)
from tests.tasks.vector_stages import image_row, made_stage


@pytest.mark.parametrize("place", ["", "memory://points"])
def test_an_array_is_what_was_written_and_any_of_its_rows(tmp_path: object, place: str) -> None:
    folder = place or str(tmp_path)
    array = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float16)
    entry = write_blocks(f"{folder}/a.npy", array.shape, array.dtype, [array[:11], array[11:]])
    assert (entry.path, entry.rows) == ("a.npy", 50)
    assert shape_of(f"{folder}/a.npy") == (50, 7)
    for rows in ((0, None), (0, 50), (13, 20), (49, 99), (20, 20)):
        assert np.array_equal(read_array(f"{folder}/a.npy", *rows), array[slice(*rows)])
    records = np.zeros(9, dtype=[("label", np.int32), ("key", np.uint64)])
    records["key"] = np.arange(9, dtype=np.uint64) + np.uint64(2**63)
    write_array(f"{folder}/b.npy", records)
    assert np.array_equal(read_array(f"{folder}/b.npy", 2, 5), records[2:5])
    remove([f"{folder}/a.npy", f"{folder}/b.npy", f"{folder}/never.npy"])
    assert not exists(f"{folder}/a.npy")


def test_parts_are_one_matrix_by_block_and_by_row(tmp_path: object) -> None:
    array = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    paths = [f"{tmp_path}/{number}.npy" for number in range(4)]
    for path, piece in zip(paths, np.split(array, [9, 9, 31]), strict=True):
        write_array(path, piece)
    parts = Parts(paths)
    assert parts.shape == (40, 3)
    blocks = list(parts.blocks(10))
    assert np.array_equal(np.concatenate([block for _, block in blocks]), array)
    assert [start for start, _ in blocks] == [0, 9, 19, 29, 31]
    rows = np.array([39, 0, 9, 8, 31, 30, 9])
    assert np.array_equal(parts.take(rows), array[rows])


@pytest.mark.parametrize("num_groups", [1, 2, 3, 5, 100])
def test_groups_hold_every_part_once_in_order_and_about_as_many_rows(tmp_path: object, num_groups: int) -> None:
    sizes = np.random.default_rng(1).integers(0, 30, 40)
    paths = [f"{tmp_path}/{number}.npy" for number in range(40)]
    for path, size in zip(paths, sizes, strict=True):
        write_array(path, np.zeros((size, 2), dtype=np.float16))
    parts = array_parts(paths)
    assert [part[2] for part in parts] == np.cumsum(np.r_[0, sizes[:-1]]).tolist()
    groups = groups_of(parts, num_groups)
    assert len(groups) <= num_groups
    assert [part for group in groups for part in group] == parts
    rows = [sum(shape_of(part[0])[0] for part in group) for group in groups]
    assert max(rows) <= sizes.sum() / min(num_groups, len(groups)) + sizes.max()


def test_a_rows_key_hangs_on_its_id_and_the_seed_alone(tmp_path: object) -> None:
    rows = [image_row(number) | ({"drop": "earlier"} if number % 5 == 0 else {}) for number in range(60)]
    kept = [row for row in rows if "drop" not in row]
    whole = made_stage(Layout(f"{tmp_path}/a"), "embed", [rows], [np.zeros((len(kept), 2))])
    cut = made_stage(Layout(f"{tmp_path}/b"), "embed", [rows[:31], rows[31:]], [np.zeros((24, 2)), np.zeros((24, 2))])
    keys = [np.concatenate([part_keys(part, seed=3) for part in pool_parts(made)]) for made in (whole, cut)]
    assert np.array_equal(keys[0], keys[1])
    assert len(np.unique(keys[0])) == 48
    assert not np.array_equal(keys[0], part_keys(pool_parts(whole)[0], seed=4))


def test_points_without_ids_have_a_key_by_their_number(tmp_path: object) -> None:
    for number, size in enumerate((5, 7, 12)):
        write_array(f"{tmp_path}/{number}.npy", np.zeros((size, 1), dtype=np.float32))
    cut = [part_keys(part, seed=1) for part in array_parts([f"{tmp_path}/0.npy", f"{tmp_path}/1.npy"])]
    assert np.array_equal(np.concatenate(cut), part_keys(array_parts([f"{tmp_path}/2.npy"])[0], seed=1))
