"""Centring and whitening of descriptors, fitted on the pool they come from.

SSCD (Pizzi et al. 2022, section 5) whitens its descriptors with samples of the target domain; it takes away what all
images share, so that the cosine of two unrelated images lies near 0.
"""

from dataclasses import dataclass

import numpy as np

from tasks.algorithms.blocks import Floats


@dataclass(frozen=True)
class Whitening:
    """x -> unit((x - mean) @ matrix): mean [dim], matrix [dim, out_dim], float32."""

    mean: Floats
    matrix: Floats

    def __call__(self, vectors: Floats) -> Floats:
        """[rows, dim] -> [rows, out_dim] of unit length; a vector at the mean stays zero."""
        if vectors.shape[1] != len(self.mean):
            raise ValueError(f"whitening was fitted on {len(self.mean)} dimensions, got {vectors.shape[1]}")
        turned = (vectors - self.mean) @ self.matrix
        lengths = np.linalg.norm(turned, axis=1, keepdims=True)
        return np.asarray(turned / np.where(lengths > 1e-12, lengths, 1.0), dtype=np.float32)


def fit_whitening(vectors: Floats, *, dim: int, shrinkage: float) -> Whitening:
    """PCA whitening to at most `dim` dimensions of vectors [rows, in_dim].

    `shrinkage` in [0, 1] mixes every variance with their mean over the kept directions: 0 whitens fully (and blows up
    noise), 1 only centres and rotates. Raises ValueError for fewer than two vectors.
    """
    if len(vectors) < 2:
        raise ValueError(f"whitening needs at least two vectors, got {len(vectors)}")
    if not 0.0 <= shrinkage <= 1.0:
        raise ValueError(f"shrinkage must lie between 0 and 1, got {shrinkage}")
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / len(vectors))
    variances, directions = np.clip(variances[::-1], 0.0, None), directions[:, ::-1]
    kept = min(dim, len(vectors) - 1, int((variances > 1e-12 * variances[0]).sum()))
    if kept == 0:
        raise ValueError("whitening needs vectors that differ")
    shrunk = (1 - shrinkage) * variances[:kept] + shrinkage * variances[:kept].mean()
    matrix = directions[:, :kept] / np.sqrt(shrunk)
    # The sign of an eigenvector is the solver's choice: fix it, so that any machine writes the same matrix.
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(kept)])
    return Whitening(mean.astype(np.float32), matrix.astype(np.float32))
