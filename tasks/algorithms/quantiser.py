"""A coarse quantiser of two levels: which cells of the sphere a unit vector lies nearest to.

Groups of cells first, then cells inside the nearest groups: assigning costs rows * sqrt(cells), not rows * cells
(Jegou et al., PAMI 2011, section IV, has one level; two are in Babenko & Lempitsky, CVPR 2012, there as products).
The number of cells grows with the rows, so that a cell holds about as many rows in a small pool as in a large one.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Floats, InMemory, Rows, VectorSource, even_blocks
from tasks.algorithms.sampling import row_uniforms

CELL_ROWS = 2048
_SAMPLE_PER_CELL = 48
_MAX_SAMPLE = 2**21
_ITERATIONS = 8


class Quantiser(NamedTuple):
    """Plain arrays, to be saved by name: groups [groups, dim] and centroids [cells, dim] of unit length, and
    offsets [groups + 1] int64: the cells of group g are offsets[g] to offsets[g + 1]."""

    groups: Floats
    centroids: Floats
    offsets: Rows

    @classmethod
    def flat(cls, centroids: Floats) -> "Quantiser":
        """One group: every centroid is looked at."""
        mean = np.asarray(centroids.mean(axis=0, keepdims=True), dtype=np.float32)
        return cls(mean, np.ascontiguousarray(centroids), np.array([0, len(centroids)], dtype=np.int64))


def cells_wanted(num_rows: int, *, assignments: int, cell_rows: int = CELL_ROWS) -> int:
    """So many cells that one holds `cell_rows` rows on average, each row counted in `assignments` cells."""
    return max(1, round(num_rows * assignments / cell_rows))


def fit_quantiser(
    vectors: VectorSource, *, num_rows: int, assignments: int, seed: int, cell_rows: int = CELL_ROWS
) -> Quantiser:
    """A quantiser for a pool of `num_rows` unit vectors, from `vectors` [rows, dim]: the pool, or a sample of it.

    Takes at most 48 rows per cell (drawn by `seed`), and 2**21. Cost: sample * 2 * sqrt(cells) * dim * 8 products.
    Memory: 4 * dim bytes per row of the sample, at most 4 GiB at 512 dimensions; 4 * dim bytes per cell.
    Raises ValueError without vectors.
    """
    if vectors.shape[0] == 0:
        raise ValueError("a quantiser needs vectors: there are none")
    wanted = min(cells_wanted(num_rows, assignments=assignments, cell_rows=cell_rows), vectors.shape[0])
    sample = _sample(vectors, min(_MAX_SAMPLE, wanted * _SAMPLE_PER_CELL), seed)
    num_groups = max(1, round(wanted**0.5))
    groups = _spherical_kmeans(sample, num_groups, np.random.default_rng([seed, 0]))
    labels = _nearest(sample, groups)
    sizes = np.bincount(labels, minlength=num_groups)
    counts = _shares(sizes, wanted)
    parts = [
        _spherical_kmeans(sample[labels == group], int(count), np.random.default_rng([seed, 1, group]))
        for group, count in enumerate(counts)
        if count
    ]
    used = counts > 0
    return Quantiser(groups[used], np.concatenate(parts), np.r_[0, np.cumsum(counts[used])].astype(np.int64))


def assign_cells(
    vectors: VectorSource | npt.NDArray[np.floating],
    quantiser: Quantiser | Floats,
    *,
    assignments: int,
    probes: int = 8,
    block_rows: int = 16384,
) -> npt.NDArray[np.int32]:
    """The nearest cells of every row, in increasing cell number: int32 [rows, assignments].

    A row that has fewer cells than `assignments` is filled up with -1, in front; -1 is no cell. Rows are looked up in
    the cells of their `probes` nearest groups. Each row's cells depend on that row and the quantiser alone, never on
    what it is assigned with.
    Memory: 4 * assignments bytes per row, and block_rows * (cells of the probed groups + groups) * 4 bytes.
    """
    source = InMemory(vectors) if isinstance(vectors, np.ndarray) else vectors
    levels = quantiser if isinstance(quantiser, Quantiser) else Quantiser.flat(quantiser)
    cells = np.full((source.shape[0], assignments), -1, dtype=np.int32)
    for start, block in even_blocks(source, block_rows):
        cells[start : start + len(block)] = _nearest_cells(block, levels, assignments, probes)
    return cells


def _nearest_cells(block: Floats, levels: Quantiser, assignments: int, probes: int) -> npt.NDArray[np.int32]:
    rows = torch.from_numpy(block)
    probes = min(probes, len(levels.groups))
    probed = torch.topk(rows @ torch.from_numpy(levels.groups).T, probes, dim=1).indices.numpy()
    scores = np.full((len(block), probes, assignments), -np.inf, dtype=np.float32)
    cells = np.full((len(block), probes, assignments), -1, dtype=np.int32)
    centroids = torch.from_numpy(levels.centroids)
    for group in np.unique(probed):
        row, probe = np.nonzero(probed == group)
        first, last = levels.offsets[group], levels.offsets[group + 1]
        keep = min(assignments, int(last - first))
        best = torch.topk(rows[row] @ centroids[first:last].T, keep, dim=1)
        scores[row, probe, :keep] = best.values.numpy()
        cells[row, probe, :keep] = best.indices.numpy() + first
    flat_scores, flat_cells = scores.reshape(len(block), -1), cells.reshape(len(block), -1)
    order = np.argsort(-flat_scores, axis=1, kind="stable")[:, :assignments]
    return np.sort(np.take_along_axis(flat_cells, order, axis=1), axis=1)


def _sample(vectors: VectorSource, num: int, seed: int) -> Floats:
    num_rows = vectors.shape[0]
    if num < num_rows:
        rows = np.sort(np.argsort(row_uniforms(0, num_rows, seed=seed), kind="stable")[:num])
    else:
        rows = np.arange(num_rows)
    return np.asarray(vectors.take(rows.astype(np.int64)), dtype=np.float32)


def _spherical_kmeans(sample: Floats, num: int, random: np.random.Generator) -> Floats:
    """`num` unit centroids of the sample; an empty one keeps its place."""
    num = min(num, len(sample))
    centroids = _unit(sample[np.sort(random.choice(len(sample), num, replace=False))])
    for _ in range(_ITERATIONS if num > 1 else 1):
        labels = _nearest(sample, centroids)
        sums = np.zeros((num, sample.shape[1]), dtype=np.float64)
        np.add.at(sums, labels, sample)
        moved = _unit(sums.astype(np.float32))
        centroids = np.where(np.linalg.norm(moved, axis=1, keepdims=True) > 0, moved, centroids)
    return np.ascontiguousarray(centroids, dtype=np.float32)


def _nearest(sample: Floats, centroids: Floats) -> Rows:
    directions = torch.from_numpy(centroids).T
    blocks = [torch.from_numpy(block) @ directions for _, block in InMemory(sample).blocks(16384)]
    return np.concatenate([block.argmax(dim=1).numpy() for block in blocks]).astype(np.int64)


def _shares(sizes: Rows, total: int) -> Rows:
    """`total` cells over groups in proportion to their sizes, at least one for each that has rows, never more."""
    exact = sizes * (total / sizes.sum())
    return np.minimum(np.maximum(np.round(exact), sizes > 0), sizes).astype(np.int64)


def _unit(block: Floats) -> Floats:
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    return np.asarray(block / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
