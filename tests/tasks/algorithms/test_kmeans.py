"""k-means finds what is there, and its centroids are a function of the vectors, their keys and the seed alone."""

import itertools

import faiss
import numpy as np
import pytest
import torch

from bench import gpu_kmeans
from tasks.algorithms.blocks import Concatenated, InMemory
from tasks.algorithms.kmeans import Here, KMeans, assign, fit, fit_kmeans
from tasks.algorithms.kmeans_device import DeviceCentroids, DeviceSums
from tasks.algorithms.kmeans_nearest import Centroids, on_grid
from tasks.algorithms.kmeans_seeding import unit
from tasks.algorithms.kmeans_sums import Sums, move, split_for_empty
from tasks.algorithms.sampling import mix

PRECISIONS = [*(["int8"] if torch.cpu._is_vnni_supported() else []), "bfloat16", "float16", "float32"]


def clustered(num_rows: int = 3000, num_centres: int = 25, dim: int = 16, spread: float = 0.5) -> np.ndarray:
    random = np.random.default_rng(7)
    centres = random.normal(size=(num_centres, dim))
    vectors = centres[random.integers(0, num_centres, num_rows)] + spread * random.normal(size=(num_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def spiky(num_rows: int, dim: int = 90) -> np.ndarray:
    """Unit vectors whose first dimensions are far larger than the rest, as embeddings' are."""
    random = np.random.default_rng(5)
    return unit(random.normal(size=(num_rows, dim)) / np.arange(1, dim + 1) ** 1.5).astype(np.float16)


def slow_nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return (vectors.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("make", [clustered, spiky])
def test_no_precision_changes_the_nearest_centroid(precision: str, make) -> None:  # type: ignore[no-untyped-def]
    vectors = make(2500)
    centroids = on_grid(unit(make(5000)[-1500:].astype(np.float32)))
    near = Centroids(centroids, precision=precision)  # type: ignore[arg-type]
    assert np.array_equal(near.nearest(vectors), slow_nearest(vectors, centroids))


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_the_device_path_gives_what_the_cpu_path_gives(precision: str) -> None:
    vectors, centroids = spiky(9000), unit(spiky(700).astype(np.float32))
    expected = slow_nearest(vectors, centroids)
    rows = torch.from_numpy(vectors)
    labels = DeviceCentroids(centroids, precision, torch.device("cpu")).nearest(rows)
    assert np.array_equal(labels.numpy(), expected)
    here, there = Sums(*centroids.shape), DeviceSums(*centroids.shape, torch.device("cpu"))
    here.add(vectors, expected.astype(np.int32))
    there.add(rows, labels)
    assert np.array_equal(here.sums, there.sums.numpy())
    assert np.array_equal(here.counts, there.counts.numpy())


def test_the_gpu_benchmark_measures_a_pass_that_is_right() -> None:
    row = gpu_kmeans.compare(600, 24, 50, device=torch.device("cpu"), precision="float32", peak=1.0)
    assert (row["wrong_of_checked"], row["rows"]) == (0, 600)
    rows, centroids = gpu_kmeans.rows_on(torch.device("cpu"), 600, 24), unit(spiky(40, 24).astype(np.float32))
    labels, sums = gpu_kmeans.ours(rows, centroids, "bfloat16")
    assert np.array_equal(labels.numpy(), slow_nearest(rows.numpy(), centroids))
    expected = gpu_kmeans.plain(rows, centroids, "float32")[1]
    assert torch.allclose(sums.double() / 2.0**24, expected.double(), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_centroids_as_a_cpu() -> None:
    vectors = InMemory(clustered(4000, dim=64))
    fits = [fit_kmeans(vectors, num_clusters=50, seed=1, iterations=5, device=device) for device in ("cpu", "cuda")]
    assert fits[0].centroids.tobytes() == fits[1].centroids.tobytes()


def test_threads_do_not_change_a_label_and_are_left_as_they_were() -> None:
    vectors, near = spiky(5000), Centroids(unit(spiky(900).astype(np.float32)))
    alone, before = near.nearest(vectors), torch.get_num_threads()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert np.array_equal(near.nearest(vectors), alone)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_of_equally_near_centroids_the_lowest_wins_however_many_there_are() -> None:
    vectors = clustered(200)
    centroids = np.tile(unit(clustered(3).astype(np.float32)), (400, 1))
    expected = slow_nearest(vectors, centroids[:3])
    for precision in (PRECISIONS[0], "float32"):
        near = Centroids(centroids, precision=precision)  # type: ignore[arg-type]
        assert np.array_equal(near.nearest(vectors), expected)
    there = DeviceCentroids(centroids, "float16", torch.device("cpu"))
    assert np.array_equal(there.nearest(torch.from_numpy(vectors)).numpy(), expected)


def test_centroids_closer_than_half_precision_can_tell_are_told_apart() -> None:
    base = unit(spiky(1).astype(np.float32))
    random = np.random.default_rng(0)
    centroids = unit(base + 1e-5 * random.normal(size=(300, base.shape[1])))
    vectors = spiky(500)
    for precision in PRECISIONS[:2]:
        near = Centroids(centroids, precision=precision)  # type: ignore[arg-type]
        assert np.array_equal(near.nearest(vectors), slow_nearest(vectors, centroids))


def test_assignment_is_brute_force() -> None:
    vectors, centroids = clustered(), unit(clustered(17).astype(np.float32))
    cosines = vectors.astype(np.float64) @ centroids.astype(np.float64).T
    for start, labels, cosine in assign(InMemory(vectors), centroids, block_rows=999):
        expected = cosines[start : start + len(labels)]
        assert np.array_equal(labels, expected.argmax(axis=1))
        assert np.array_equal(cosine, expected.max(axis=1).astype(np.float32))


def test_int8_is_refused_where_it_would_not_be_exact() -> None:
    with pytest.raises(ValueError, match="int8 products need a CPU with VNNI"):
        Centroids(np.eye(4, dtype=np.float32), precision="int8", device="meta")


def test_vectors_of_other_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="16 dimensions, centroids of 8"):
        next(assign(InMemory(clustered(10)), np.eye(8, dtype=np.float32)))


def test_sums_are_the_same_in_any_order_and_any_grouping() -> None:
    vectors = clustered(5000)
    labels = np.random.default_rng(1).integers(0, 7, 5000).astype(np.int32)
    whole = Sums(7, 16)
    whole.add(vectors, labels)
    cut = [Sums(7, 16) for _ in range(3)]
    for number, rows in enumerate(np.array_split(np.random.default_rng(2).permutation(5000), 11)):
        cut[number % 3].add(vectors[rows], labels[rows])
    assert np.array_equal(whole.sums, sum(part.sums for part in cut))
    assert np.array_equal(whole.counts, sum(part.counts for part in cut))
    exact = np.stack([vectors[labels == cluster].astype(np.float64).sum(axis=0) for cluster in range(7)])
    assert np.array_equal(whole.sums / 2.0**24, exact)


def test_the_objective_never_falls() -> None:
    for num_clusters in (40, 300):
        found = fit_kmeans(
            InMemory(clustered(spread=1.0)), num_clusters=num_clusters, seed=3, iterations=25, tolerance=0.0
        )
        assert all(after >= before - 1e-7 for before, after in itertools.pairwise(found.objective))
        assert found.objective[-1] > found.objective[0]


@pytest.mark.parametrize("precision", [*PRECISIONS[:2], "float32"])
def test_no_cut_order_or_precision_changes_a_byte_of_the_centroids(precision: str) -> None:
    vectors, keys = clustered(10_000, spread=1.0), mix(np.arange(10_000, dtype=np.uint64))
    whole = fit_kmeans(InMemory(vectors), num_clusters=90, seed=5, iterations=4, keys=keys)
    order = np.random.default_rng(3).permutation(10_000)
    pieces = Concatenated([InMemory(piece) for piece in np.array_split(vectors[order], [11, 12, 4000, 9001])])
    again = fit_kmeans(pieces, num_clusters=90, seed=5, iterations=4, keys=keys[order], precision=precision)  # type: ignore[arg-type]
    assert whole.centroids.tobytes() == again.centroids.tobytes()
    assert whole.objective == again.objective
    other = fit_kmeans(pieces, num_clusters=90, seed=6, iterations=4, keys=keys[order])
    assert not np.array_equal(whole.centroids, other.centroids)


def test_killed_after_any_iteration_and_resumed_is_uninterrupted() -> None:
    vectors, states = InMemory(clustered(spread=1.0)), list[KMeans]()
    passes = Here(vectors, seed=2)
    whole = fit(passes, num_clusters=60, seed=2, iterations=9, tolerance=0.0, on_iteration=states.append)
    assert [state.iterations for state in states] == list(range(10))
    for state in (states[0], states[4], states[7], states[9]):
        again = fit(passes, num_clusters=60, seed=2, iterations=9, tolerance=0.0, start=state)
        assert again.centroids.tobytes() == whole.centroids.tobytes()
        assert again[1:] == whole[1:]


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
    before = Here(InMemory(vectors), seed=9).seed(20)
    exact = vectors.astype(np.float64)
    labels = slow_nearest(vectors, before)
    sums = np.stack([exact[labels == cluster].sum(axis=0) for cluster in range(20)])
    expected = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    found = fit_kmeans(InMemory(vectors), num_clusters=20, seed=9, iterations=1)
    assert np.abs(found.centroids - expected).max() < 1e-7
    assert found.objective[0] == pytest.approx((exact @ before.T.astype(np.float64)).max(axis=1).mean(), abs=1e-12)


def test_planted_clusters_are_found() -> None:
    random = np.random.default_rng(4)
    centres = unit(random.normal(size=(60, 32)))
    planted = random.integers(0, 60, 6000)
    vectors = unit(centres[planted] + 0.05 * random.normal(size=(6000, 32))).astype(np.float16)
    found = fit_kmeans(InMemory(vectors), num_clusters=60, seed=1)
    assert ((found.centroids @ centres.T).max(axis=0) > 0.99).all()
    labels = np.concatenate([labels for _, labels, _ in assign(InMemory(vectors), found.centroids)])
    assert len(set(zip(labels.tolist(), planted.tolist(), strict=True))) == 60  # one to one: ARI = 1


def test_kmeans_parallel_seeds_better_than_random_rows() -> None:
    random = np.random.default_rng(4)
    centres = unit(random.normal(size=(200, 32)))
    planted = random.integers(0, 200, 20_000)
    vectors = unit(centres[planted] + 0.05 * random.normal(size=(20_000, 32))).astype(np.float16)
    seeded = Here(InMemory(vectors), seed=0).seed(200)
    drawn = unit(vectors[random.choice(20_000, 200, replace=False)].astype(np.float32))
    losses = [1 - (vectors.astype(np.float32) @ seeds.T).max(axis=1).mean() for seeds in (seeded, drawn)]
    assert losses[0] < 0.5 * losses[1]


def test_seeding_finds_every_one_of_well_separated_clusters() -> None:
    corners = np.repeat(np.eye(12, dtype=np.float32), [5, 1, 400, 7, 2, 90, 3, 3, 1, 250, 8, 30], axis=0)
    centroids = Here(InMemory(corners), seed=0).seed(12)
    assert sorted(centroids.argmax(axis=1)) == list(range(12))


def test_an_empty_cluster_takes_a_part_of_the_one_that_loses_most() -> None:
    random = np.random.default_rng(0)
    tight = unit(np.eye(4)[[0]] + 0.01 * random.normal(size=(500, 4)))
    wide = unit(np.eye(4)[[1]] + 0.2 * random.normal(size=(500, 4)))
    vectors = np.concatenate([tight, wide]).astype(np.float16)
    centroids = on_grid(np.concatenate([np.eye(4)[:2], -np.eye(4)[:1]]))
    labels = Centroids(centroids).nearest(vectors)
    assert (labels == 2).sum() == 0
    sums = Sums(3, 4)
    sums.add(vectors, labels)
    moved = move(sums.sums, sums.counts, centroids)
    split, num_empty, num_reseeded = split_for_empty(moved, seed=1, iteration=0)
    assert (num_empty, num_reseeded) == (1, 1)
    assert np.array_equal(split[:2], moved.centroids[:2])
    after = Centroids(split).nearest(vectors)
    assert (after[:500] == 0).mean() > 0.99
    assert 100 < (after[500:] == 2).sum() < 400


def test_no_cluster_stays_empty_when_rows_differ() -> None:
    vectors = clustered(400, num_centres=3, spread=0.3)
    moved = Here(InMemory(vectors), seed=2)
    crowded = on_grid(np.tile(unit(vectors[:1].astype(np.float32)), (100, 1)))  # the worst of seeds: all the same
    found = fit(moved, num_clusters=100, seed=2, iterations=40, tolerance=0.0, start=KMeans(crowded))
    labels = np.concatenate([labels for _, labels, _ in assign(InMemory(vectors), found.centroids)])
    assert found.num_empty[0] == 99
    assert len(np.unique(labels)) == 100


def test_as_many_clusters_as_rows_puts_every_row_on_its_own_centroid() -> None:
    vectors = clustered(50)
    found = fit_kmeans(InMemory(vectors), num_clusters=50, seed=0)
    assert found.objective[-1] > 0.999


def test_copies_alone_still_make_centroids_of_unit_length() -> None:
    found = fit_kmeans(InMemory(np.tile(clustered(1), (9, 1))), num_clusters=3, seed=0)
    assert np.allclose(np.linalg.norm(found.centroids, axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("num_clusters", [0, 51])
def test_more_clusters_than_rows_or_none_are_refused(num_clusters: int) -> None:
    with pytest.raises(ValueError, match="clusters"):
        fit_kmeans(InMemory(clustered(50)), num_clusters=num_clusters, seed=0)
