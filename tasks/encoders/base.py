"""What every encoder is once built: pictures in, unit vectors out.

Describing a picture has two steps, because the first is done by threads beside the second: `prepare` turns one picture
into what the encoder reads (a resized picture, or the whole description where there is no network), `finish` turns a
batch of those into vectors.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Pixels8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Prepared = npt.NDArray[Any]


class BuiltEncoder(Protocol):
    """dim: length of a vector. min_side: pixels of the shorter side below which a picture need not be decoded.
    batch_images: prepared pictures of one shape that `finish` best takes at a time. num_threads: of torch, at most.
    batches_at_a_time: threads that may usefully call `finish` side by side: two where a GPU computes.
    """

    @property
    def dim(self) -> int: ...

    @property
    def min_side(self) -> int: ...

    @property
    def batch_images(self) -> int: ...

    @property
    def num_threads(self) -> int: ...

    @property
    def batches_at_a_time(self) -> int: ...

    def prepare(self, image: Pixels8) -> Prepared:
        """One RGB picture [height, width, 3] of any size -> what `finish` takes. Threads may call it side by side."""
        ...

    def finish(self, prepared: Sequence[Prepared]) -> Floats:
        """What `prepare` gave, of any shapes -> [len(prepared), dim] of unit length."""
        ...

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] of any sizes -> [len(images), dim] of unit length."""
        ...


class Buildable(Hashable, Protocol):
    """A config of an encoder."""

    def build(self) -> BuiltEncoder: ...


class EncoderUnavailable(RuntimeError):
    """An encoder's weights are of another kind than its config says; the message says what to change."""


class OneByOne:
    """An encoder without a network: `describe` turns a picture into its vector, all work is done in `prepare`."""

    min_side = 128
    batch_images = 64
    num_threads = 1
    batches_at_a_time = 1

    def __init__(self, describe: Callable[[Pixels8], Floats]) -> None:
        self._describe = describe
        self.dim = len(describe(np.zeros((32, 32, 3), dtype=np.uint8)))

    def prepare(self, image: Pixels8) -> Floats:
        """The whole description: [dim], not yet of unit length."""
        return self._describe(image)

    def finish(self, prepared: Sequence[Floats]) -> Floats:
        """Descriptions -> [len(prepared), dim] of unit length."""
        return unit(np.stack(prepared)) if prepared else np.zeros((0, self.dim), dtype=np.float32)

    def encode(self, images: Sequence[Pixels8]) -> Floats:
        """RGB pictures [height, width, 3] -> [len(images), dim] of unit length."""
        with bounded_threads(self.num_threads):
            return self.finish([self.prepare(image) for image in images])


_building = Lock()


def built(config: Buildable) -> BuiltEncoder:
    """The config's encoder, made once per process: weights are read, checked and moved to the GPU once, not per part.

    Memory: the weights of the two encoders used last.
    """
    with _building:  # two threads of one worker would each load the weights
        return _built(config)


@lru_cache(maxsize=2)
def _built(config: Buildable) -> BuiltEncoder:
    return config.build()


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 1e-12, lengths, 1.0), dtype=np.float32)


_threads_lock = Lock()
_threads_before: list[int] = []


@contextmanager
def bounded_threads(count: int) -> Iterator[None]:
    """Torch's threads inside the block: parts run beside each other, and each would take all cores.

    The number belongs to the process: where several threads are inside such blocks, the last to leave puts back what
    was there before the first came. Threads started inside the block have the bound, too.
    """
    with _threads_lock:
        _threads_before.append(torch.get_num_threads() if not _threads_before else _threads_before[0])
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _threads_lock:
            before = _threads_before.pop()
            if not _threads_before:
                torch.set_num_threads(before)


def product(left: Floats, right: Floats) -> Floats:
    """left @ right under torch's bound on threads.

    NumPy's library knows no bound that holds for a block: its threads spin for each other over these small matrices,
    and ten times the processor time was spent so (measured on two busy cores).
    """
    return torch.mm(torch.from_numpy(left), torch.from_numpy(right)).numpy()
