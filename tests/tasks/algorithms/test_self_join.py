import numpy as np
import pytest

from tasks.algorithms.blocks import Concatenated, InMemory, even_blocks
from tasks.algorithms.kmeans import fit_kmeans
from tasks.algorithms.self_join import (
    Edges,
    assign_cells,
    num_cells,
    recall_of_cells,
    similar_pairs,
    similar_pairs_in_cells,
)


def families(seed: int, num_families: int = 60, size: int = 6, dim: int = 24, noise: float = 0.16) -> np.ndarray:
    """Unit float16 vectors in families, so that some pairs lie on either side of any threshold."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(num_families, 1, dim))
    vectors = (centres + noise * np.sqrt(dim) * random.normal(size=(num_families, size, dim)) / 2).reshape(-1, dim)
    vectors = vectors[random.permutation(len(vectors))]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(vectors: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = exact @ exact.T
    return {(i, j): cosines[i, j] for i, j in zip(*np.nonzero(np.triu(cosines > threshold, 1)), strict=True)}


def as_dict(blocks: list[Edges]) -> dict[tuple[int, int], float]:
    found = [
        ((int(i), int(j)), float(s))
        for edges in blocks
        for i, j, s in zip(edges.left, edges.right, edges.similarity, strict=True)
    ]
    assert len(dict(found)) == len(found), "a pair came twice"
    return dict(found)


@pytest.mark.parametrize("block_rows", [7, 100, 5000])
def test_the_join_is_brute_force_whatever_the_block_size(block_rows: int) -> None:
    vectors = families(0)
    true = brute_force(vectors, 0.6)
    found = as_dict(list(similar_pairs(InMemory(vectors), threshold=0.6, block_rows=block_rows)))
    assert 300 < len(true) < 3000
    assert found.keys() == true.keys()
    assert max(abs(found[pair] - true[pair]) for pair in true) < 1e-5


def test_an_image_with_more_copies_than_k_keeps_all_its_edges() -> None:
    vectors = np.tile(families(1, 1, 1), (90, 1))
    assert len(as_dict(list(similar_pairs(InMemory(vectors), threshold=0.6)))) == 90 * 89 // 2


def test_zero_vectors_have_no_edges() -> None:
    vectors = np.concatenate([np.zeros((5, 24), np.float16), families(2, 2, 3)])
    assert all(i >= 5 and j >= 5 for i, j in as_dict(list(similar_pairs(InMemory(vectors), threshold=0.1))))


@pytest.mark.parametrize("threshold", [-0.2, 0.0, 1.0, 60.0])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        next(similar_pairs(InMemory(families(0)), threshold=threshold))


def test_the_join_by_cells_finds_true_pairs_only_and_as_many_as_its_measured_recall_says() -> None:
    vectors = families(3, num_families=200, noise=0.2)
    source = InMemory(vectors)
    centroids = fit_kmeans(source, num_clusters=40, seed=1, iterations=5).centroids
    true = brute_force(vectors, 0.6)
    recalls = []
    for assignments in (1, 2, 4):
        cells = assign_cells(source, centroids, assignments=assignments)
        found = as_dict(list(similar_pairs_in_cells(source, cells, threshold=0.6)))
        assert found.keys() <= true.keys()
        everyone = np.arange(len(vectors))
        hits, total = recall_of_cells(source, cells, everyone, threshold=0.6, block_rows=77)
        assert (hits, total) == (2 * len(found), 2 * len(true))  # every pair is seen from both its ends
        recalls.append(hits / total)
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.99 < recalls[-1]


def test_one_cell_makes_the_join_exact() -> None:
    vectors = families(4)
    cells = assign_cells(InMemory(vectors), vectors[:1].astype(np.float32), assignments=4)
    found = as_dict(list(similar_pairs_in_cells(InMemory(vectors), cells, threshold=0.6)))
    assert found.keys() == brute_force(vectors, 0.6).keys()


def test_the_cost_of_the_best_number_of_cells_grows_as_the_rows_to_three_halves() -> None:
    def cost(rows: int, cells: int) -> float:
        return rows * cells + 16 * rows**2 / (2 * cells)

    for rows in (10_000, 1_000_000):
        best = num_cells(rows, assignments=4)
        assert cost(rows, best) <= min(cost(rows, best // 2), cost(rows, best * 2))
        assert cost(rows, best) == pytest.approx(4 * 2**0.5 * rows**1.5, rel=0.01)


def test_even_blocks_do_not_depend_on_the_cuts_of_the_source() -> None:
    vectors = families(5)
    parts = Concatenated([InMemory(vectors[:3]), InMemory(vectors[3:100]), InMemory(vectors[100:])])
    blocks = list(even_blocks(parts, 50))
    assert [start for start, _ in blocks] == list(range(0, 360, 50))
    assert all(len(block) == 50 for _, block in blocks[:-1])
    assert np.array_equal(np.concatenate([block for _, block in blocks]), vectors.astype(np.float32))
    rows = np.array([359, 2, 3, 99, 100, 0])
    assert np.array_equal(parts.take(rows), vectors[rows].astype(np.float32))


def test_sources_of_different_dimensions_are_not_joined() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        Concatenated([InMemory(np.zeros((2, 3))), InMemory(np.zeros((2, 4)))])
