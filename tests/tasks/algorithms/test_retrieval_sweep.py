"""The counts for every N, M and number of queries are those that slow loops find."""

import numpy as np
import pytest

from tasks.algorithms.retrieval_sweep import (
    QUANTILES,
    clusters_by_min_queries,
    images_by_per_cluster,
    sweep_neighbours,
)

QUERIES, NUM, POOL = 40, 12, 90


def neighbours(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = np.array([rng.choice(POOL, NUM, replace=False) for _ in range(QUERIES)])
    similarity = -np.sort(-rng.uniform(-0.2, 1.0, (QUERIES, NUM)).astype(np.float32), axis=1)
    rows[:3, 8:] = -1  # these queries have fewer neighbours
    return rows, similarity


def entries(rows: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.tile(np.arange(rows.shape[1]), len(rows)), rows.ravel(), similarity.ravel()


@pytest.mark.parametrize("seed", range(3))
def test_unique_images_and_collisions_equal_those_of_sets(seed: int) -> None:
    rows, similarity = neighbours(seed)
    sweep = sweep_neighbours([entries(rows, similarity)], num_pool=POOL, num=NUM)
    for n in range(1, NUM + 1):
        brought = [row for query in rows[:, :n].tolist() for row in query if row >= 0]
        assert sweep.retrieved[n - 1] == len(brought)
        assert sweep.unique[n - 1] == len(set(brought))
        assert sweep.collisions[n - 1] == len(brought) - len(set(brought))


def test_blocks_and_order_change_nothing() -> None:
    ranks, rows, similarity = entries(*neighbours(5))
    whole = sweep_neighbours([(ranks, rows, similarity)], num_pool=POOL, num=NUM)
    order = np.random.default_rng(1).permutation(len(rows))
    pieces = [(ranks[part], rows[part], similarity[part]) for part in np.array_split(order, 9)]
    cut = sweep_neighbours(pieces, num_pool=POOL, num=NUM)
    assert all(np.array_equal(value, vars(cut)[name]) for name, value in vars(whole).items())


def test_a_smaller_num_gives_the_beginning_of_the_same_counts() -> None:
    block = entries(*neighbours(2))
    long, short = (sweep_neighbours([block], num_pool=POOL, num=num) for num in (NUM, 4))
    assert np.array_equal(short.unique, long.unique[:4])
    assert np.array_equal(short.quantiles, long.quantiles[:, :4])


def test_similarities_by_rank_are_right_to_a_thousandth() -> None:
    rows, similarity = neighbours(8)
    sweep = sweep_neighbours([entries(rows, similarity)], num_pool=POOL, num=NUM)
    for rank in range(NUM):
        values = np.sort(similarity[rows[:, rank] >= 0, rank])
        for place, quantile in enumerate(QUANTILES):
            exact = values[max(int(np.ceil(quantile * len(values))), 1) - 1]
            assert sweep.quantiles[place, rank] == pytest.approx(exact, abs=1.1e-3)


def test_ranks_that_no_query_has_count_nothing() -> None:
    block = (np.array([0]), np.array([4]), np.array([0.5], dtype=np.float32))
    sweep = sweep_neighbours([block], num_pool=5, num=3)
    assert (sweep.retrieved.tolist(), sweep.unique.tolist()) == ([1, 1, 1], [1, 1, 1])
    assert np.isnan(sweep.quantiles[:, 1:]).all()


@pytest.mark.parametrize("seed", range(3))
def test_images_of_clusters_equal_those_of_a_loop_over_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes, queries = rng.integers(0, 40, 25), rng.integers(0, 9, 25)
    for least in range(10):
        for limit in (1, 5, 17, 100):
            slow = sum(min(int(s), limit) for s, q in zip(sizes, queries, strict=True) if q > least)
            assert images_by_per_cluster(sizes, queries, per_cluster=[limit], min_queries=least).tolist() == [slow]
            clusters, images = clusters_by_min_queries(sizes, queries, min_queries=[least], per_cluster=limit)
            assert (clusters.tolist(), images.tolist()) == ([int((queries > least).sum())], [slow])
