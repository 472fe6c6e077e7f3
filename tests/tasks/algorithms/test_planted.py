"""Planted copies lie at the similarities they are said to lie at, among the vectors of the pool."""

import numpy as np
import pytest

from tasks.algorithms.planted import plant_copies


def originals() -> np.ndarray:
    """Vectors of 32 dimensions that lie in the first 8 of them."""
    vectors = np.zeros((200, 32))
    vectors[:, :8] = np.random.default_rng(0).normal(size=(200, 8)) + 2.0
    return vectors.astype(np.float16)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.mark.parametrize("threshold", [0.1, 0.45, 0.9])
def test_similarities_lie_evenly_between_the_threshold_and_one(threshold: float) -> None:
    found = cosines(plant_copies(originals(), threshold=threshold, seed=0), originals())
    wanted = threshold + (1 - threshold) * (np.arange(200) + 0.5) / 200
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_noise_has_the_directions_of_the_pool() -> None:
    copies = plant_copies(originals(), threshold=0.45, seed=0)
    assert np.abs(copies[:, 8:]).max() < 1e-6
    assert (np.abs(copies[:, :8]).max(axis=0) > 0.1).all()


def test_the_seed_decides_and_nothing_else() -> None:
    first, second, other = (plant_copies(originals(), threshold=0.45, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, first.astype(np.float16).astype(np.float32))


def test_two_originals_have_no_covariance_to_speak_of() -> None:
    with pytest.raises(ValueError, match="at least 3 originals, got 2"):
        plant_copies(originals()[:2], threshold=0.45, seed=0)
