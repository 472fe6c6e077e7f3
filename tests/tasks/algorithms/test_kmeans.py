import faiss
import numpy as np
import pytest

from tasks.algorithms.blocks import Concatenated, InMemory
from tasks.algorithms.kmeans import assign, fit_kmeans, seed_centroids


def clustered(num_rows: int = 3000, num_centres: int = 25, dim: int = 16, spread: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(7)
    centres = random.normal(size=(num_centres, dim))
    vectors = centres[random.integers(0, num_centres, num_rows)] + spread * random.normal(size=(num_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_the_objective_never_falls() -> None:
    fit = fit_kmeans(InMemory(clustered(spread=1.0)), num_clusters=40, seed=3, iterations=25, tolerance=0.0)
    assert all(after >= before - 1e-9 for before, after in zip(fit.objective, fit.objective[1:], strict=False))
    assert fit.objective[-1] > fit.objective[0]


def test_centroids_do_not_depend_on_how_the_vectors_are_cut_into_files() -> None:
    vectors = clustered(10_000)
    whole = fit_kmeans(InMemory(vectors), num_clusters=30, seed=5, iterations=4)
    pieces = Concatenated([InMemory(piece) for piece in np.array_split(vectors, [11, 12, 4000, 9001])])
    again = fit_kmeans(pieces, num_clusters=30, seed=5, iterations=4)
    assert np.array_equal(whole.centroids, again.centroids)
    other = fit_kmeans(pieces, num_clusters=30, seed=6, iterations=4)
    assert not np.array_equal(whole.centroids, other.centroids)


@pytest.mark.parametrize("num_clusters", [25, 60, 200])
def test_the_objective_is_as_good_as_that_of_faiss(num_clusters: int) -> None:
    vectors = clustered(6000)
    ours = fit_kmeans(InMemory(vectors), num_clusters=num_clusters, seed=0, iterations=20)
    peer = faiss.Kmeans(16, num_clusters, niter=20, spherical=True, seed=1, min_points_per_centroid=1)
    peer.train(vectors.astype(np.float32))
    similarity, _ = peer.index.search(vectors.astype(np.float32), 1)
    assert ours.objective[-1] > 0.995 * similarity.mean()


def test_one_step_moves_each_centroid_to_the_mean_direction_of_its_rows() -> None:
    vectors = clustered()
    before = seed_centroids(InMemory(vectors), num_clusters=20, seed=9)
    exact = vectors.astype(np.float64)
    labels = (exact @ before.astype(np.float64).T).argmax(axis=1)
    sums = np.stack([exact[labels == cluster].sum(axis=0) for cluster in range(20)])
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    after = fit_kmeans(InMemory(vectors), num_clusters=20, seed=9, iterations=1).centroids
    assert np.abs(after - expected).max() < 1e-4


def test_seeding_finds_every_one_of_well_separated_clusters() -> None:
    corners = np.repeat(np.eye(12, dtype=np.float32), [5, 1, 400, 7, 2, 90, 3, 3, 1, 250, 8, 30], axis=0)
    centroids = seed_centroids(InMemory(corners), num_clusters=12, seed=0)
    assert sorted(centroids.argmax(axis=1)) == list(range(12))


def test_no_cluster_stays_empty_when_rows_differ() -> None:
    vectors = clustered(400, num_centres=3, spread=0.3)
    fit = fit_kmeans(InMemory(vectors), num_clusters=100, seed=2, iterations=15, tolerance=0.0)
    labels = np.concatenate([labels for _, labels, _ in assign(InMemory(vectors), fit.centroids)])
    assert len(np.unique(labels)) == 100


def test_as_many_clusters_as_rows_puts_every_row_on_its_own_centroid() -> None:
    vectors = clustered(50)
    fit = fit_kmeans(InMemory(vectors), num_clusters=50, seed=0)
    assert fit.objective[-1] > 0.999


def test_copies_alone_still_make_centroids_of_unit_length() -> None:
    fit = fit_kmeans(InMemory(np.tile(clustered(1), (9, 1))), num_clusters=3, seed=0)
    assert np.allclose(np.linalg.norm(fit.centroids, axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("num_clusters", [0, 51])
def test_more_clusters_than_rows_or_none_are_refused(num_clusters: int) -> None:
    with pytest.raises(ValueError, match="clusters"):
        fit_kmeans(InMemory(clustered(50)), num_clusters=num_clusters, seed=0)


def test_assignment_is_brute_force() -> None:
    vectors, centroids = clustered(), clustered(17).astype(np.float32)
    cosines = vectors.astype(np.float32) @ centroids.T
    for start, labels, cosine in assign(InMemory(vectors), centroids, block_rows=999):
        expected = cosines[start : start + len(labels)]
        assert np.allclose(expected.max(axis=1), cosine, atol=1e-6)
        assert np.allclose(np.take_along_axis(expected, labels[:, None], 1)[:, 0], cosine, atol=1e-6)
