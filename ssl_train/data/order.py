"""Which image stands at which place of the data's order: a pure function, the same on any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ROUNDS = 6
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def positions_of(step: int, *, batch_images: int, rank: int, world_size: int) -> Sequence[int]:
    """The places of one process's images in the endless order: step by step, process by process."""
    share = batch_images // world_size
    start = step * batch_images + rank * share
    return range(start, start + share)


def image_at(position: int, *, num_images: int, seed: int) -> int:
    """The image at a place of the order: every `num_images` places hold each image once, newly shuffled.

    Costs no memory and a few microseconds, for any number of images.
    """
    epoch, index = divmod(position, num_images)
    return permuted(index, num_images, key=mixed(seed, epoch))


class Order(Protocol):
    """An endless order of numbered images; every epoch, as many places as there are images, holds each once."""

    def image_at(self, position: int) -> int:
        """The number of the image at a place."""
        ...


@dataclass(frozen=True)
class GlobalOrder:
    """All images shuffled among each other: any two may follow each other."""

    num_images: int
    seed: int

    def image_at(self, position: int) -> int:
        """The number of the image at a place."""
        return image_at(position, num_images=self.num_images, seed=self.seed)


class ShardShuffle:
    """Blocks of neighbouring images shuffled, and the images of a few blocks in a row among each other.

    What is read at a time lies in `window_blocks` blocks, so that storage is read in long stretches. It is a function
    of seed and place like the global order: for any number of processes, beginning anew anywhere.
    Memory: 16 bytes a block, and 16 more for each of the last two epochs asked for.
    """

    def __init__(self, block_images: Sequence[int], *, window_blocks: int, seed: int) -> None:
        """`block_images`: how many images each block holds, in the order of the images."""
        self._sizes = np.asarray(block_images, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._window_blocks, self._seed = window_blocks, seed
        self._epochs: dict[int, Epoch] = {}

    def image_at(self, position: int) -> int:
        """The number of the image at a place."""
        epoch, place = divmod(position, int(self._starts[-1]))
        blocks, ends = self._shuffled(epoch)
        window = int(np.searchsorted(ends, place, side="right")) // self._window_blocks
        first, last = window * self._window_blocks, min((window + 1) * self._window_blocks, len(blocks))
        begin, end = int(ends[first - 1]) if first else 0, int(ends[last - 1])
        key = mixed(mixed(self._seed, epoch), window + 1)
        inner = begin + permuted(place - begin, end - begin, key=key)
        number = int(np.searchsorted(ends, inner, side="right"))
        return int(self._starts[blocks[number]]) + inner - (int(ends[number - 1]) if number else 0)

    def _shuffled(self, epoch: int) -> "Epoch":
        if epoch not in self._epochs:
            size, key = len(self._sizes), mixed(self._seed, epoch)
            blocks = np.array([permuted(index, size, key=key) for index in range(size)], np.int64)
            kept = dict(list(self._epochs.items())[-1:])
            self._epochs = kept | {epoch: Epoch(blocks, np.cumsum(self._sizes[blocks]))}
        return self._epochs[epoch]


class Epoch(NamedTuple):
    """The blocks in one epoch's order, and how many images stand up to the end of each."""

    blocks: NDArray[np.int64]
    ends: NDArray[np.int64]


def permuted(index: int, size: int, *, key: int) -> int:
    """Where a pseudo-random permutation of range(size) takes `index`.

    A Feistel network permutes the next larger square power of two; what falls outside is taken on until it lands
    inside (cycle walking, Black and Rogaway 2002).
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(ROUNDS):
            left, right = right, left ^ (mixed(key + round_number, right) & low)
        index = left << half | right
        if index < size:
            return index


def mixed(key: int, value: int) -> int:
    """64 well mixed bits of two numbers (SplitMix64's finaliser)."""
    x = (key * _GOLDEN + value + _GOLDEN) & _WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & _WORD
    return x ^ (x >> 31)
