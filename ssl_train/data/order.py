"""Which image stands at which place of the data's order: a pure function, the same on any number of processes."""

from collections.abc import Sequence

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
