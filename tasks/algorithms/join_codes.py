"""Vectors as 8-bit integers, with a bound on what rounding took away: what a join screens its pairs with.

Products of integers are exact in whatever order a library adds them up (below 2**24 even in float32), so what passes
the screen depends neither on block sizes nor on threads; and the bound lets no pair slip through.
"""

from math import isqrt
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Array, Floats
from tasks.algorithms.join_edges import not_finite

Int8 = npt.NDArray[np.int8]
Float64 = npt.NDArray[np.float64]


class Coded(NamedTuple):
    """Rows ready to be compared. For row x of length |x|, x / |x| = codes * scale + rest, and |rest| <= error.

    rows [n, dim] float32 as they came; lengths [n] float64; codes [n, dim] int8; scales and errors [n] float32.
    A zero row has length 0, scale 0 and error 0. Memory: 5 * dim + 16 bytes per row.
    """

    rows: Floats
    lengths: Float64
    codes: Int8
    scales: Floats
    errors: Floats


def encode(vectors: Array) -> Coded:
    """`vectors` [n, dim] float16 or float32 with their codes. Raises ValueError for rows that are not finite."""
    rows = as_float32(vectors)
    num_rows, dim = rows.shape
    lengths = np.empty(num_rows, dtype=np.float64)
    codes = np.empty((num_rows, dim), dtype=np.int8)
    scales, errors = np.empty(num_rows, dtype=np.float32), np.empty(num_rows, dtype=np.float32)
    bad = _encode(rows, code_limit(dim), lengths, codes, scales, errors)
    if bad >= 0:
        raise not_finite(bad)
    return Coded(rows, lengths, codes, scales, errors)


def code_limit(dim: int) -> int:
    """The largest code whose products still sum to less than 2**24 over `dim` columns: 127 up to 1040 of them."""
    return max(1, min(127, isqrt(2**24 // max(dim, 1))))


def as_float32(block: Array) -> Floats:
    """The same numbers as float32, in C order (torch is several times as fast as numpy from float16)."""
    if block.dtype != np.float16:
        return np.ascontiguousarray(block, dtype=np.float32)
    own = np.array(block, order="C", copy=None if block.flags.writeable else True)  # torch wants what it may write to
    return np.asarray(torch.from_numpy(own).float().numpy())


def take_rows(vectors: Array, members: npt.NDArray[np.integer]) -> Array:
    """vectors[members], without holding the interpreter: rows are moved as the widest words they consist of."""
    row_bytes = vectors.shape[1] * vectors.itemsize
    if not vectors.flags.c_contiguous or row_bytes == 0:
        return np.asarray(vectors[members])
    word = next(
        word for word in (np.uint64, np.uint32, np.uint16, np.uint8) if row_bytes % np.dtype(word).itemsize == 0
    )
    return np.asarray(_take(vectors.view(word), members).view(vectors.dtype))


def integer_products(left: Int8, right: Int8) -> npt.NDArray[np.int32]:
    """left [n, dim] times right [m, dim] transposed, exactly: [n, m].

    By the processor's 8-bit instructions; a torch without them multiplies as float32, in which these sums are exact.
    """
    if len(left) and len(right) and hasattr(torch, "_int_mm"):
        return np.asarray(torch._int_mm(torch.from_numpy(left), torch.from_numpy(right).T).numpy())
    products = torch.from_numpy(left).float() @ torch.from_numpy(right).float().T
    return np.asarray(products.to(torch.int32).numpy())


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def unit_rows(rows: Floats) -> Floats:
    """The rows [n, dim] float32 at length 1; zero rows stay zero."""
    unit = np.zeros_like(rows)
    for row in range(len(rows)):
        squares = _squares(rows[row])
        if squares > 0.0:
            scale = np.float32(1.0 / np.sqrt(squares))
            for column in range(rows.shape[1]):
                unit[row, column] = rows[row, column] * scale
    return unit


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _take(vectors: Array, members: npt.NDArray[np.integer]) -> Array:
    taken = np.empty((len(members), vectors.shape[1]), dtype=vectors.dtype)
    for row in range(len(members)):
        source = members[row]
        for column in range(vectors.shape[1]):
            taken[row, column] = vectors[source, column]
    return taken


# Sums may be reordered (into the lanes of this processor's vectors), but never with what surrounds a row: the same row
# always gets the same numbers.
_SUMS = {"reassoc", "contract", "nsz"}


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _encode(rows: Floats, limit: int, lengths: Float64, codes: Int8, scales: Floats, errors: Floats) -> int:
    """Fills what `Coded` holds; the first row that is not finite, or -1."""
    for row in range(len(rows)):
        squares = _squares(rows[row])
        if not squares < np.inf:
            return row
        lengths[row] = np.sqrt(squares)
        if squares == 0.0:
            codes[row] = 0
            scales[row] = errors[row] = 0.0
            continue
        top = _largest(rows[row])
        if top < 1e-30:  # its codes would overflow: it passes every screen
            codes[row], scales[row], errors[row] = 0, 1e-30, 1.01
            continue
        step = np.float32(top / limit)
        rest = _round_to_codes(rows[row], np.float32(limit / top), step, codes[row])
        scales[row] = step / lengths[row]
        # Summed in float32: 1e-4 of the sum, and 4e-6 for the rounding of each term, 2**-24 * sqrt(dim), cover that.
        errors[row] = np.sqrt(rest) / lengths[row] * (1 + 1e-4) + 4e-6
    return -1


@numba.njit(cache=True, nogil=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _squares(row: Floats) -> float:
    total = 0.0
    for column in range(len(row)):
        total += np.float64(row[column]) * np.float64(row[column])
    return total


@numba.njit(cache=True, nogil=True, fastmath=_SUMS | {"nnan"})  # type: ignore[untyped-decorator]
def _largest(row: Floats) -> np.float32:
    top = np.float32(0.0)
    for column in range(len(row)):
        top = max(top, abs(row[column]))
    return top


@numba.njit(cache=True, nogil=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _round_to_codes(row: Floats, to_code: np.float32, step: np.float32, codes: Int8) -> np.float32:
    """Fills in the codes; the squared length of what rounding takes away."""
    rest = np.float32(0.0)
    for column in range(len(row)):
        value = row[column] * to_code
        code = np.int32(value + np.float32(0.5)) if value >= 0 else np.int32(value - np.float32(0.5))
        codes[column] = code
        missed = row[column] - np.float32(code) * step
        rest += missed * missed
    return rest
