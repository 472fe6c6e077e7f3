"""The PCA that a run hashes with: fitted on its own images, or taken from a file or an earlier run."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from storage.manifest import FileEntry
from tasks.algorithms.pca_hash import NUM_BITS, fit_pca
from tasks.hashing.looks import PIXELS, load_array, write_array
from tasks.hashing.parts import hashed_bytes

PCA_FILE = "pca.npy"
"""[bits, numbers an image + 1]: the directions, the thresholds in the last column."""


def write_pca(
    path: str, thumbnails: Sequence[str], *, method: str, given: str | None, max_fit_images: int
) -> FileEntry:
    """The PCA at `path`: the one of the file `given`, or fitted on the first images of each part, in equal shares.

    Raises ValueError for a file that holds no PCA.
    """
    if given is not None:
        return write_array(path, _checked(given, method))
    share = max(1, max_fit_images // max(1, len(thumbnails)))
    blocks = (block for block in (hashed_bytes(one, method)[:share] for one in thumbnails) if len(block))
    first = next(blocks, None)
    if first is None:  # no image came in: any PCA will do
        return write_array(path, np.zeros((NUM_BITS, PIXELS + 1)))
    pca = fit_pca(_chained(first, blocks))
    return write_array(path, np.column_stack([pca.directions, pca.thresholds]))


def _chained(first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from rest


def _checked(path: str, method: str) -> NDArray[np.float64]:
    stored = load_array(path)
    right = stored.ndim == 2 and len(stored) <= NUM_BITS and (method != "pca" or stored.shape[1] == PIXELS + 1)
    if not right:
        wanted = f"{NUM_BITS} x {PIXELS + 1}" if method == "pca" else f"{NUM_BITS} directions"
        raise ValueError(
            f"{path} holds an array of shape {stored.shape}, not a PCA of at most {wanted}. "
            "Give the pca.npy of a finished hash_dedup stage, or leave pca_file out to fit one."
        )
    return stored.astype(np.float64)
