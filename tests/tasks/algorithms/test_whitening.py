import numpy as np
import pytest

from tasks.algorithms.whitening import fit_among_copies, fit_whitening


def correlated(num_rows: int = 2000, dim: int = 12) -> np.ndarray:
    random = np.random.default_rng(0)
    return (random.normal(size=(num_rows, dim)) @ random.normal(size=(dim, dim)) + 3.0).astype(np.float32)


def test_full_whitening_makes_the_covariance_the_identity() -> None:
    vectors = correlated()
    whitening = fit_whitening(vectors, dim=12, shrinkage=0.0)
    turned = (vectors - whitening.mean) @ whitening.matrix
    assert np.abs(np.cov(turned.T) - np.eye(12)).max() < 1e-2


def test_full_shrinkage_keeps_the_angles_between_centred_vectors() -> None:
    vectors = correlated()
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    whitened = fit_whitening(vectors, dim=12, shrinkage=1.0)(vectors)
    assert np.abs(whitened[:50] @ whitened.T - centred[:50] @ centred.T).max() < 1e-4


def test_whitened_vectors_have_unit_length_and_unrelated_ones_a_mean_cosine_near_zero() -> None:
    vectors = correlated()
    whitened = fit_whitening(vectors, dim=8, shrinkage=0.1)(vectors)
    assert whitened.shape == (2000, 8)
    assert np.allclose(np.linalg.norm(whitened, axis=1), 1.0, atol=1e-5)
    cosines = whitened[:300] @ whitened[300:600].T
    assert abs(cosines.mean()) < 0.02


def test_no_more_dimensions_come_out_than_the_sample_can_tell_apart() -> None:
    assert fit_whitening(correlated(5), dim=100, shrinkage=0.0).matrix.shape == (12, 4)


@pytest.mark.parametrize(("rows", "shrinkage", "message"), [(3, 0.1, "four vectors"), (9, 1.5, "shrinkage")])
def test_what_cannot_be_fitted_is_refused(rows: int, shrinkage: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_whitening(correlated(rows), dim=4, shrinkage=shrinkage)


def test_vectors_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="12 dimensions"):
        fit_whitening(correlated(), dim=4, shrinkage=0.1)(np.zeros((2, 5), dtype=np.float32))


def test_an_offset_lifts_every_cosine_by_the_stated_rule() -> None:
    vectors = correlated(50)
    plain = fit_whitening(vectors, dim=8, shrinkage=0.1)(vectors)
    lifted = fit_whitening(vectors, dim=9, shrinkage=0.1, offset=0.25)(vectors)
    assert lifted.shape == (50, 9)
    assert np.abs(lifted @ lifted.T - (plain @ plain.T + 0.25) / 1.25).max() < 1e-5


def test_fewer_rows_than_dimensions_give_the_directions_that_many_rows_would() -> None:
    vectors = correlated(40, dim=12)
    wide = np.pad(vectors, ((0, 0), (0, 60)))
    narrow, padded = fit_whitening(vectors, dim=6, shrinkage=0.0), fit_whitening(wide, dim=6, shrinkage=0.0)
    assert np.abs(narrow(vectors) @ narrow(vectors).T - padded(wide) @ padded(wide).T).max() < 1e-3


def test_copies_among_the_rows_stay_copies_and_chance_pairs_end_at_the_stated_cosine() -> None:
    random = np.random.default_rng(4)
    originals = random.normal(size=(600, 200)).astype(np.float32) * np.linspace(2, 0.3, 200, dtype=np.float32)
    copies = originals[:200] + 0.05 * random.normal(size=(200, 200)).astype(np.float32)
    rows = np.concatenate([originals, copies])
    whitening = fit_among_copies(rows, dim=256, shrinkage=0.1, chance=0.45)
    whitened = whitening(rows)
    assert whitened.shape[1] == whitening.out_dim <= 256
    assert (whitened[:200] * whitened[600:]).sum(axis=1).min() > 0.8
    chance = np.sort((whitened[:600] @ whitened[:600].T)[np.triu_indices(600, 1)])
    assert 0.3 < chance[-3] < 0.5


def test_equal_vectors_cannot_be_whitened() -> None:
    with pytest.raises(ValueError, match="vectors that differ"):
        fit_whitening(np.ones((10, 4), dtype=np.float32), dim=3, shrinkage=0.1)
