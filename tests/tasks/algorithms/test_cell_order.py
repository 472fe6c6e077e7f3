"""Groups of cells: every cell once, none too large, and what lies together stays together."""

import numpy as np
import pytest

from tasks.algorithms.cell_order import group_cells


def cells(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centroids = random.normal(size=(num, 16)).astype(np.float32)
    return centroids / np.linalg.norm(centroids, axis=1, keepdims=True), random.integers(0, 50, num)


@pytest.mark.parametrize("rows_per_group", [1, 60, 500, 10**9])
def test_every_cell_is_in_one_group_and_no_group_of_several_is_too_large(rows_per_group: int) -> None:
    centroids, sizes = cells(200, 0)
    groups = group_cells(centroids, sizes, rows_per_group=rows_per_group)
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    assert all(len(group) == 1 or sizes[group].sum() <= rows_per_group for group in groups)


def test_the_cells_nearest_to_a_query_lie_in_few_groups() -> None:
    random = np.random.default_rng(1)
    themes = random.normal(size=(8, 16))
    centroids = (np.repeat(themes, 40, axis=0) + 0.2 * random.normal(size=(320, 16))).astype(np.float32)
    groups = group_cells(centroids, np.full(320, 10), rows_per_group=400)
    group_of = np.empty(320, dtype=int)
    for number, group in enumerate(groups):
        group_of[group] = number
    spread = [len(set(group_of[np.argsort(-centroids @ query)[:20]])) for query in centroids[::16]]
    shuffled = random.permutation(group_of)
    by_chance = [len(set(shuffled[np.argsort(-centroids @ query)[:20]])) for query in centroids[::16]]
    assert np.mean(spread) < 0.4 * np.mean(by_chance)


def test_cells_in_one_point_are_still_divided() -> None:
    groups = group_cells(np.ones((9, 4), dtype=np.float32), np.full(9, 5), rows_per_group=10)
    assert sorted(np.concatenate(groups).tolist()) == list(range(9))
    assert max(len(group) for group in groups) <= 2
