"""What a join finds, whichever device finds it. Imports nothing but numpy, so that a GPU node needs nothing more."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows

Cells = npt.NDArray[np.int32]


class Edges(NamedTuple):
    """A block of pairs: left < right, and their cosine."""

    left: Rows
    right: Rows
    similarity: Floats


NO_EDGES = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def not_finite(row: int) -> ValueError:
    """The error of a row that holds NaN or an infinite number."""
    return ValueError(f"vector {row} of the block is not finite: an encoder or a file is broken; describe it again")
