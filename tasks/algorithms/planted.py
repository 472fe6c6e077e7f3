"""Planted copies: vectors at known similarities to vectors of a pool, to measure what a join would miss of them."""

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats


def plant_copies(originals: npt.NDArray[np.floating], *, threshold: float, seed: int) -> Floats:
    """One noisy copy of every row of `originals` [rows, dim], as float16 would store it: unit length, [rows, dim].

    The copies' cosines with their originals lie evenly between `threshold` and 1: row i has threshold +
    (1 - threshold) * (i + 1/2) / rows. The noise is Gaussian with the covariance of the originals (a random combination
    of them), so that a copy lies among the vectors of the pool and not in directions that none of them has.
    Raises ValueError for fewer than 3 originals.
    """
    if len(originals) < 3:
        raise ValueError(f"noise with the pool's covariance needs at least 3 originals, got {len(originals)}")
    units = _unit(originals)
    weights = np.random.default_rng(seed).standard_normal((len(units), len(units)))
    noise = weights @ (units - units.mean(axis=0))
    noise = _unit(noise - (noise * units).sum(axis=1, keepdims=True) * units)
    cosine = threshold + (1 - threshold) * (np.arange(len(units)) + 0.5)[:, None] / len(units)
    copies = cosine * units + np.sqrt(1 - cosine**2) * noise
    return np.asarray(copies.astype(np.float16), dtype=np.float32)


def _unit(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    floats = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.asarray(floats / np.where(lengths > 0, lengths, 1.0))
