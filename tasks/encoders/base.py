"""What every encoder is once built: pictures in, unit vectors out."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class BuiltEncoder(Protocol):
    """dim: length of a vector. min_side: pixels of the shorter side below which a picture need not be decoded."""

    @property
    def dim(self) -> int: ...

    @property
    def min_side(self) -> int: ...

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] of any sizes -> [len(images), dim] of unit length."""
        ...


class EncoderUnavailable(RuntimeError):
    """An encoder's weights are of another kind than its config says; the message says what to change."""


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 1e-12, lengths, 1.0), dtype=np.float32)
