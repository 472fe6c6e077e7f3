"""The nearest neighbours of queries in a pool, exact to the last bit, among all of it or in the cells they look into.

Products are made in float32, where a matrix product is fast, and only choose candidates; those are compared anew in
float64. A product of two float16 vectors of about unit length is a multiple of 2^-48 below 2^5, so float64 adds it up
without rounding, in any order: the similarity of two images is one number, whatever the blocks, and so is the order.
Equal similarities (as float32) come in the order of `ties`.
"""

from typing import NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Array, Floats, Rows
from tasks.algorithms.devices import torch_device
from tasks.algorithms.neighbours_device import candidates_on_device

_SPARE = 8  # candidates kept beyond the number asked for, so that rounding cannot cost one
_QUERY_ROWS = 2048
_POOL_ROWS = 2048
_SETTLE_SLOTS = 4096
_MOST_SLOTS = 1 << 25


class Neighbours(NamedTuple):
    """Of query q, the nearest first: `rows` and `similarity` [offsets[q] : offsets[q + 1]]."""

    offsets: Rows  # [queries + 1]
    rows: Rows
    similarity: Floats


class Asking(NamedTuple):
    """Which queries look into which cell: into cell c, `queries[offsets[c] : offsets[c + 1]]`."""

    offsets: Rows  # [cells + 1]
    queries: Rows

    @classmethod
    def of(cls, cells: npt.NDArray[np.integer], queries: Rows, num_cells: int) -> "Asking":
        """From pairs: queries[i] looks into cells[i]."""
        order = np.argsort(cells, kind="stable")
        return cls(np.searchsorted(cells[order], np.arange(num_cells + 1)).astype(np.int64), queries[order])


class _Candidates(NamedTuple):
    offsets: Rows  # [queries + 1]: slots of each query
    rows: Rows  # [slots], -1: empty
    approximate: Floats  # [slots], falling within a query
    margin: Floats  # [queries]: by how much two products of a query may be in the wrong order


class Finder(Protocol):
    """What chooses candidates: of each query as many rows as it has slots, those with the largest products."""

    def __call__(self, pool: Array, cells: Rows, queries: Floats, asking: Asking, slots: Rows) -> _Candidates:
        """pool, cells, asking: as for `nearest_in_cells`; queries [queries, dim] float32; slots [queries]."""
        ...


def finder_for(device: str) -> Finder:
    """That of "cpu", "cuda", "cuda:1", or of "auto": a GPU where torch has one. Raises ValueError for others."""
    found = torch_device(device)
    return _candidates if found == "cpu" else OnDevice(found)


class OnDevice:
    """Candidates by a GPU (or, slowly, for tests, the processor as if it were one)."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, pool: Array, cells: Rows, queries: Floats, asking: Asking, slots: Rows) -> _Candidates:
        most = int(slots.max(initial=1))
        found = candidates_on_device(pool, cells, queries, *asking, slots=most, device=self.device)
        mine = np.arange(most) < slots[:, None]
        return _Candidates(np.r_[0, np.cumsum(slots)], found.rows[mine], found.approximate[mine], found.margin)


def nearest(
    pool: Array, queries: Array, *, num: npt.ArrayLike, ties: Rows | None = None, finder: Finder | None = None
) -> Neighbours:
    """The `num` (one number, or one per query) nearest rows of `pool` [rows, dim] to each query [queries, dim]."""
    asking = Asking(np.array([0, len(queries)]), np.arange(len(queries)))
    return nearest_in_cells(pool, np.array([0, len(pool)]), queries, asking, num=num, ties=ties, finder=finder)


def nearest_in_cells(
    pool: Array,
    cells: Rows,
    queries: Array,
    asking: Asking,
    *,
    num: npt.ArrayLike,
    ties: Rows | None = None,
    finder: Finder | None = None,
) -> Neighbours:
    """As `nearest`, but a query sees only the cells it looks into; rows of a cell stand together in `pool`.

    cells [cells + 1]: cell c is pool[cells[c] : cells[c + 1]]. ties [rows]: rank of each row among equals (default: its
    place). finder: where products are made (default: the processor); it changes no neighbour of vectors of about unit
    length. Cost: 2 * dim operations per query and row of its cells. Memory: the float32 form of the queries and of one
    cell's 2048 rows, 12 * (num + 8) bytes per query; 400 MB at most for queries among more equals than that. Raises
    ValueError for other dimensions and for values that are not finite.
    """
    if queries.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(
            f"queries of shape {queries.shape} cannot be compared with vectors of {pool.shape[1]} dimensions"
        )
    wanted = np.broadcast_to(np.asarray(num, dtype=np.int64), len(queries))
    places = np.arange(len(pool)) if ties is None else ties
    floats = _floats(queries)
    if not np.isfinite(floats).all():
        raise ValueError("a query has values that are not finite; an encoder that gave such is broken")
    todo = np.flatnonzero(wanted > 0)
    found: list[tuple[Rows, Neighbours]] = []
    find, spare = finder or _candidates, _SPARE
    while len(todo):
        left: list[Rows] = []
        batch = len(todo) if spare == _SPARE else max(1, _MOST_SLOTS // int(wanted.max() + spare))
        for some in (todo[start : start + batch] for start in range(0, len(todo), batch)):
            best = find(pool, cells, floats[some], _only(asking, some, len(queries)), wanted[some] + spare)
            settled = _certain(best, wanted[some])
            part = _settled(best, pool, floats[some], places, wanted[some], settled)
            found.append((some[settled], part))
            left.append(some[~settled])
        todo, spare = np.concatenate(left), spare * 4  # more equals than slots: copies of one image
    return _joined(found, len(queries))


def with_equals(similarity: Floats, ties: tuple[Array, ...], groups: Array) -> Rows:
    """Order of candidates by group, then falling similarity, then `ties` (the first the most significant)."""
    return np.lexsort((*reversed(ties), -similarity, groups))


def first_of_each(ordered_groups: Array, num: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mask of the first num[g] entries of every group g of a sorted array of group numbers."""
    rank = ranks(ordered_groups)
    limit = np.asarray(num)
    return np.asarray(rank < (limit if limit.ndim == 0 else limit[ordered_groups]))


def ranks(ordered_groups: Array) -> Rows:
    """Place of each entry within its group, of a sorted array of group numbers: [3, 3, 5] → [0, 1, 0]."""
    if len(ordered_groups) == 0:
        return np.zeros(0, dtype=np.int64)
    firsts = np.flatnonzero(np.r_[True, ordered_groups[1:] != ordered_groups[:-1]])
    return np.arange(len(ordered_groups)) - np.repeat(firsts, np.diff(np.r_[firsts, len(ordered_groups)]))


def id_words(ids: npt.NDArray[np.bytes_]) -> tuple[npt.NDArray[np.uint64], ...]:
    """Ids as big-endian words: comparing the words in turn is comparing the ids."""
    width = -(-ids.dtype.itemsize // 8)
    words = ids.astype(f"S{8 * width}").view(">u8").reshape(len(ids), width).astype(np.uint64)
    return tuple(words[:, column] for column in range(width))


def recall_of(found: Neighbours, exact: Neighbours) -> tuple[int, int]:
    """(how many of the exact neighbours were found, how many there are), over the queries of both."""
    there = np.repeat(np.arange(len(exact.offsets) - 1), np.diff(exact.offsets))
    here = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    width = max(exact.rows.max(initial=0), found.rows.max(initial=0)) + 1
    return int(np.isin(there * width + exact.rows, here * width + found.rows).sum()), len(exact.rows)


def _margin(queries: Floats, longest: float) -> Floats:
    """By how much two float32 products of a query may be in the wrong order, rounding to float32 included.

    `longest`: the length of the longest vector it was compared with. Higham (2002), section 3.1: an inner product of n
    terms errs by at most n * 2^-24 * |x| |y|, in any order.
    """
    lengths = np.linalg.norm(queries, axis=1) * longest
    return np.asarray(2.0 * (queries.shape[1] + 2) * 2.0**-24 * lengths, dtype=np.float32)


def _floats(vectors: Array) -> Floats:
    """As float32; torch converts float16 ten times faster than numpy, but takes no read-only arrays."""
    if vectors.dtype != np.float16:
        return np.asarray(vectors, dtype=np.float32)
    owned = np.ascontiguousarray(vectors)
    return np.asarray(torch.from_numpy(owned if owned.flags.writeable else owned.copy()).float().numpy())


def _only(asking: Asking, todo: Rows, num_queries: int) -> Asking:
    """The pairs of the queries `todo`, which are numbered anew by their place in it."""
    if len(todo) == num_queries:
        return asking
    number = np.full(num_queries, -1)
    number[todo] = np.arange(len(todo))
    stays = number[asking.queries] >= 0
    return Asking(np.r_[0, np.cumsum(stays)][asking.offsets], number[asking.queries[stays]])


def _candidates(pool: Array, cells: Rows, queries: Floats, asking: Asking, slots: Rows) -> _Candidates:
    """The rows with the largest float32 products, as many as there are slots."""
    offsets = np.r_[0, np.cumsum(slots)]
    rows, approximate = np.full(offsets[-1], -1), np.full(offsets[-1], -np.inf, dtype=np.float32)
    longest = np.float32(0.0)
    for cell in np.flatnonzero((np.diff(asking.offsets) > 0) & (np.diff(cells) > 0)):
        mine = asking.queries[asking.offsets[cell] : asking.offsets[cell + 1]]
        for start in range(cells[cell], cells[cell + 1], _POOL_ROWS):
            block = _floats(pool[start : min(start + _POOL_ROWS, cells[cell + 1])])
            longest = np.maximum(longest, np.einsum("ij,ij->i", block, block).max())
            for first in range(0, len(mine), _QUERY_ROWS):
                some = mine[first : first + _QUERY_ROWS]
                _offer(queries[some] @ block.T, start, some, offsets, rows, approximate)
    if not np.isfinite(longest):
        raise ValueError("a vector of the pool has values that are not finite; an encoder that gave such is broken")
    return _Candidates(offsets, rows, approximate, _margin(queries, float(longest) ** 0.5))


@numba.njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})  # type: ignore[untyped-decorator]
def _offer(products: Floats, first: int, asking: Rows, offsets: Rows, rows: Rows, approximate: Floats) -> None:
    """Puts what is better than a query's last slot where it belongs. Chunks that hold nothing better are skipped."""
    width = products.shape[1]
    for i in range(len(asking)):
        low, last = offsets[asking[i]], offsets[asking[i] + 1] - 1
        for start in range(0, width, 64):
            stop = min(start + 64, width)
            largest = products[i, start]
            for j in range(start, stop):
                largest = max(largest, products[i, j])
            if largest <= approximate[last]:
                continue
            for j in range(start, stop):
                product = products[i, j]
                if product > approximate[last]:
                    slot = last
                    while slot > low and approximate[slot - 1] < product:
                        approximate[slot], rows[slot] = approximate[slot - 1], rows[slot - 1]
                        slot -= 1
                    approximate[slot], rows[slot] = product, first + j


def _certain(best: _Candidates, wanted: Rows) -> npt.NDArray[np.bool_]:
    """Queries none of whose neighbours can be outside their slots: the last slot is empty, or clearly too far."""
    last = best.approximate[best.offsets[1:] - 1]
    worst_wanted = best.approximate[best.offsets[:-1] + wanted - 1]
    return np.asarray(np.isneginf(last) | (last < worst_wanted - best.margin))


def _settled(
    best: _Candidates, pool: Array, queries: Floats, ties: Rows, wanted: Rows, settled: npt.NDArray[np.bool_]
) -> Neighbours:
    """The neighbours of the settled queries, numbered by their place among them, by similarity and then ties."""
    slots = np.diff(best.offsets)
    query = np.repeat(np.arange(len(slots)), slots)
    valid = (best.rows >= 0) & settled[query]
    query, rows = query[valid], best.rows[valid]
    similarity = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _SETTLE_SLOTS):
        some = slice(start, start + _SETTLE_SLOTS)
        _exact_products(queries, query[some], _floats(pool[rows[some]]), similarity[some])
    order = with_equals(similarity, (ties[rows],), query)
    order = order[first_of_each(query[order], wanted)]
    counts = np.bincount(query[order], minlength=len(slots))[settled]
    return Neighbours(np.r_[0, np.cumsum(counts)], rows[order], similarity[order])


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _exact_products(queries: Floats, query: Rows, vectors: Floats, similarity: Floats) -> None:
    """Rounded once, at the end: sums of float64 here have no error, so their order (fastmath) does not matter."""
    for i in range(len(query)):
        total = 0.0
        for column in range(vectors.shape[1]):
            total += np.float64(queries[query[i], column]) * np.float64(vectors[i, column])
        similarity[i] = np.float32(total)


def _joined(found: list[tuple[Rows, Neighbours]], num_queries: int) -> Neighbours:
    """Neighbours of disjoint sets of queries as one, in the queries' order."""
    counts = np.zeros(num_queries, dtype=np.int64)
    for some, part in found:
        counts[some] = np.diff(part.offsets)
    offsets = np.r_[0, np.cumsum(counts)]
    rows, similarity = np.empty(offsets[-1], dtype=np.int64), np.empty(offsets[-1], dtype=np.float32)
    for some, part in found:
        places = np.repeat(offsets[:-1][some] - part.offsets[:-1], np.diff(part.offsets)) + np.arange(len(part.rows))
        rows[places], similarity[places] = part.rows, part.similarity
    return Neighbours(offsets, rows, similarity)
