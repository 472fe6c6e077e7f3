"""Candidates of Faiss hold the true pairs where the search is wide, and it goes on where all neighbours are near."""

import numpy as np
import pytest

from tasks.algorithms.cross_join import cross_pairs, pair_similarity
from tasks.algorithms.faiss_join import add_vectors, from_bytes, search, to_bytes, train_index


def vectors(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    found = random.normal(size=(1, 150, 32)) + 0.4 * random.normal(size=(6, 150, 32))
    return (found / np.linalg.norm(found, axis=2, keepdims=True)).reshape(-1, 32).astype(np.float16)


def index_of(rows: np.ndarray, **how: int) -> object:
    index = train_index(rows, **({"num_lists": 8, "code_bytes": 16} | how))
    add_vectors(index, rows)
    return index


def test_a_wide_search_finds_every_true_pair() -> None:
    rows = vectors()
    found = search(index_of(rows), rows, neighbours=300, probes=8, at_least=0.3)
    candidates = set(zip(found.queries.tolist(), found.rows.tolist(), strict=True))
    true = list(cross_pairs(rows, rows, threshold=0.6))
    pairs = {pair for edges in true for pair in zip(edges.left.tolist(), edges.right.tolist(), strict=True)}
    assert len(pairs) > 3 * len(rows)
    assert len(pairs - candidates) <= 0.001 * len(pairs)
    assert (found.num_extended, found.num_cut) == (0, 0)


def test_a_narrow_search_finds_less() -> None:
    rows = vectors()
    index = index_of(rows)
    wide, narrow = (len(search(index, rows, neighbours=64, probes=probes, at_least=0.5).rows) for probes in (8, 1))
    assert narrow < wide


def test_a_search_goes_on_where_all_neighbours_are_near() -> None:
    """60 copies of one image, and 5 neighbours asked for: the copies' searches are extended until they have all."""
    rows = vectors()
    rows[:60] = rows[0] + (0.02 * np.random.default_rng(1).normal(size=(60, 32))).astype(np.float16)
    found = search(index_of(rows), rows[:60], neighbours=5, probes=8, at_least=0.6)
    counts = np.bincount(found.queries, minlength=60)
    assert (counts >= 60).all()
    assert found.num_extended == 60
    assert len(np.unique(found.queries * 10_000 + found.rows)) == len(found.rows)


def test_an_index_is_the_same_after_a_file() -> None:
    rows = vectors()
    index = index_of(rows)
    again = from_bytes(to_bytes(index))
    for one, other in zip(
        *(search(each, rows, neighbours=9, probes=3, at_least=0.4) for each in (index, again)), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("count", [1, 100, 255])
def test_few_vectors_are_stored_whole_and_found_exactly(count: int) -> None:
    rows = vectors()[:count]
    found = search(index_of(rows), rows, neighbours=3, probes=8, at_least=0.999)
    assert np.array_equal(found.queries[found.queries == found.rows], np.arange(count))


def test_the_similarity_of_a_pair_is_that_of_the_joins() -> None:
    rows = vectors()
    rows[5] = 0
    for edges in cross_pairs(rows, rows[::-1], threshold=0.6):
        found = pair_similarity(rows[edges.left], rows[::-1][edges.right])
        np.testing.assert_allclose(found, edges.similarity, atol=1e-7)
    assert pair_similarity(rows[5:6], rows[:1]).tolist() == [0.0]
