"""Centring and whitening of descriptors, fitted on the pool they come from.

SSCD (Pizzi et al. 2022, section 5) whitens its descriptors with samples of the target domain; it takes away what all
images share, so that the cosine of two unrelated images lies near 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tasks.algorithms.blocks import Floats, InMemory
from tasks.algorithms.components import Components
from tasks.algorithms.self_join import similar_pairs

Matrix = npt.NDArray[np.float64]

_COPIES = 0.6
_BLOCK_ROWS = 256
# The third largest cosine among 0.1 to 1 million pairs of unrelated scenes is 1.6 to 1.9 times the median row's largest
# one, in 86 to 512 dimensions (bench/pixels_descriptor.py); the median is hardly moved by copies among the rows.
_TAIL = 1.85


@dataclass(frozen=True)
class Whitening:
    """x -> unit((x - mean) @ matrix), then every cosine c becomes (c + offset) / (1 + offset).

    mean [dim], matrix [dim, out_dim], float32. An offset > 0 adds one more, constant, dimension; it sets where on the
    scale of cosines a descriptor's copies lie, for thresholds that were found with another descriptor.
    """

    mean: Floats
    matrix: Floats
    offset: float = 0.0

    @property
    def out_dim(self) -> int:
        """Length of a whitened vector."""
        return self.matrix.shape[1] + (self.offset > 0)

    def __call__(self, vectors: Floats) -> Floats:
        """[rows, dim] -> [rows, out_dim] of unit length; a vector at the mean gets zeros and the constant.

        A row's result does not depend on the rows beside it: products are taken in blocks of one size, the last one
        filled up, in float64.
        """
        if vectors.shape[1] != len(self.mean):
            raise ValueError(f"whitening was fitted on {len(self.mean)} dimensions, got vectors of {vectors.shape[1]}")
        turned = np.empty((len(vectors), self.matrix.shape[1]))
        matrix = torch.from_numpy(self.matrix).double()
        for start in range(0, len(vectors), _BLOCK_ROWS):
            centred = vectors[start : start + _BLOCK_ROWS] - self.mean.astype(np.float64)
            filled = np.zeros((_BLOCK_ROWS, len(self.mean)))
            filled[: len(centred)] = centred
            turned[start : start + _BLOCK_ROWS] = (torch.from_numpy(filled) @ matrix).numpy()[: len(centred)]
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        turned = turned / np.where(lengths > 1e-12, lengths, 1.0) / np.sqrt(1 + self.offset)
        if self.offset > 0:
            constant = np.full((len(turned), 1), np.sqrt(self.offset / (1 + self.offset)))
            turned = np.concatenate([turned, constant], axis=1)
        return np.asarray(turned, dtype=np.float32)


def fit_among_copies(vectors: Floats, *, dim: int, shrinkage: float, chance: float) -> Whitening:
    """`fit_whitening` on rows that may hold copies of each other, with the offset that puts chance pairs at `chance`.

    Whitening blows up whatever tells rows apart, so of copies among the rows (found with a first fit of few
    dimensions) only one is kept for the second fit. `chance` is the cosine that the most similar of a million
    unrelated pairs are to have. Memory: as `fit_whitening`.
    """
    first = fit_whitening(vectors, dim=min(dim, max(1, len(vectors) // 3)), shrinkage=shrinkage)
    whitened = InMemory(first(vectors))
    forest = Components(len(vectors))
    for edges in similar_pairs(whitened, threshold=_COPIES):
        forest.add(edges.left, edges.right)
    unique = vectors[forest.labels() == np.arange(len(vectors))]
    if len(unique) < 4:
        return first
    second = fit_whitening(unique, dim=min(dim - 1, len(unique) // 2), shrinkage=shrinkage)
    reached = _TAIL * float(np.median(_largest_cosines(second(unique))))
    return Whitening(second.mean, second.matrix, max(0.0, (chance - reached) / (1 - chance)))


def _largest_cosines(whitened: Floats, block_rows: int = 4096) -> Floats:
    """For every row [rows, dim] its largest cosine with another."""
    everything = torch.from_numpy(whitened)
    largest = np.empty(len(whitened), dtype=np.float32)
    for start in range(0, len(whitened), block_rows):
        products = everything[start : start + block_rows] @ everything.T
        rows = torch.arange(len(products))
        products[rows, start + rows] = -1.0
        largest[start : start + block_rows] = products.max(dim=1).values.numpy()
    return largest


def fit_whitening(vectors: Floats, *, dim: int, shrinkage: float, offset: float = 0.0) -> Whitening:
    """PCA whitening of vectors [rows, in_dim] to at most `dim` dimensions, the constant one included.

    `shrinkage` in [0, 1] mixes every variance with the mean one: 0 whitens fully,
    1 only centres and turns. Memory: 8 bytes times the square of the smaller of rows and in_dim.
    Raises ValueError for fewer than four vectors, for equal ones, and for a shrinkage or offset out of range.
    """
    if len(vectors) < 4:
        raise ValueError(f"whitening needs at least four vectors, got {len(vectors)}")
    if not 0.0 <= shrinkage <= 1.0 or offset < 0.0:
        raise ValueError(f"shrinkage must lie in [0, 1] and offset at or above 0, got {shrinkage} and {offset}")
    mean = vectors.mean(axis=0, dtype=np.float64)
    variances, directions = _principal_directions(vectors - mean, dim - (offset > 0))
    kept = int((variances > max(1e-9 * variances.max(initial=0.0), 1e-18)).sum())
    if kept < 1:
        raise ValueError("whitening needs vectors that differ, and at least one dimension")
    variances = variances[:kept]
    matrix = directions[:, :kept] / np.sqrt((1 - shrinkage) * variances + shrinkage * variances.mean())
    # The sign of an eigenvector is the solver's choice: fix it, so that any machine writes the same matrix.
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(kept)])
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32), offset)


def _principal_directions(centred: Matrix, num: int) -> tuple[Matrix, Matrix]:
    """The largest variances, at most `num`, in falling order, and their unit directions [dim, .] of centred rows.

    By the smaller of the two products of the matrix with itself; torch's library, because NumPy's lets its threads spin
    where the cores are busy (measured: 9 s for 4).
    """
    rows, dim = centred.shape
    matrix = torch.from_numpy(centred)
    product = (matrix.T @ matrix if rows >= dim else matrix @ matrix.T) / rows
    variances, vectors = torch.linalg.eigh(product)
    variances, vectors = variances.flip(0)[:num].clamp(min=0.0), vectors.flip(1)[:, :num]
    if rows < dim:
        vectors = (matrix.T @ vectors) / torch.sqrt(torch.clamp(variances * rows, min=1e-30))
    return variances.numpy(), vectors.numpy()
