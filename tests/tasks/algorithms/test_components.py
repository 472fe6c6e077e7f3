import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.algorithms.components import Components, component_sizes, components_of, size_histogram


def smallest_of_component(num_rows: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    _, labels = connected_components(coo_matrix((np.ones(len(left)), (left, right)), (num_rows, num_rows)), False)
    smallest = np.full(labels.max() + 1, num_rows)
    np.minimum.at(smallest, labels, np.arange(num_rows))
    return smallest[labels]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 400), share=st.floats(0, 1.5))
def test_components_are_scipys_in_any_order_and_cut_of_the_edges(seed: int, num_rows: int, share: float) -> None:
    random = np.random.default_rng(seed)
    left, right = random.integers(0, num_rows, size=(2, int(num_rows * share)))
    expected = smallest_of_component(num_rows, left, right)
    for _ in range(3):
        order = random.permutation(len(left))
        forest = Components(num_rows)
        for piece in np.array_split(order, 5):
            forest.add(left[piece], right[piece])
        assert np.array_equal(forest.labels(), expected)


def test_a_long_chain_added_from_its_end_is_one_component() -> None:
    num_rows = 200_000
    forest = Components(num_rows)
    forest.add(np.arange(num_rows - 2, -1, -1), np.arange(num_rows - 1, 0, -1))
    assert not forest.labels().any()


@pytest.mark.parametrize("name", ["random", "chains", "stars", "copies"])
def test_components_of_two_million_edges_are_scipys_whatever_their_order(name: str) -> None:
    num_rows, num_edges = 400_000, 2_000_000
    random = np.random.default_rng(7)
    left = random.integers(0, num_rows, num_edges)
    right = {
        "random": random.integers(0, num_rows, num_edges),
        "chains": np.minimum(left + 1, num_rows - 1),
        "stars": left % 1000,
        "copies": left // 16 * 16 + random.integers(0, 16, num_edges),
    }[name]
    place = random.permutation(num_rows)
    left, right = place[left], place[right]
    expected = smallest_of_component(num_rows, left, right)
    for order in (np.lexsort((right, left)), random.permutation(num_edges)):
        blocks = ((left[rows], right[rows]) for rows in np.array_split(order, 13))
        assert np.array_equal(components_of(num_rows, blocks), expected)


def test_memory_is_four_bytes_per_row_whatever_the_number_of_edges() -> None:
    """Eight where there are 2**31 rows or more: never above 8, sizes and labels included one at a time."""
    forest = Components(100_000)
    arrays = [value for value in vars(forest).values() if isinstance(value, np.ndarray)]
    assert [array.nbytes for array in arrays] == [400_000]
    random = np.random.default_rng(0)
    tracemalloc.start()
    for _ in range(20):
        forest.add(*random.integers(0, 100_000, size=(2, 10_000)))
    labels = forest.labels()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 50_000, "edges are not held"
    assert np.shares_memory(labels, forest.parents)
    assert component_sizes(labels).nbytes == 400_000


def test_rows_beyond_two_to_the_31_get_eight_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_memory(count: int, dtype: type) -> np.ndarray:
        asked.append((count, np.dtype(dtype).itemsize))
        return np.zeros(1, dtype)

    monkeypatch.setattr(np, "arange", no_memory)
    for count in (2**31 - 1, 2**31):
        Components(count)
    assert asked == [(2**31 - 1, 4), (2**31, 8)]


def test_an_edge_that_leaves_the_graph_is_refused_and_nothing_is_joined() -> None:
    forest = Components(7)
    with pytest.raises(IndexError, match="row 7 in a graph of 7"):
        forest.add(np.array([0, 0]), np.array([1, 7]))
    with pytest.raises(IndexError, match="row -1 in a graph of 7"):
        forest.add(np.array([2, -1]), np.array([3, 3]))
    with pytest.raises(ValueError, match="2 left ones, 1 right ones"):
        forest.add(np.array([0, 1]), np.array([1]))
    assert forest.labels().tolist() == list(range(7))


def test_the_histogram_counts_components_by_size() -> None:
    forest = Components(7)
    forest.add(np.array([0, 1, 4]), np.array([1, 2, 5]))
    assert size_histogram(component_sizes(forest.labels())) == {1: 2, 2: 1, 3: 1}
    many = np.tile(np.array([0, 1, 5, 0], dtype=np.int32), 600_000)  # of several blocks
    assert size_histogram(many) == {1: 600_000, 5: 600_000}
