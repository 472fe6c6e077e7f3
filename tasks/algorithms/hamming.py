"""Pairs of binary hashes that differ by few bits: multi-index hashing (Norouzi, Punjani and Fleet, 2012, section 3).

Of hashes cut into m bands, two that differ by r bits differ by at most r // m in one of them (and by one less in all
but the first r % m + 1): so only hashes whose band is equal, or nearly so, are compared whole.
"""

import math
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8, UInt64
from numpy.typing import NDArray

_BLOCK_PAIRS = 1 << 22
_BLOCK_ROWS = 1 << 20
_LOOKUP_NANOSECONDS, _COMPARISON_NANOSECONDS = 200.0, 20.0
_MAX_BAND_BITS = 32


class NearPairs(NamedTuple):
    """Pairs of rows, `first` < `second`, sorted by (second, first), with the number of bits they differ by."""

    first: Int64[np.ndarray, " pairs"]
    second: Int64[np.ndarray, " pairs"]
    distance: Int64[np.ndarray, " pairs"]


class _Band(NamedTuple):
    start: int
    end: int
    radius: int


def near_pairs(hashes: UInt8[np.ndarray, "images bytes"], *, max_distance: int) -> NearPairs:
    """All pairs of rows that differ by at most `max_distance` bits, each once. The slow truth compares all with all.

    Exact. Memory: the hashes, 20 bytes a row for one band at a time, 200 MB of comparisons, and the pairs found: rows
    that are equal to many others give as many pairs, so equal hashes are grouped before. Time: with n rows of B bits in
    m bands, each looked up under the masks of its radius: n lookups and n^2 / 2^(B / m) comparisons a mask; m is the
    one for which that is least. Raises ValueError for a negative distance, or one as large as the hash.
    """
    num_bits = 8 * hashes.shape[1]
    if not 0 <= max_distance < num_bits:
        raise ValueError(f"max_distance must be from 0 to {num_bits - 1} for hashes of {num_bits} bits: {max_distance}")
    found = [
        pairs
        for band in bands(len(hashes), num_bits, max_distance)
        for pairs in _pairs_of_band(hashes, band, max_distance)
    ]
    if not found:
        nothing = np.zeros(0, np.int64)
        return NearPairs(nothing, nothing, nothing)
    every = np.unique(np.concatenate(found), axis=0)  # [pairs, 3]: second, first, distance
    return NearPairs(every[:, 1], every[:, 0], every[:, 2])


def bands(num_rows: int, num_bits: int, max_distance: int) -> list[_Band]:
    """The cheapest cut of the hashes into bands of at most 32 bits."""
    least = math.ceil(num_bits / _MAX_BAND_BITS)
    cuts = [_cut(num_bits, count, max_distance) for count in range(least, max(least, min(max_distance + 1, 64)) + 1)]
    return min(cuts, key=lambda cut: sum(_cost(band, num_rows) for band in cut))


def _cut(num_bits: int, count: int, max_distance: int) -> list[_Band]:
    radius, rest = divmod(max_distance, count)
    edges = [num_bits * number // count for number in range(count + 1)]
    radii = [radius if number <= rest else radius - 1 for number in range(count)]
    return [_Band(edges[i], edges[i + 1], radii[i]) for i in range(count) if radii[i] >= 0]


def _cost(band: _Band, num_rows: int) -> float:
    width = band.end - band.start
    masks = sum(math.comb(width, flips) for flips in range(band.radius + 1))
    return masks * num_rows * (_LOOKUP_NANOSECONDS + _COMPARISON_NANOSECONDS * num_rows / 2 ** (width + 1))


def _pairs_of_band(
    hashes: UInt8[np.ndarray, "images bytes"], band: _Band, max_distance: int
) -> Iterator[NDArray[np.int64]]:
    keys = _keys(hashes, band)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for mask in _masks(band.end - band.start, band.radius):
        wanted = ordered ^ np.uint32(mask)
        starts = np.searchsorted(ordered, wanted, side="left")
        ends = np.searchsorted(ordered, wanted, side="right")
        if not mask:
            starts = np.arange(1, len(ordered) + 1)  # of equal keys, those behind: each pair once
        yield from _verified(hashes, order, starts, ends, max_distance)


def _keys(hashes: UInt8[np.ndarray, "images bytes"], band: _Band) -> NDArray[np.uint32]:
    """The bits of one band of each row as a number."""
    keys = np.empty(len(hashes), np.uint32)
    for start in range(0, len(hashes), _BLOCK_ROWS):
        bits = np.unpackbits(hashes[start : start + _BLOCK_ROWS], axis=1)[:, band.start : band.end]
        padded = np.pad(bits, ((0, 0), (_MAX_BAND_BITS - bits.shape[1], 0)))
        keys[start : start + _BLOCK_ROWS] = np.packbits(padded, axis=1).view(">u4")[:, 0]
    return keys


def _masks(width: int, radius: int) -> Iterator[int]:
    for flips in range(radius + 1):
        for places in combinations(range(width), flips):
            yield sum(1 << place for place in places)


def _verified(
    hashes: UInt8[np.ndarray, "images bytes"],
    order: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    max_distance: int,
) -> Iterator[NDArray[np.int64]]:
    """Of place i paired with the places starts[i]..ends[i], the pairs of rows that are near: [pairs, 3]."""
    counts = np.maximum(ends - starts, 0)
    places = np.flatnonzero(counts)
    totals = np.cumsum(counts[places])
    first = 0
    while first < len(places):
        before = totals[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(totals, before + _BLOCK_PAIRS, side="right")))
        block = places[first:last]
        left = np.repeat(block, counts[block])
        within = np.arange(len(left)) - np.repeat(np.cumsum(counts[block]) - counts[block], counts[block])
        one, other = order[left], order[starts[left] + within]
        distance = np.bitwise_count(hashes[one] ^ hashes[other]).sum(axis=1, dtype=np.int64)
        near = distance <= max_distance
        low, high = np.minimum(one[near], other[near]), np.maximum(one[near], other[near])
        yield np.stack([high, low, distance[near]], axis=1)
        first = last


def first_keepers(num_rows: int, pairs: NearPairs, alike: Bool[np.ndarray, " pairs"]) -> Int[np.ndarray, " images"]:
    """For rows in order of preference: the keeper of each, itself where it stays.

    A row belongs to the first kept row that it is paired with and alike; without one it stays and is a keeper. Nothing
    is passed on from row to row: of A near B near C, all are A's only when A is near C as well.
    """
    keeper = np.arange(num_rows)
    for first, second in zip(pairs.first[alike].tolist(), pairs.second[alike].tolist(), strict=True):
        if keeper[second] == second and keeper[first] == first:
            keeper[second] = first
    return keeper


def to_bytes(hashes: UInt64[np.ndarray, " images"]) -> UInt8[np.ndarray, "images 8"]:
    """64-bit hashes as rows of bytes, most significant first."""
    return hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
