"""Giant components of weak links come apart, true groups never do, and neither depends on the order of the edges."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.algorithms.blocks import InMemory
from tasks.algorithms.component_cut import Cut, cut_components
from tasks.algorithms.components import Components
from tasks.algorithms.self_join import Edges, similar_pairs

LINKED, STRICT, MEDOID = 0.6, 0.7, 0.65


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def group(random: np.random.Generator, size: int, centre: np.ndarray, spread: float) -> np.ndarray:
    return unit(unit(centre[None]) + spread * unit(random.normal(size=(size, len(centre)))))


def arc(num_rows: int, cosine: float) -> np.ndarray:
    """Rows n apart have cosine**n: neighbours are linked, and the ends have nothing in common."""
    vectors = np.zeros((num_rows, num_rows), dtype=np.float32)
    vectors[0, 0] = 1
    for row in range(1, num_rows):
        vectors[row] = cosine * vectors[row - 1]
        vectors[row, row] = np.sqrt(1 - cosine**2)
    return vectors


def all_edges(vectors: np.ndarray) -> Edges:
    none = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    blocks = [none, *similar_pairs(InMemory(vectors), threshold=LINKED)]
    return Edges(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def labels_of(num_rows: int, edges: Edges) -> np.ndarray:
    forest = Components(num_rows)
    forest.add(edges.left, edges.right)
    return forest.labels()


def stream(edges: Edges, order: np.ndarray | None = None, pieces: int = 1) -> Callable[[], Iterator[Edges]]:
    order = np.arange(len(edges.left)) if order is None else order
    return lambda: (Edges(*(column[piece] for column in edges)) for piece in np.array_split(order, pieces))


def cut(vectors: np.ndarray, max_size: int, **more: float) -> Cut:
    edges = all_edges(vectors)
    thresholds = {"strict_threshold": STRICT, "medoid_threshold": MEDOID} | more
    return cut_components(
        labels_of(len(vectors), edges), stream(edges), InMemory(vectors), max_size=max_size, **thresholds
    )


def is_star(vectors: np.ndarray, members: np.ndarray, threshold: float) -> bool:
    cosines = vectors[members].astype(np.float64) @ vectors[members].astype(np.float64).T
    return bool(((cosines > threshold) | np.eye(len(members), dtype=bool)).all(axis=1).any())


def random_groups(seed: int) -> np.ndarray:
    """Groups of all sizes, tight and loose, and rows between them that chain them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, 12))
    groups = [group(random, int(random.integers(1, 14)), centre, random.uniform(0.1, 1.1)) for centre in centres]
    between = unit(unit(centres[:-1]) + unit(centres[1:]))
    vectors = np.concatenate([*groups, between])
    return vectors[random.permutation(len(vectors))]


def test_a_true_clique_is_never_cut() -> None:
    random = np.random.default_rng(0)
    vectors = group(random, 200, random.normal(size=16), 0.3)
    result = cut(vectors, max_size=10)
    assert not result.labels.any()
    assert (result.num_oversized, result.num_held, result.largest_after) == (1, 1, 200)


def test_two_groups_that_one_row_between_them_joins_come_apart_and_stay_whole() -> None:
    random = np.random.default_rng(1)
    first, second = np.eye(16)[:2]
    groups = [group(random, 30, first, 0.2), group(random, 30, second, 0.2), unit((first + second)[None])]
    vectors = np.concatenate(groups)
    assert not labels_of(61, all_edges(vectors)).any()
    labels = cut(vectors, max_size=40, strict_threshold=0.8).labels
    assert (labels[:30] == 0).all()
    assert (labels[30:60] == 30).all()


def test_a_chain_of_strong_pairs_is_cut_by_its_medoids() -> None:
    vectors = arc(60, 0.75)
    edges = all_edges(vectors)
    assert not labels_of(60, edges).any()
    result = cut(vectors, max_size=8)
    assert result.num_unverified == 0
    assert result.num_rounds > 0
    assert result.largest_after <= 8
    sizes = np.bincount(result.labels)
    assert sizes.sum() == 60


def test_a_long_chain_of_equal_pairs_takes_few_rounds() -> None:
    """30 degrees from row to row, from axis to axis: a third of all rows have the largest sum, to the last bit."""
    axes = np.eye(1_500, dtype=np.float32)
    turns = np.deg2rad([0, 30, 60]).astype(np.float32)[:, None, None]
    vectors = (np.cos(turns) * axes[:-1] + np.sin(turns) * axes[1:]).transpose(1, 0, 2).reshape(-1, 1_500)
    left = np.arange(len(vectors) - 1)
    edges = Edges(left, left + 1, np.full(len(left), 0.866, dtype=np.float32))
    numbers = {"max_size": 20, "strict_threshold": 0.7, "medoid_threshold": 0.8}
    result = cut_components(labels_of(len(vectors), edges), stream(edges), InMemory(vectors), **numbers)
    assert result.largest_before == len(vectors) == 4_497
    assert result.largest_after <= 20
    assert 1 < result.num_rounds <= 8


def test_components_up_to_the_size_are_left_alone_and_the_edges_are_not_even_asked_for() -> None:
    vectors = arc(20, 0.7)
    labels = labels_of(20, all_edges(vectors))

    def never() -> Iterator[Edges]:
        raise AssertionError("no component is oversized")

    result = cut_components(
        labels, never, InMemory(vectors), max_size=20, strict_threshold=STRICT, medoid_threshold=MEDOID
    )
    assert np.array_equal(result.labels, labels)
    assert (result.num_oversized, result.num_members, result.largest_before, result.largest_after) == (0, 0, 20, 20)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), max_size=st.integers(2, 12))
def test_what_stays_too_large_is_a_star_and_pieces_lie_inside_the_components(seed: int, max_size: int) -> None:
    vectors = random_groups(seed)
    before = labels_of(len(vectors), all_edges(vectors))
    result = cut(vectors, max_size=max_size)
    sizes = np.bincount(before)
    untouched = sizes[before] <= max_size
    assert np.array_equal(result.labels[untouched], before[untouched])
    for label in np.unique(result.labels):
        members = np.flatnonzero(result.labels == label)
        assert members[0] == label
        assert len(np.unique(before[members])) == 1
        assert len(members) <= max_size or is_star(vectors, members, MEDOID)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_cut_does_not_depend_on_the_order_direction_or_repetition_of_the_edges(seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random_groups(seed)
    edges = all_edges(vectors)
    labels = labels_of(len(vectors), edges)
    numbers = {"max_size": 4, "strict_threshold": STRICT, "medoid_threshold": MEDOID}
    expected = cut_components(labels, stream(edges), InMemory(vectors), **numbers).labels
    twice = Edges(
        *(np.concatenate(pair) for pair in zip(edges, (edges.right, edges.left, edges.similarity), strict=True))
    )
    order = random.permutation(len(twice.left))
    again = cut_components(labels, stream(twice, order, pieces=7), InMemory(vectors), **numbers).labels
    assert np.array_equal(expected, again)


def test_similarities_are_computed_from_the_vectors_and_not_believed() -> None:
    random = np.random.default_rng(5)
    vectors = np.concatenate([group(random, 12, np.eye(8)[0], 0.2), group(random, 12, np.eye(8)[1], 0.2)])
    true = all_edges(vectors)
    wrong = Edges(np.r_[true.left, 0], np.r_[true.right, 12], np.r_[true.similarity, np.float32(0.99)])
    labels = labels_of(24, wrong)
    assert not labels.any()
    numbers = {"max_size": 5, "strict_threshold": STRICT, "medoid_threshold": MEDOID}
    result = cut_components(labels, stream(wrong), InMemory(vectors), **numbers)
    assert result.labels.tolist() == [0] * 12 + [12] * 12
    assert result.num_unverified == 1


def test_vectors_need_not_have_length_one() -> None:
    vectors = random_groups(3)
    numbers = {"max_size": 4, "strict_threshold": STRICT, "medoid_threshold": MEDOID}
    edges = all_edges(vectors)
    labels = labels_of(len(vectors), edges)
    scaled = vectors * np.random.default_rng(0).uniform(0.5, 2, size=(len(vectors), 1)).astype(np.float32)
    expected = cut_components(labels, stream(edges), InMemory(vectors), **numbers).labels
    assert np.array_equal(cut_components(labels, stream(edges), InMemory(scaled), **numbers).labels, expected)


@pytest.mark.parametrize("wrong", [{"max_size": 1}, {"strict_threshold": 1.0}, {"medoid_threshold": -1.5}])
def test_absurd_numbers_are_refused(wrong: dict[str, float]) -> None:
    numbers = {"max_size": 5, "strict_threshold": STRICT, "medoid_threshold": MEDOID} | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cut_components(np.zeros(3, dtype=np.int32), lambda: iter(()), InMemory(np.eye(3, dtype=np.float32)), **numbers)
