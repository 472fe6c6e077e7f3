import numpy as np
import pytest

from tasks.algorithms.blocks import InMemory
from tasks.algorithms.kmeans import assign, fit_kmeans
from tasks.algorithms.neighbours import Neighbours, nearest, nearest_in_cells


def unit(num_rows: int, seed: int, dim: int = 20) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(pool: np.ndarray, queries: np.ndarray, num: int) -> Neighbours:
    products = queries @ pool.astype(np.float32).T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :num]
    return Neighbours(rows, np.take_along_axis(products, rows, axis=1))


@pytest.mark.parametrize("block_rows", [3, 100, 10_000])
def test_the_exact_search_is_brute_force(block_rows: int) -> None:
    pool, queries = unit(1500, 0).astype(np.float16), unit(40, 1)
    found = nearest(InMemory(pool), queries, num=5, block_rows=block_rows)
    expected = brute_force(pool, queries, 5)
    assert np.array_equal(found.rows, expected.rows)
    assert np.allclose(found.similarity, expected.similarity, atol=1e-5)


def test_with_every_cell_probed_the_search_by_cells_is_exact_and_recall_grows_with_probes() -> None:
    pool, queries = unit(1500, 2), unit(60, 3)
    centroids = fit_kmeans(InMemory(pool), num_clusters=30, seed=0, iterations=5).centroids
    assignments = np.concatenate([labels for _, labels, _ in assign(InMemory(pool), centroids)])
    expected = brute_force(pool, queries, 4)
    recalls = []
    for num_probes in (1, 5, 30):
        found = nearest_in_cells(
            InMemory(pool), queries, num=4, centroids=centroids, assignments=assignments, num_probes=num_probes
        )
        recalls.append(np.mean([np.isin(a, b).mean() for a, b in zip(expected.rows, found.rows, strict=True)]))
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    assert np.array_equal(found.rows, expected.rows)


def test_a_pool_smaller_than_n_fills_up_with_none() -> None:
    found = nearest(InMemory(unit(3, 4)), unit(2, 5), num=5)
    assert (np.sort(found.rows[:, :3], axis=1) == [0, 1, 2]).all()
    assert (found.rows[:, 3:] == -1).all()


def test_equal_neighbours_come_in_row_order() -> None:
    pool = np.repeat(unit(2, 6), 4, axis=0)
    found = nearest(InMemory(pool), pool[:1], num=4, block_rows=3)
    assert found.rows[0].tolist() == [0, 1, 2, 3]


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="20 dimensions"):
        nearest(InMemory(unit(5, 0)), unit(2, 0, dim=8), num=1)
