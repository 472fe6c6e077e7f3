"""Neighbours are brute force's to the last bit, whatever the order of the pool, however near to equal they are."""

import numpy as np
import pytest
import torch

from tasks.algorithms import neighbours_device
from tasks.algorithms.blocks import InMemory
from tasks.algorithms.kmeans import assign, fit_kmeans
from tasks.algorithms.neighbours import (
    Asking,
    Neighbours,
    OnDevice,
    finder_for,
    id_words,
    nearest,
    nearest_in_cells,
    ranks,
    recall_of,
)


def unit(num_rows: int, seed: int, dim: int = 20) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(pool: np.ndarray, queries: np.ndarray, num: int, ties: np.ndarray | None = None) -> Neighbours:
    """The slow truth: exact products, rounded to float32, sorted by product and then by tie."""
    products = (queries.astype(np.float64) @ pool.astype(np.float64).T).astype(np.float32)
    ties = np.arange(len(pool)) if ties is None else ties
    rows = np.array([np.lexsort((ties, -line))[:num] for line in products])
    offsets = np.arange(0, rows.size + 1, rows.shape[1])
    return Neighbours(offsets, rows.ravel(), np.take_along_axis(products, rows, axis=1).ravel())


def assert_same(found: Neighbours, expected: Neighbours) -> None:
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.similarity, expected.similarity)


@pytest.mark.parametrize(("num_pool", "num_queries"), [(5, 3), (1500, 40), (5000, 2100)])
def test_the_search_is_brute_force(num_pool: int, num_queries: int) -> None:
    pool, queries = unit(num_pool, 0), unit(num_queries, 1)
    assert_same(nearest(pool, queries, num=5), brute_force(pool, queries, 5))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_form_for_a_gpu_finds_the_same_neighbours_to_the_last_bit(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among near-equals, copies, cells of one row and of none, numbers of their own; blocks that end anywhere."""
    monkeypatch.setattr(neighbours_device, "_POOL_ROWS", 130)
    monkeypatch.setattr(neighbours_device, "_QUERY_ROWS", 20)
    random = np.random.default_rng(3)
    pool = np.concatenate([unit(700, 0, dim=40), np.repeat(unit(1, 5, dim=40), 150, axis=0), unit(30, 6, dim=40)])
    pool = random.permutation((pool + 0.001 * (random.random(pool.shape) < 0.01)).astype(dtype))
    queries = np.concatenate([unit(50, 1, dim=40), pool[:9].astype(np.float16)]).astype(dtype)
    bounds = np.array([0, 300, 300, 301, 640, 880])
    cell, query = np.nonzero(random.random((5, len(queries))) < 0.7)
    asking, num = Asking.of(cell, query, 5), random.integers(0, 12, len(queries))
    ties = random.permutation(len(pool))
    one, other = (
        nearest_in_cells(pool, bounds, queries, asking, num=num, ties=ties, finder=finder)
        for finder in (OnDevice("cpu"), finder_for("cpu"))
    )
    assert_same(one, other)
    pool[150, 3] = np.nan
    with pytest.raises(ValueError, match="vector of the pool has values that are not finite"):
        nearest(pool, queries, num=1, finder=OnDevice("cpu"))
    with pytest.raises(ValueError, match="take 'auto', 'cpu'"):
        finder_for("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_neighbours_that_the_processor_finds() -> None:
    pool, queries = unit(70_000, 0, dim=384), unit(6000, 1, dim=384)
    assert_same(nearest(pool, queries, num=5, finder=finder_for("cuda")), nearest(pool, queries, num=5))


def test_the_order_of_the_pool_changes_neither_images_nor_similarities() -> None:
    pool, queries = unit(3000, 2, dim=300), unit(30, 3, dim=300)
    expected = nearest(pool, queries, num=6)
    order = np.random.default_rng(4).permutation(len(pool))
    found = nearest(pool[order], queries, num=6, ties=order)
    assert np.array_equal(order[found.rows], expected.rows)
    assert np.array_equal(found.similarity, expected.similarity)


@pytest.mark.parametrize("copies", [3, 60, 700])
def test_equals_come_in_the_order_of_their_ties_however_many_there_are(copies: int) -> None:
    pool = unit(2500, 5)
    pool[np.random.default_rng(6).choice(2500, copies, replace=False)] = pool[0]
    ties = np.random.default_rng(7).permutation(2500)
    queries = np.concatenate([pool[:1], unit(4, 8)])
    assert_same(nearest(pool, queries, num=4, ties=ties), brute_force(pool, queries, 4, ties))


def test_queries_among_equals_are_settled_in_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.algorithms.neighbours._MOST_SLOTS", 100)
    pool = np.concatenate([np.repeat(unit(1, 0), 150, axis=0), unit(50, 1)])
    queries = np.concatenate([pool[:7], unit(5, 2)])
    assert_same(nearest(pool, queries, num=3), brute_force(pool, queries, 3))


def test_rounding_of_a_matrix_product_costs_no_neighbour() -> None:
    """A thousand images whose similarities differ by less than float32 sums of 768 products can tell."""
    random = np.random.default_rng(9)
    near = np.repeat(unit(1, 10, dim=768), 1000, axis=0)
    for row in near:
        some = random.choice(768, 3, replace=False)
        row[some] = np.nextafter(row[some], np.float16(2.0))
    queries = unit(3, 11, dim=768)
    assert_same(nearest(near, queries, num=7), brute_force(near, queries, 7))


def test_every_query_may_have_a_number_of_its_own() -> None:
    pool, queries = unit(300, 12), unit(5, 13)
    found = nearest(pool, queries, num=np.array([3, 0, 1, 500, 3]))
    assert np.diff(found.offsets).tolist() == [3, 0, 1, 300, 3]
    assert_same(
        nearest(pool, queries[3:4], num=300), Neighbours(np.array([0, 300]), found.rows[4:304], found.similarity[4:304])
    )


def in_cells(pool: np.ndarray, queries: np.ndarray, centroids: np.ndarray, num_probes: int) -> Neighbours:
    cells = np.concatenate([labels for _, labels, _ in assign(InMemory(pool), centroids)])
    order = np.argsort(cells, kind="stable")
    bounds = np.searchsorted(cells[order], np.arange(len(centroids) + 1))
    probes = nearest(centroids.astype(np.float16), queries, num=num_probes)
    asking = Asking.of(probes.rows, np.repeat(np.arange(len(queries)), num_probes), len(centroids))
    found = nearest_in_cells(pool[order], bounds, queries, asking, num=4, ties=order)
    return Neighbours(found.offsets, order[found.rows], found.similarity)


def test_with_every_cell_probed_the_search_by_cells_is_exact_and_recall_grows_with_probes() -> None:
    pool, queries = unit(1500, 14), unit(60, 15)
    centroids = fit_kmeans(InMemory(pool), num_clusters=30, seed=0, iterations=5).centroids
    expected = brute_force(pool, queries, 4)
    recalls = []
    for num_probes in (1, 5, 30):
        found = in_cells(pool, queries, centroids, num_probes)
        same, there = recall_of(found, expected)
        assert there == 240
        recalls.append(same / there)
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    assert_same(found, expected)


def test_a_query_sees_the_cells_it_looks_into_and_no_others() -> None:
    pool = unit(400, 16)
    bounds, queries = np.array([0, 100, 100, 250, 400]), unit(3, 17)
    asking = Asking.of(np.array([0, 3, 1, 2, 3]), np.array([0, 0, 1, 2, 2]), 4)
    found = nearest_in_cells(pool, bounds, queries, asking, num=5)
    seen = [np.r_[0:100, 250:400], np.r_[0:0], np.r_[100:400]]
    for query, rows in enumerate(seen):
        mine = found.rows[found.offsets[query] : found.offsets[query + 1]]
        expected = rows[brute_force(pool[rows], queries[query : query + 1], 5).rows] if len(rows) else rows
        assert mine.tolist() == expected.tolist()


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="20 dimensions"):
        nearest(unit(5, 0), unit(2, 0, dim=8), num=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_and_hide_no_neighbour(value: float) -> None:
    pool, queries = unit(200, 0), unit(2, 1)
    pool[150, 3] = value
    with pytest.raises(ValueError, match="vector of the pool has values that are not finite"):
        nearest(pool, queries, num=1)
    with pytest.raises(ValueError, match="a query has values that are not finite"):
        nearest(queries, pool, num=1)


def test_words_of_ids_sort_as_the_ids_do() -> None:
    ids = np.array(
        [f"{n:024x}" for n in np.random.default_rng(18).integers(0, 2**62, 200)] + ["ab", "abc"], dtype="S24"
    )
    assert np.array_equal(np.lexsort(tuple(reversed(id_words(ids)))), np.argsort(ids, kind="stable"))


def test_ranks_count_anew_in_every_group() -> None:
    assert ranks(np.array([3, 3, 5, 9, 9, 9])).tolist() == [0, 1, 0, 0, 1, 2]
    assert ranks(np.zeros(0)).tolist() == []
