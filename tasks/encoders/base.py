"""What every encoder is once built: pictures in, unit vectors out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

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


@contextmanager
def bounded_threads(count: int) -> Iterator[None]:
    """Torch's threads inside the block: parts run beside each other, and each would take all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def product(left: Floats, right: Floats) -> Floats:
    """left @ right under torch's bound on threads.

    NumPy's library knows no bound that holds for a block: its threads spin for each other over these small matrices,
    and ten times the processor time was spent so (measured on two busy cores).
    """
    return torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
