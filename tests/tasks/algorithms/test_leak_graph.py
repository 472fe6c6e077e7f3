"""A row hangs together with a reference exactly when a component of both says so, in whatever order edges come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.algorithms.leak_graph import LeakGraph, Leaks

NUM_REFERENCES, NUM_POOL = 8, 40


def random_edges(seed: int) -> tuple[np.ndarray, ...]:
    """Kind (0 pool, 1 link, 2 references), ends and similarities of few values, so that there are equal ones."""
    random = np.random.default_rng(seed)
    kinds = random.choice(3, 36, p=[0.7, 0.2, 0.1])
    sizes = np.array([[NUM_POOL, NUM_POOL], [NUM_POOL, NUM_REFERENCES], [NUM_REFERENCES, NUM_REFERENCES]])[kinds]
    left, right = (random.random((36, 2)) * sizes).astype(np.int64).T
    return kinds, left, right, random.choice(np.array([0.5, 0.6, 0.7], dtype=np.float32), 36)


def graph_of(edges: tuple[np.ndarray, ...], order: np.ndarray, pieces: int) -> LeakGraph:
    graph = LeakGraph(NUM_REFERENCES, NUM_POOL)
    for piece in np.array_split(order, pieces):
        for kind in (2, 0, 1):
            left, right, similarity = (column[piece][edges[0][piece] == kind] for column in edges[1:])
            if kind == 2:
                graph.join_references(left, right)
            else:
                (graph.join_pool if kind == 0 else graph.link)(left, right, similarity)
    return graph


def by_hand(edges: tuple[np.ndarray, ...]) -> Leaks:
    kinds, left, right, similarity = edges
    count = NUM_REFERENCES + NUM_POOL
    ends = (np.where(kinds < 2, left + NUM_REFERENCES, left), np.where(kinds == 0, right + NUM_REFERENCES, right))
    _, labels = connected_components(coo_matrix((np.ones(len(left)), ends), (count, count)), directed=False)
    found = []
    for row in range(NUM_POOL):
        links = [(-s, r) for k, a, r, s in zip(kinds, left, right, similarity, strict=True) if k == 1 and a == row]
        near = [s for k, a, b, s in zip(kinds, left, right, similarity, strict=True) if k == 0 and row in (a, b)]
        mine = np.flatnonzero(labels[:NUM_REFERENCES] == labels[NUM_REFERENCES + row])
        if links:
            found.append((min(links)[1], True, -min(links)[0]))
        else:
            found.append((mine[0], False, max(near)) if len(mine) else (-1, False, np.nan))
    return Leaks(*(np.array(column) for column in zip(*found, strict=True)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_leaks_are_those_of_the_slow_way_in_any_order_of_the_edges(seed: int) -> None:
    edges = random_edges(seed)
    expected = by_hand(edges)
    for number in range(3):
        order = np.random.default_rng([seed, number]).permutation(36)
        graph = graph_of(edges, order, pieces=1 + 5 * number)
        found = graph.leaks(np.arange(NUM_POOL))
        assert np.array_equal(found.reference, expected.reference)
        assert np.array_equal(found.direct, expected.direct)
        assert np.array_equal(found.similarity, expected.similarity.astype(np.float32), equal_nan=True)
        assert set(np.flatnonzero(graph.touched)) == set(edges[2][edges[0] == 1])


def test_edges_may_be_added_after_a_question() -> None:
    graph = LeakGraph(1, 3)
    graph.join_pool(np.array([0]), np.array([1]), np.array([0.5], np.float32))
    assert graph.leaks(np.arange(3)).reference.tolist() == [-1, -1, -1]
    graph.link(np.array([1]), np.array([0]), np.array([0.9], np.float32))
    assert graph.leaks(np.arange(3)).reference.tolist() == [0, 0, -1]
    assert graph.images_by_component(np.arange(3)).tolist() == [2]
    assert graph.images_by_component(np.array([0, 2])).tolist() == [1]


def test_memory_is_twelve_bytes_per_row_and_five_per_reference() -> None:
    graph = LeakGraph(1_000, 100_000)
    arrays = [value for value in vars(graph).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in [*arrays, graph._forest.parents]) == 12 * 100_000 + 5 * 1_000


@pytest.mark.parametrize(("rows", "references"), [([0], [2]), ([-1], [0]), ([5], [0]), ([0], [-1])])
def test_links_that_leave_the_graph_are_refused(rows: list[int], references: list[int]) -> None:
    with pytest.raises(IndexError):
        LeakGraph(2, 5).link(np.array(rows), np.array(references), np.array([0.5], np.float32))


def test_pool_rows_are_not_taken_for_references() -> None:
    with pytest.raises(IndexError, match="edge to reference 2 where there are 2"):
        LeakGraph(2, 5).join_references(np.array([0]), np.array([2]))
    with pytest.raises(IndexError, match="edge to image -1 where there are 5"):
        LeakGraph(2, 5).join_pool(np.array([-1]), np.array([2]), np.array([0.5], np.float32))
