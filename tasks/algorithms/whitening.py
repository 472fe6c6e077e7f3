"""Centring and whitening of descriptors, fitted on the pool they come from.

SSCD (Pizzi et al. 2022, section 5) whitens its descriptors with samples of the target domain; it takes away what all
images share, so that the cosine of two unrelated images lies near 0.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats


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
        """[rows, dim] -> [rows, out_dim] of unit length; a vector at the mean gets zeros and the constant."""
        if vectors.shape[1] != len(self.mean):
            raise ValueError(f"whitening was fitted on {len(self.mean)} dimensions, got vectors of {vectors.shape[1]}")
        turned = (vectors - self.mean) @ self.matrix
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        turned = turned / np.where(lengths > 1e-12, lengths, 1.0) / np.sqrt(1 + self.offset)
        if self.offset > 0:
            constant = np.full((len(turned), 1), np.sqrt(self.offset / (1 + self.offset)))
            turned = np.concatenate([turned, constant], axis=1)
        return np.asarray(turned, dtype=np.float32)


def fit_whitening(vectors: Floats, *, dim: int, shrinkage: float, offset: float = 0.0) -> Whitening:
    """PCA whitening of vectors [rows, in_dim] to at most `dim` dimensions, and no more than a third of the rows.

    With more directions than that, whitening would blow up the small differences between copies that are among the
    rows until the copies look unrelated. `shrinkage` in [0, 1] mixes every variance with the mean one: 0 whitens fully,
    1 only centres and turns. Memory: 8 bytes times the square of the smaller of rows and in_dim.
    Raises ValueError for fewer than four vectors, for equal ones, and for a shrinkage or offset out of range.
    """
    if len(vectors) < 4:
        raise ValueError(f"whitening needs at least four vectors, got {len(vectors)}")
    if not 0.0 <= shrinkage <= 1.0 or offset < 0.0:
        raise ValueError(f"shrinkage must lie in [0, 1] and offset at or above 0, got {shrinkage} and {offset}")
    mean = vectors.mean(axis=0, dtype=np.float64)
    variances, directions = _principal_directions(vectors - mean)
    distinct = int((variances > 1e-9 * variances[0]).sum()) if variances[0] > 0 else 0
    kept = min(dim - (offset > 0), len(vectors) // 3, distinct)
    if kept < 1:
        raise ValueError("whitening needs vectors that differ, and at least one dimension")
    shrunk = (1 - shrinkage) * variances[:kept] + shrinkage * variances[:kept].mean()
    matrix = directions[:, :kept] / np.sqrt(shrunk)
    # The sign of an eigenvector is the solver's choice: fix it, so that any machine writes the same matrix.
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(kept)])
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32), offset)


def _principal_directions(centred: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Variances in falling order and unit directions [dim, .] of centred rows, by the smaller of the two products."""
    rows, dim = centred.shape
    if rows >= dim:
        variances, directions = np.linalg.eigh(centred.T @ centred / rows)
        return np.clip(variances[::-1], 0.0, None), directions[:, ::-1]
    variances, weights = np.linalg.eigh(centred @ centred.T / rows)
    variances = np.clip(variances[::-1], 0.0, None)
    lengths = np.sqrt(np.maximum(variances * rows, 1e-30))
    return variances, (centred.T @ weights[:, ::-1]) / lengths
