"""A coarse quantiser of two levels: which cells of the sphere a vector lies nearest to.

Groups of cells first, then the cells of the nearest groups only: assigning costs 18 * rows * sqrt(cells) products, not
rows * cells. The number of cells grows with the rows, so that a cell holds about as many rows in a large pool as in a
small one, and joining inside of the cells is linear in the rows. Measured at a million rows of 512 dimensions in
topics: finer cells find more of the pairs at fewer products (5 of 15,600 cells: 99.3 % at 2,700 products per row; 4 of
1,950 cells: 97.4 % at 7,400), down to cells of so few rows that assigning costs more than joining.

All products are of 8-bit codes and exact (`join_codes`), so that the cells of a row hang on that row and the quantiser
alone: not on the block it came in, on threads, or on how a library adds up.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Array, Floats, InMemory, Rows, VectorSource
from tasks.algorithms.join_codes import Int8, as_float32, code_limit, encode, integer_products, take_rows, unit_rows
from tasks.algorithms.join_threads import in_order
from tasks.algorithms.sampling import row_uniforms

CELL_ROWS = 384
PROBES = 32
GROUPS = 2.0  # times sqrt(cells)
SAMPLE_PER_CELL = 24
MAX_SAMPLE = 2**21
ITERATIONS = 5


class Quantiser(NamedTuple):
    """Plain arrays, to be saved by name. groups [groups, dim] and centroids [cells, dim] are directions as int8
    codes of one scale each; offsets [groups + 1] int64: the cells of group g are offsets[g] to offsets[g + 1].

    Memory: dim bytes per cell; 0.6 GB at 1.2 billion rows, 4 assignments and 4096 rows per cell.
    """

    groups: Int8
    centroids: Int8
    offsets: Rows

    @classmethod
    def flat(cls, centroids: Floats) -> "Quantiser":
        """All cells in one group: every centroid [cells, dim] is compared with every row."""
        codes = _codes(np.asarray(centroids, dtype=np.float32))
        return cls(codes[:1], codes, np.array([0, len(centroids)], dtype=np.int64))


def cells_wanted(num_rows: int, *, assignments: int, cell_rows: int = CELL_ROWS) -> int:
    """So many cells that one holds `cell_rows` rows on average, each row counted in `assignments` cells."""
    return max(1, round(num_rows * assignments / cell_rows))


def fit_quantiser(
    vectors: VectorSource, *, num_rows: int, assignments: int, seed: int, cell_rows: int = CELL_ROWS
) -> Quantiser:
    """A quantiser for a pool of `num_rows` vectors, fitted on `vectors` [rows, dim]: the pool, or a sample of it.

    Spherical k-means of the groups, then of the cells inside of each group, as many as its share of the rows. Takes at
    most 24 rows per cell, drawn by `seed`, and 2**21 in all. Cost: 4.5 * sample * sqrt(cells) products (`join_cost`).
    Memory: 7 * dim bytes per row of the sample (7.5 GB for 2**21 rows of 512), dim bytes per cell.
    Raises ValueError without vectors that have a direction.
    """
    wanted = cells_wanted(num_rows, assignments=assignments, cell_rows=cell_rows)
    sample = _sample(vectors, min(MAX_SAMPLE, SAMPLE_PER_CELL * wanted), seed)
    num_groups = round(GROUPS * min(wanted, len(sample)) ** 0.5)
    groups = _spherical_kmeans(_every(sample, 256 * num_groups), num_groups, [seed, 0])
    labels = _nearest(sample, groups)
    sizes = np.bincount(labels, minlength=len(groups))
    order, starts = np.argsort(labels, kind="stable"), np.r_[0, np.cumsum(sizes)]
    counts = _shares(sizes, min(wanted, len(sample)))
    used = np.flatnonzero(counts)

    def fit(group: int) -> Floats:
        members = sample[order[starts[group] : starts[group + 1]]]
        return _spherical_kmeans(members, int(counts[group]), [seed, 1, group])

    centroids = np.concatenate(list(in_order(fit, used.tolist())))
    return Quantiser(_codes(groups[used]), _codes(centroids), np.r_[0, np.cumsum(counts[used])].astype(np.int64))


def assign_cells(
    vectors: VectorSource | npt.NDArray[np.floating],
    quantiser: Quantiser | Floats,
    *,
    assignments: int,
    probes: int = PROBES,
    block_rows: int = 16384,
) -> npt.NDArray[np.int32]:
    """The nearest cells of every row, in increasing cell number: int32 [rows, assignments].

    A row that has fewer cells than `assignments` is filled up with -1, in front; -1 is no cell. Rows are looked up in
    the cells of their `probes` nearest groups. `quantiser` may also be plain centroids [cells, dim].
    Cost: probes * cells / groups + groups products per row. Memory: 4 * assignments bytes per row, and per thread
    block_rows * (6 * dim + 4 * groups + 12 * assignments * probes) bytes.
    """
    source = InMemory(vectors) if isinstance(vectors, np.ndarray) else vectors
    levels = quantiser if isinstance(quantiser, Quantiser) else Quantiser.flat(quantiser)
    cells = np.full((source.shape[0], assignments), -1, dtype=np.int32)

    def assign(part: tuple[int, Array]) -> tuple[int, npt.NDArray[np.int32]]:
        return part[0], _nearest_cells(encode(part[1]).codes, levels, assignments, probes)

    for start, found in in_order(assign, source.blocks(block_rows)):
        cells[start : start + len(found)] = found
    return cells


def _nearest_cells(rows: Int8, levels: Quantiser, assignments: int, probes: int) -> npt.NDArray[np.int32]:
    num_groups = len(levels.groups)
    probed = _Best.of(len(rows), min(probes, num_groups))
    probed.merge(np.arange(len(rows)), integer_products(rows, levels.groups), 0)
    visited = probed.cells.ravel().astype(np.int16 if num_groups < 2**15 else np.int32)  # numpy sorts int16 by radix
    visitors = np.argsort(visited, kind="stable") // probed.cells.shape[1]
    starts = np.r_[0, np.cumsum(np.bincount(visited, minlength=num_groups))]
    best = _Best.of(len(rows), assignments)
    for group in np.flatnonzero(np.diff(starts)):
        members = visitors[starts[group] : starts[group + 1]]
        first, last = levels.offsets[group], levels.offsets[group + 1]
        best.merge(members, integer_products(take_rows(rows, members), levels.centroids[first:last]), first)
    return np.sort(best.cells, axis=1)


class _Best(NamedTuple):
    """The cells with the largest products so far, the largest first; of equal ones the first that came."""

    products: npt.NDArray[np.int32]
    cells: npt.NDArray[np.int32]

    @classmethod
    def of(cls, num_rows: int, num: int) -> "_Best":
        smallest = np.iinfo(np.int32).min
        return cls(np.full((num_rows, num), smallest, np.int32), np.full((num_rows, num), -1, np.int32))

    def merge(self, members: Rows, products: npt.NDArray[np.int32], first: int) -> None:
        """Takes in products [members, n] with the cells from `first` on."""
        _merge(self.products, self.cells, members, products, first)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _merge(best: Array, cells: Array, members: Rows, products: npt.NDArray[np.int32], first: int) -> None:
    last, width = best.shape[1] - 1, products.shape[1]
    for number in range(len(members)):
        row = members[number]
        for chunk in range(0, width, 32):
            end = min(chunk + 32, width)
            if not _any_larger(products[number, chunk:end], best[row, last]):
                continue
            for column in range(chunk, end):
                product = products[number, column]
                if product <= best[row, last]:
                    continue
                place = last
                while place > 0 and best[row, place - 1] < product:
                    best[row, place] = best[row, place - 1]
                    cells[row, place] = cells[row, place - 1]
                    place -= 1
                best[row, place], cells[row, place] = product, first + column


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _any_larger(products: npt.NDArray[np.int32], limit: int) -> bool:
    hits = np.int32(0)
    for column in range(len(products)):  # without a branch, so that it becomes vector instructions
        hits |= np.int32(products[column] > np.int32(limit))
    return hits != 0


def _sample(vectors: VectorSource, num: int, seed: int) -> Floats:
    """At most `num` rows, drawn by `seed`, as unit float32; rows without a direction are left out."""
    num_rows = vectors.shape[0]
    rows = np.arange(num_rows)
    if num < num_rows:
        rows = np.sort(np.argpartition(row_uniforms(0, num_rows, seed=seed), num)[:num])
    sample = unit_rows(as_float32(vectors.take(rows)))
    sample = sample[sample.any(axis=1)]
    if len(sample) == 0:
        raise ValueError(f"a quantiser needs vectors with a direction: there are none among {num_rows} rows")
    return sample


def _every(sample: Floats, num: int) -> Floats:
    """At most `num` rows, evenly spread; they are in random order of content as it is."""
    return sample[:: max(1, len(sample) // max(num, 1))]


def _spherical_kmeans(sample: Floats, num: int, seed: list[int]) -> Floats:
    """At most `num` unit centroids of unit rows [n, dim]; one that no row is nearest to keeps its place."""
    num = max(1, min(num, len(sample)))
    chosen = np.random.default_rng(seed).choice(len(sample), num, replace=False)
    centroids = sample[np.sort(chosen)]
    codes = encode(sample).codes
    for _ in range(ITERATIONS if num > 1 else 1):
        sums = np.zeros_like(centroids)
        _add_by_label(sums, sample, _nearest_coded(codes, centroids))
        moved = unit_rows(sums)
        centroids = np.where(moved.any(axis=1, keepdims=True), moved, centroids)
    return centroids


def _nearest(sample: Floats, centroids: Floats) -> Rows:
    def nearest(part: tuple[int, Array]) -> Rows:
        return _nearest_coded(encode(part[1]).codes, centroids)

    return np.concatenate(list(in_order(nearest, InMemory(sample).blocks(16384))))


def _nearest_coded(codes: Int8, centroids: Floats) -> Rows:
    """The nearest centroid of each row."""
    directions = _codes(centroids)
    best = _Best.of(len(codes), 1)
    for start in range(0, len(codes), 2048):
        part = codes[start : start + 2048]
        best.merge(np.arange(start, start + len(part)), integer_products(part, directions), 0)
    return best.cells[:, 0].astype(np.int64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_by_label(sums: Floats, rows: Floats, labels: Rows) -> None:
    for row in range(len(rows)):
        label = labels[row]
        for column in range(rows.shape[1]):
            sums[label, column] += rows[row, column]


def _shares(sizes: Rows, total: int) -> Rows:
    """`total` cells over groups in proportion to their sizes, at least one for each that has rows, never more."""
    exact = sizes * (total / sizes.sum())
    return np.minimum(np.maximum(np.round(exact), sizes > 0), sizes).astype(np.int64)


def _codes(directions: Floats) -> Int8:
    """Rows as int8 codes of one scale, so that products with different rows can be compared."""
    top = np.abs(directions).max(initial=0.0)
    return np.round(directions * (code_limit(directions.shape[1]) / (top if top > 0 else 1.0))).astype(np.int8)
