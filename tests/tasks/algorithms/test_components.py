import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks.algorithms.components import Components, component_sizes, keepers, size_histogram


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


def test_the_forest_takes_four_bytes_per_row() -> None:
    assert Components(1000).parents.nbytes == 4000


def test_an_edge_that_leaves_the_graph_is_refused() -> None:
    with pytest.raises(IndexError, match="row 7 in a graph of 7"):
        Components(7).add(np.array([0]), np.array([7]))


def test_the_histogram_counts_components_by_size() -> None:
    forest = Components(7)
    forest.add(np.array([0, 1, 4]), np.array([1, 2, 5]))
    assert size_histogram(component_sizes(forest.labels())) == {1: 2, 2: 1, 3: 1}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_keeper_is_the_preferred_row_of_each_component(seed: int) -> None:
    random = np.random.default_rng(seed)
    forest = Components(80)
    forest.add(*random.integers(0, 80, size=(2, 40)))
    labels = forest.labels()
    pixels, ids = random.integers(0, 3, 80), random.permutation(80) // 2
    kept = keepers(labels, [-pixels, ids])
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        best = min(members, key=lambda row: (-pixels[row], ids[row], row))
        assert (kept[members] == best).all()


def test_without_a_preference_the_first_row_is_kept() -> None:
    forest = Components(5)
    forest.add(np.array([1, 4]), np.array([3, 3]))
    assert keepers(forest.labels(), []).tolist() == [0, 1, 2, 1, 1]
