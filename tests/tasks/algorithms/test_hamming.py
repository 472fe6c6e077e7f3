"""Every pair of near hashes is found, whatever the cut into bands; a keeper is never a copy."""

import numpy as np
import pytest

from tasks.algorithms.hamming import NearPairs, bands, first_keepers, near_pairs, to_bytes


def hashes_with_near_ones(num_bytes: int, distance: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(num_bytes * 1000 + distance)
    base = rng.integers(0, 256, (count, num_bytes), dtype=np.uint8)
    near = np.unpackbits(base[rng.integers(0, count, count)], axis=1)
    flips = rng.random(near.shape) < 0.8 * distance / near.shape[1]
    return np.concatenate([base, np.packbits(near ^ flips, axis=1), base[:3]])


@pytest.mark.parametrize(
    ("num_bytes", "distance", "count"),
    [(8, 0, 200), (8, 1, 200), (8, 5, 200), (8, 13, 100), (32, 31, 150), (32, 90, 40)],
)
def test_the_pairs_are_those_of_comparing_all_with_all(num_bytes: int, distance: int, count: int) -> None:
    hashes = hashes_with_near_ones(num_bytes, distance, count)
    between = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    second, first = np.nonzero(np.tril(between <= distance, -1))
    found = near_pairs(hashes, max_distance=distance)
    assert found.second.tolist() == second.tolist()
    assert found.first.tolist() == first.tolist()
    assert found.distance.tolist() == between[second, first].tolist()
    assert len(second) >= 3


@pytest.mark.parametrize(("num_bits", "distance"), [(64, 0), (64, 7), (256, 31), (256, 63)])
@pytest.mark.parametrize("num_rows", [10, 10**6, 10**9])
def test_bands_cover_the_hash_and_no_near_pair_can_escape_them(num_bits: int, distance: int, num_rows: int) -> None:
    """Flips spread so that every band has one more than its radius would be more flips than the distance."""
    cut = bands(num_rows, num_bits, distance)
    assert all(0 < band.end - band.start <= 32 for band in cut)
    unlisted = [band for band in cut if band.radius < 0]
    assert not unlisted
    assert sum(band.radius + 1 for band in cut) > distance


def test_many_hashes_are_cut_into_fewer_and_longer_bands() -> None:
    assert len(bands(10**8, 64, 6)) <= len(bands(100, 64, 6))


def test_few_or_no_hashes_have_no_pairs_and_a_wrong_distance_is_refused() -> None:
    assert len(near_pairs(np.zeros((0, 8), np.uint8), max_distance=3).first) == 0
    assert len(near_pairs(np.zeros((1, 8), np.uint8), max_distance=3).first) == 0
    with pytest.raises(ValueError, match="from 0 to 63"):
        near_pairs(np.zeros((2, 8), np.uint8), max_distance=64)


def test_a_row_goes_to_the_first_kept_row_it_is_like_and_chains_are_not_followed() -> None:
    pairs = NearPairs(np.array([0, 1, 0, 2]), np.array([1, 2, 3, 3]), np.ones(4, int))
    assert first_keepers(4, pairs, np.ones(4, bool)).tolist() == [0, 0, 2, 0]
    assert first_keepers(4, pairs, np.array([False, True, True, True])).tolist() == [0, 1, 1, 0]


def test_bytes_of_a_hash_are_its_hexadecimal() -> None:
    assert to_bytes(np.array([0x0123456789ABCDEF], np.uint64)).tobytes().hex() == "0123456789abcdef"
