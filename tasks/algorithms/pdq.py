"""PDQ: a 256-bit perceptual hash of luma, as Meta published it (ThreatExchange, "The TMK+PDQF Video-Hashing Algorithm
and the PDQ Image-Hashing Algorithm", 2019), for lists of known images and for pictures that differ by a little.

luma → two box filters along each axis → 64 x 64 → 16 x 16 low cosine frequencies without the constant ones → a bit each
where a frequency is above their median. Two hashes of one picture differ by 31 bits at most; a quality below 50 says
that there is too little in the picture to be told from others.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt8

SIDE = 64
HASH_BYTES = 32
MAX_DISTANCE = 31
"""Bits that two hashes of one picture differ by at most (the publishers' threshold)."""
MIN_QUALITY = 50
_MIN_SIDE = 5
_FREQUENCIES = 16
_QUALITY_SCALE = 90


def pdq_hash(gray: UInt8[np.ndarray, "height width"]) -> tuple[bytes, int]:
    """(hash, quality 0..100) of an image's luma; the hash's first byte holds its most significant bits, as in the
    publishers' hexadecimal. An image with a side below 5 pixels has a hash of zeros and quality 0."""
    if min(gray.shape) < _MIN_SIDE:
        return bytes(HASH_BYTES), 0
    hashes, qualities = pdq_hashes(tent_downsample(gray)[None])
    return hashes[0].tobytes(), int(qualities[0])


def pdq_hashes(
    small: Float[np.ndarray, "images 64 64"],
) -> tuple[UInt8[np.ndarray, "images 32"], Int[np.ndarray, " images"]]:
    """Hashes and qualities of images that `tent_downsample` made small."""
    cosines = _cosines()
    frequencies = (cosines @ small @ cosines.T).reshape(len(small), -1)  # [images, 256]
    median = np.partition(frequencies, frequencies.shape[1] // 2 - 1, axis=1)[:, frequencies.shape[1] // 2 - 1]
    bits = frequencies > median[:, None]  # bit 0, the lowest frequency, is the least significant
    return np.packbits(bits[:, ::-1], axis=1), _qualities(small)


def _qualities(small: Float[np.ndarray, "images 64 64"]) -> Int[np.ndarray, " images"]:
    """How much of the picture is edges: neighbours' differences in hundredths of the range, whole parts summed."""
    steps = [np.abs(np.diff(small, axis=axis)) * (100 / 255) for axis in (1, 2)]
    total = sum(np.trunc(step).sum(axis=(1, 2)) for step in steps)
    return np.minimum(np.asarray(total) // _QUALITY_SCALE, 100).astype(np.int64)


@lru_cache(maxsize=1)
def _cosines() -> Float[np.ndarray, "16 64"]:
    """Rows 1..16 of the orthonormal cosine transform of 64 points: row 0, the mean, is left out."""
    rows, columns = np.arange(1, _FREQUENCIES + 1)[:, None], np.arange(SIDE)[None]
    return np.asarray(np.sqrt(2 / SIDE) * np.cos(np.pi / (2 * SIDE) * rows * (2 * columns + 1)))


def tent_downsample(gray: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "64 64"]:
    """64 x 64 samples of the image after two passes of a box filter along each axis (together: a tent).

    Only the samples are computed, each from the some dim / 64 pixels a side that it covers: 64 x (width + 64) x taps
    multiplications, where filtering the whole image takes 4 x height x width additions.
    """
    rows, row_weights = _tents(gray.shape[0])
    columns, column_weights = _tents(gray.shape[1])
    narrow = np.einsum("stw,st->sw", gray[rows].astype(np.float32), row_weights)  # [64, width]
    return np.asarray(np.einsum("rst,st->rs", narrow[:, columns], column_weights), np.float64)


@lru_cache(maxsize=4096)
def _tents(size: int) -> tuple[Int[np.ndarray, "64 taps"], Float[np.ndarray, "64 taps"]]:
    """Which pixels of an axis each of the 64 samples is made of, and with which weights (those that add up are 0).

    A box of window w around place i is the mean of [i + h - w, i + h), h = (w + 2) // 2, as much of it as there is.
    """
    window = (size + 2 * SIDE - 1) // (2 * SIDE)
    centres = ((np.arange(SIDE) + 0.5) * size / SIDE).astype(np.int64)
    reach = 2 * window  # more than two boxes reach
    places = centres[:, None] + np.arange(-reach, reach + 1)
    weights = np.zeros(places.shape)
    for row, centre in enumerate(centres.tolist()):
        outer = range(*_box(centre, window, size))
        for middle in outer:
            start, end = _box(middle, window, size)
            weights[row, start - centre + reach : end - centre + reach] += 1 / (len(outer) * (end - start))
    used = weights.any(axis=0)
    return np.clip(places[:, used], 0, size - 1), weights[:, used].astype(np.float32)


def _box(place: int, window: int, size: int) -> tuple[int, int]:
    half = (window + 2) // 2
    return max(0, place + half - window), min(size, place + half)
