"""The loops below k-means that numpy has no name for, compiled: rounding to int8, scanning products, exact products,
sums in fixed point. They run without the GIL over slices of rows, one for each thread that torch has."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from threading import Barrier
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Array, Floats

Labels = npt.NDArray[np.int32]

GRID = 2.0**24
_GROUP = 64  # columns whose largest product is found first
_MAX_CANDIDATES = 96
_FIRST_STEP = 4
_FAST = {"nnan", "nsz", "reassoc", "contract", "arcp"}


def in_slices(kernel: Callable[..., None], num: int, *arrays: Any) -> None:
    """kernel(first, last, *arrays) over 0..num, cut between the threads."""
    threads = min(torch.get_num_threads(), max(1, num // 64))
    edges = [num * thread // threads for thread in range(threads + 1)]
    each(lambda edge: kernel(*edge, *arrays), list(pairwise(edges)))


def each(function: Callable[[Any], None], items: Sequence[Any]) -> None:
    """function(item) for every item, shared out between as many threads as torch has.

    A thread makes its torch products alone: threads that share one product wait for each other at its end, which costs
    little on an idle machine and most of the time on a busy one.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads > 1:
        list(_pool(torch.get_num_threads()).map(function, items))
        return
    for item in items:
        function(item)


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="kmeans", initializer=_alone)
    barrier = Barrier(threads)
    list(pool.map(lambda _: barrier.wait(), range(threads)))  # all of them have begun
    torch.set_num_threads(threads)  # what the last of them set holds for threads to come, too
    return pool


def _alone() -> None:
    """One thread of torch in this thread, to stay: its first use would otherwise take over the process's number."""
    torch.get_num_threads()
    torch.set_num_threads(1)


class Rotation:
    """A fixed rotation that spreads vectors evenly over their dimensions, so that 8 bits a dimension suffice.

    A permutation, signs and Hadamard's matrix over every fourth dimension of a block (Ailon and Chazelle, 2006), blocks
    being the largest power of two that divides the padded dimension: dim * log2(block / 4) additions; the first two
    steps would cost as much as all others, and gain little. Products stay the same up to float32's rounding.
    """

    def __init__(self, dim: int) -> None:
        random = np.random.default_rng(0)
        self.padded = -(-dim // 64) * 64
        self.block = self.padded & -self.padded
        places = random.permutation(self.padded)
        self.order = np.where(places < dim, places, 0)
        signs = random.integers(0, 2, self.padded) * 2 - 1
        self.signs = np.where(places < dim, signs / (self.block / _FIRST_STEP) ** 0.5, 0.0).astype(np.float32)

    def int8(self, rows: Floats, common_scale: float = 0.0) -> "Rounded":
        """Each row [rows, dim] as int8 times a scale of its own, or all times the one that is given."""
        found = Rounded(
            np.empty((len(rows), self.padded), dtype=np.int8),
            *(np.empty(len(rows), dtype=np.float32) for _ in range(3)),
        )
        turn = self.order, self.signs, self.block
        in_slices(_quantise, len(rows), rows, *turn, np.float32(common_scale), *found)
        return found

    def common_int8(self, rows: Floats) -> "Rounded":
        """The same with one scale for all rows: their products can then be compared as the integers they are."""
        return self.int8(rows, float(self.int8(rows).scales.max(initial=np.float32(1e-30))))


class Rounded(NamedTuple):
    """Rows as int8 [rows, dim], their scales, lengths and distances from what they stand for [rows]."""

    low: npt.NDArray[np.int8]
    scales: Floats
    lengths: Floats
    errors: Floats


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _quantise(
    first: int,
    last: int,
    rows: Floats,
    order: Array,
    signs: Floats,
    block: int,
    common_scale: float,
    low: Array,
    scales: Floats,
    lengths: Floats,
    errors: Floats,
) -> None:
    padded = low.shape[1]
    turned = np.empty(padded, dtype=np.float32)
    for row in range(first, last):
        for column in range(padded):
            turned[column] = rows[row, order[column]] * signs[column]
        for start in range(0, padded, block):
            _hadamard(turned[start : start + block])
        scale = common_scale
        if scale <= 0.0:
            scale = max(_largest(np.abs(turned)) / np.float32(127.0), np.float32(1e-30))
        inverse = np.float32(1.0) / scale
        square = total = np.float32(0.0)
        for column in range(padded):
            whole = min(max(np.rint(turned[column] * inverse), np.float32(-127.0)), np.float32(127.0))
            low[row, column] = np.int8(whole)
            off = turned[column] - whole * scale
            square += turned[column] * turned[column]
            total += off * off
        # A little more than they are: float32 has rounded.
        scales[row] = scale
        lengths[row], errors[row] = np.sqrt(square) * np.float32(1.0001), np.sqrt(total) * np.float32(1.0001)


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _hadamard(values: Floats) -> None:
    """In place, the fast Walsh-Hadamard transform of each fourth of 2^n values."""
    half = _FIRST_STEP
    while half < len(values):
        for start in range(0, len(values), 2 * half):
            left, right = values[start : start + half], values[start + half : start + 2 * half]
            for place in range(half):
                total, difference = left[place] + right[place], left[place] - right[place]
                left[place], right[place] = total, difference
        half *= 2


class Candidates(NamedTuple):
    """For each row: the best product so far and the columns that may be better when exact (count -1: too many)."""

    best: Array  # [rows], as the products are: int32 or float32
    counts: Labels  # [rows]
    columns: Labels  # [rows, _MAX_CANDIDATES]
    values: Array  # [rows, _MAX_CANDIDATES]


def no_candidates(num_rows: int, kind: type[np.int32] | type[np.float32]) -> Candidates:
    """Nothing seen yet."""
    lowest = np.iinfo(np.int32).min // 2 if kind is np.int32 else np.float32(-3.0e38)
    return Candidates(
        np.full(num_rows, lowest, dtype=kind),
        np.zeros(num_rows, dtype=np.int32),
        np.empty((num_rows, _MAX_CANDIDATES), dtype=np.int32),
        np.empty((num_rows, _MAX_CANDIDATES), dtype=kind),
    )


@numba.njit(cache=True, nogil=True)
def scan(
    first: int,
    last: int,
    tile: Array,
    slack: Floats,
    offset: int,
    best: Array,
    counts: Labels,
    columns: Labels,
    values: Array,
) -> None:
    """Notes the columns of a tile of products [rows, columns] that are within a row's slack of its best so far."""
    width = tile.shape[1]
    peaks = np.empty(-(-width // _GROUP), dtype=tile.dtype)
    for row in range(first, last):
        if counts[row] < 0:
            continue
        top = best[row]
        for group in range(len(peaks)):
            peaks[group] = _largest(tile[row, group * _GROUP : min(width, (group + 1) * _GROUP)])
            top = max(top, peaks[group])
        best[row] = top
        floor = top - slack[row]
        for group in range(len(peaks)):
            if peaks[group] < floor:
                continue
            for column in range(group * _GROUP, min(width, (group + 1) * _GROUP)):
                if tile[row, column] < floor or counts[row] < 0:
                    continue
                if counts[row] == _MAX_CANDIDATES:
                    counts[row] = _still_candidates(columns[row], values[row], _MAX_CANDIDATES, floor)
                if counts[row] == _MAX_CANDIDATES:
                    counts[row] = -1
                else:
                    columns[row, counts[row]], values[row, counts[row]] = offset + column, tile[row, column]
                    counts[row] += 1


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _largest(values: Array) -> Any:
    peak = values[0]
    for place in range(len(values)):  # from 0 on: only then does the compiler use vector instructions
        peak = values[place] if values[place] > peak else peak
    return peak


@numba.njit(cache=True, nogil=True)
def _still_candidates(columns: Labels, values: Array, count: int, floor: float) -> int:
    """Moves to the front those at or above the floor; how many they are."""
    num = 0
    for place in range(count):
        if values[place] >= floor:
            columns[num], values[num] = columns[place], values[place]
            num += 1
    return num


@numba.njit(cache=True, nogil=True)
def decide(
    first: int,
    last: int,
    rows: Floats,
    centroids: Floats,
    slack: Floats,
    best: Array,
    counts: Labels,
    columns: Labels,
    values: Array,
    labels: Labels,
) -> None:
    """The candidate with the largest exact product; every centroid is a candidate of a row that has too many."""
    for row in range(first, last):
        winner, most = -1, -np.inf
        if counts[row] < 0:
            for column in range(len(centroids)):
                product = exact_product(rows[row], centroids[column])
                if product > most:
                    winner, most = column, product
            labels[row] = winner
            continue
        num = _still_candidates(columns[row], values[row], counts[row], best[row] - slack[row])
        if num == 1:
            labels[row] = columns[row, 0]
            continue
        for place in range(num):
            product = exact_product(rows[row], centroids[columns[row, place]])
            if product > most:
                winner, most = columns[row, place], product
        labels[row] = winner


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def exact_product(left: Floats, right: Floats) -> float:
    """Product of two vectors in float64: exact, whatever the order of the sum, for vectors on the grid of 2^-24."""
    total = 0.0
    for column in range(len(left)):
        total += np.float64(left[column]) * np.float64(right[column])
    return total


@numba.njit(cache=True, nogil=True)
def own_products(first: int, last: int, rows: Floats, centroids: Floats, labels: Labels, products: Array) -> None:
    """products[r] = rows[r] . centroids[labels[r]]."""
    for row in range(first, last):
        products[row] = exact_product(rows[row], centroids[labels[row]])


@numba.njit(cache=True, nogil=True)
def add_columns(first: int, last: int, rows: Floats, labels: Labels, sums: Array) -> None:
    """sums[labels[r], first:last] += rows[r, first:last] * 2^24, in integers: no order of rows changes the result."""
    for row in range(len(labels)):
        _add_fixed(rows[row, first:last], sums[labels[row], first:last])


@numba.njit(cache=True, nogil=True)
def _add_fixed(values: Floats, sums: Array) -> None:
    for column in range(len(values)):
        sums[column] += np.int64(np.rint(np.float64(values[column]) * GRID))
