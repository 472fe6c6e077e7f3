"""The PCA hash against NumPy's SVD, and its groups against the sentence that defines them."""

import numpy as np
import pytest

from tasks.algorithms.pca_hash import (
    Pca,
    contrasts,
    fit_pca,
    hash_thumbnails,
    pack_bits,
    verified_groups,
)


def _thumbnails(count: int, pixels: int = 64, seed: int = 0) -> np.ndarray:
    """Correlated pixels, so that the leading directions stand out."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(count, 12)) * np.linspace(60, 8, 12)
    return np.clip(128 + factors @ rng.normal(size=(12, pixels)) / 4 + rng.normal(size=(count, pixels)), 0, 255).astype(
        np.uint8
    )


def test_the_directions_are_the_svds() -> None:
    thumbnails = _thumbnails(500)
    pca = fit_pca([thumbnails], num_bits=10)
    _, _, rows = np.linalg.svd(thumbnails - thumbnails.mean(axis=0), full_matrices=False)
    ours = pca.directions / np.linalg.norm(pca.directions, axis=1, keepdims=True)
    assert np.abs(np.abs((ours * rows[:10]).sum(axis=1)) - 1).max() < 1e-6
    assert np.allclose(pca.thresholds, pca.directions @ thumbnails.mean(axis=0))


def test_the_bits_are_the_signs_of_the_projections() -> None:
    thumbnails = _thumbnails(300)
    pca = fit_pca([thumbnails])
    signs = (thumbnails - thumbnails.mean(axis=0)) @ pca.directions.T > 0
    slow = [sum(int(bit) << place for place, bit in enumerate(row)) for row in signs]
    assert hash_thumbnails(thumbnails, pca).tolist() == slow


def test_blocks_and_their_order_change_nothing() -> None:
    thumbnails = _thumbnails(400)
    whole = fit_pca([thumbnails])
    cut = fit_pca([thumbnails[250:], thumbnails[:7], thumbnails[7:250]])
    assert np.array_equal(whole.directions, cut.directions)
    assert np.array_equal(whole.thresholds, cut.thresholds)
    apart = [hash_thumbnails(thumbnails[place : place + 1], whole) for place in range(400)]
    assert np.array_equal(np.concatenate(apart), hash_thumbnails(thumbnails, whole))


def test_equal_thumbnails_have_equal_hashes_and_half_the_bits_are_set() -> None:
    thumbnails = _thumbnails(2000)
    hashes = hash_thumbnails(thumbnails, fit_pca([thumbnails], num_bits=12))
    share = np.array([(hashes >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(12)])
    assert np.abs(share - 0.5).max() < 0.1
    assert len(np.unique(hashes)) > 1500  # 12 bits give at most 4,096 values


def test_fewer_images_than_bits_leave_the_last_bits_zero() -> None:
    thumbnails = _thumbnails(5)
    hashes = hash_thumbnails(thumbnails, fit_pca([thumbnails]))
    assert (hashes < 2**5).all()
    assert hash_thumbnails(thumbnails[:1], fit_pca([thumbnails[:1]])).tolist() == [0]
    with pytest.raises(ValueError, match="at least one"):
        fit_pca([])


def test_what_hardly_varies_has_no_bit() -> None:
    """Fifty copies of each of two pictures, with a little noise: one direction tells, the noise's do not."""
    pair = np.repeat(_thumbnails(2, seed=9), 50, axis=0).astype(int)
    copies = np.clip(pair + np.random.default_rng(2).integers(-2, 3, pair.shape), 0, 255).astype(np.uint8)
    hashes = hash_thumbnails(copies, fit_pca([copies]))
    assert len(np.unique(hashes[:50])) == len(np.unique(hashes[50:])) == 1
    assert hashes[0] != hashes[50]


def test_sixty_four_bits_fit_one_integer() -> None:
    bits = np.eye(64, dtype=bool)
    assert pack_bits(bits).tolist() == [1 << place for place in range(64)]
    assert pack_bits(np.ones((1, 64), bool)).tolist() == [2**64 - 1]


def _slow_groups(hashes: np.ndarray, thumbnails: np.ndarray, least: float) -> list[int]:
    keepers: list[int] = []
    for image in range(len(hashes)):
        alike = (
            earlier
            for earlier in range(image)
            if keepers[earlier] == earlier
            and hashes[earlier] == hashes[image]
            and np.corrcoef(thumbnails[earlier], thumbnails[image])[0, 1] >= least
        )
        keepers.append(next(alike, image))
    return keepers


@pytest.mark.parametrize("least", [-1.0, 0.5, 0.9, 0.999])
def test_groups_are_what_their_definition_says(least: float) -> None:
    rng = np.random.default_rng(3)
    originals = _thumbnails(40)
    thumbnails = originals[rng.integers(0, 40, 300)].astype(int) + rng.integers(-6, 7, (300, 64))
    thumbnails = np.clip(thumbnails, 0, 255).astype(np.uint8)
    hashes = rng.integers(0, 6, 300).astype(np.uint64)  # coarse, so that different pictures share a hash
    keeper, correlation = verified_groups(hashes, thumbnails, min_correlation=least)
    assert keeper.tolist() == _slow_groups(hashes, thumbnails, least)
    copies = keeper != np.arange(300)
    measured = [np.corrcoef(thumbnails[a], thumbnails[b])[0, 1] for a, b in enumerate(keeper)]
    assert np.allclose(correlation[copies], np.array(measured)[copies], atol=1e-6)


def test_raising_the_correlation_never_drops_more() -> None:
    thumbnails = np.repeat(_thumbnails(30), 3, axis=0)
    thumbnails = np.clip(thumbnails.astype(int) + np.random.default_rng(1).integers(-20, 21, thumbnails.shape), 0, 255)
    hashes = np.zeros(90, np.uint64)
    dropped = [
        int((verified_groups(hashes, thumbnails.astype(np.uint8), min_correlation=least)[0] != np.arange(90)).sum())
        for least in (-1.0, 0.5, 0.9, 0.99, 1.0)
    ]
    assert dropped == sorted(dropped, reverse=True)
    assert dropped[0] == 89


def test_flat_thumbnails_are_like_each_other_and_like_nothing_else() -> None:
    thumbnails = np.array([[7] * 64, [200] * 64, list(range(64))], np.uint8)
    keeper, _ = verified_groups(np.zeros(3, np.uint64), thumbnails, min_correlation=1.0)
    assert keeper.tolist() == [0, 0, 2]
    assert contrasts(thumbnails).tolist() == pytest.approx([0, 0, np.std(range(64))])


def test_a_pca_is_plain_arrays() -> None:
    pca = Pca(np.array([[1.0, 0.0]]), np.array([5.0]))
    assert hash_thumbnails(np.array([[5, 9], [6, 0]], np.uint8), pca).tolist() == [0, 1]
