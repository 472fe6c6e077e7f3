"""The benchmarks compare what they say: their vectors, the GPU's run in small, and the recall of Faiss's ways."""

import subprocess
import sys

import numpy as np

from bench import gpu_join
from bench.clustered_vectors import clustered_vectors
from bench.faiss_peers import known, recall
from bench.self_join import Truth, growth, true_pairs


def cosines_of(vectors: np.ndarray) -> np.ndarray:
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    return np.triu(exact @ exact.T, 1)


def test_the_vectors_have_topics_below_the_threshold_copies_above_it_and_the_same_bits_for_a_seed() -> None:
    vectors = clustered_vectors(4000, dim=256)
    assert np.array_equal(vectors, clustered_vectors(4000, dim=256))
    assert not np.array_equal(vectors, clustered_vectors(4000, dim=256, seed=1))
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1.0, atol=1e-3)
    cosines = cosines_of(vectors)
    related, copies = ((low < cosines) & (cosines < high) for low, high in ((0.3, 0.6), (0.6, 1.0)))
    assert related.sum() > 5 * copies.sum() > 10_000  # most that is alike is no copy
    copied = copies.any(axis=0) | copies.any(axis=1)
    assert 0.2 < copied.mean() < 0.6
    assert (cosines[copies] < 0.65).mean() > 0.15  # many pairs lie close to the threshold


def test_the_gpu_bench_counts_the_edges_that_brute_force_finds() -> None:
    content = gpu_join.measure(700, "cpu", tile=300, peak_size=64, repeats=1)
    true = int((cosines_of(clustered_vectors(700)) > 0.6).sum())
    assert content["ours"]["num_edges"] == true > 100
    assert abs(content["blocked_torch"]["pairs_above_in_half_precision"] - true) < 0.02 * true
    assert gpu_join.computed_flop(700, 300) == 2 * 512 * (300 * 700 + 300 * 400 + 100 * 100)
    assert content["ours"]["tflops"] > 0


def test_the_gpu_bench_and_what_it_imports_need_neither_numba_nor_faiss() -> None:
    code = "import sys, bench.gpu_join; assert not {'numba', 'faiss', 'prefect', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_recall_counts_a_pair_found_from_either_end() -> None:
    truth = Truth(np.array([3, 3, 8]), np.array([5, 9, 1]), np.array([True, True, False]))
    pairs = known(truth)
    assert pairs.queries.tolist() == [3, 5, 9]
    found = np.full((3, 4), -1)
    assert recall(found, pairs) == 0.0
    found[1, 2] = 3  # 5 has 3 among its neighbours
    assert recall(found, pairs) == 0.5


def test_the_truth_of_a_row_is_all_its_pairs_and_marks_its_64_most_similar_ones() -> None:
    vectors = np.concatenate([np.tile(clustered_vectors(10)[:1], (90, 1)), clustered_vectors(200, seed=1)])
    truth = true_pairs(vectors, len(vectors))
    cosines = cosines_of(vectors)
    assert len(truth.rows) == 2 * (cosines > 0.6).sum()
    per_row = np.bincount(truth.rows[truth.nearest], minlength=len(vectors))
    assert (per_row[:90] == 64).all()
    assert (np.bincount(truth.rows)[:90] >= 89).all()


def test_growth_is_the_exponent_of_the_rows() -> None:
    sizes = {str(rows): {"ours": {"seconds": 3.0 * rows**1.2}} for rows in (1000, 2000, 8000)}
    assert growth(sizes) == {"all": 1.2, "1000-2000": 1.2, "2000-8000": 1.2}
