"""The pairs between two sets of vectors with a cosine above a threshold, decided exactly as the self-join decides."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tasks.algorithms import self_join
from tasks.algorithms.blocks import InMemory, Rows
from tasks.algorithms.self_join import Edges, first_shared_cell

__all__ = ["cross_pairs", "first_shared_cell", "oriented", "pair_similarity"]

BLOCK_ROWS = 4096
"""Where all rows of two blocks are copies of each other, their pairs are to take 340 MB, not more."""


def cross_pairs(
    left: npt.NDArray[np.floating], right: npt.NDArray[np.floating], *, threshold: float, block_rows: int = BLOCK_ROWS
) -> Iterator[Edges]:
    """`self_join.cross_pairs` of two matrices in memory, [n, dim] and [m, dim]."""
    return self_join.cross_pairs(InMemory(left), InMemory(right), threshold=threshold, block_rows=block_rows)


def oriented(edges: Edges, left_rows: Rows, right_rows: Rows) -> Edges:
    """Pairs (i of left, j of right) as pairs of rows, the smaller one left; `left_rows`, `right_rows` name the rows."""
    left, right = left_rows[edges.left], right_rows[edges.right]
    return Edges(np.minimum(left, right), np.maximum(left, right), edges.similarity)


def pair_similarity(left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The cosine of each row of `left` with the same row of `right`, [pairs, dim] twice; zero rows are similar to none.

    In float64 from the rows as they are, as `similar_pairs` decides.
    """
    rows, others = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    lengths = np.sqrt((rows * rows).sum(axis=1) * (others * others).sum(axis=1))
    return np.asarray((rows * others).sum(axis=1) / np.where(lengths > 0, lengths, np.inf))
