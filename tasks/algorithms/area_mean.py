"""A picture as a few pixels, each the mean of the area that it covers: what hashes are made of.

The exact mean, rounded once: a picture of h x w pixels on a grid of `side` x `side` has cells whose borders lie at
multiples of h / side and w / side, so counted in pixels / side all weights are whole numbers, and so is the sum of
weights x bytes. OpenCV's INTER_AREA sums the same in float32 (equal but where a mean lies within its rounding of a
half) and takes seven times as long; Pillow's BOX takes or leaves whole pixels.
"""

import numba
import numpy as np
from jaxtyping import UInt8

_TO_WHOLE = 2.0**52  # added, it leaves no place for a fraction: rounds to the nearest, halves to even, in one step


def area_mean(gray: UInt8[np.ndarray, "height width"], side: int) -> UInt8[np.ndarray, " cells"]:
    """[side * side] means of the luma [height, width], halves to the even byte; a smaller picture repeats pixels.

    Memory: 4 bytes x width. Time: about 0.2 ns a pixel. Raises ValueError for a picture without pixels.
    """
    if not gray.size:
        raise ValueError(f"a mean needs at least one pixel, and this picture is {gray.shape[0]} x {gray.shape[1]}")
    cells = np.empty(side * side, np.uint8)
    _fill(np.ascontiguousarray(gray), side, cells)
    return cells


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill(gray: UInt8[np.ndarray, "height width"], side: int, cells: UInt8[np.ndarray, " cells"]) -> None:
    height, width = gray.shape
    borders = np.arange(side + 1) * width
    pixels, overs = borders // side, (borders % side).astype(np.uint64)  # a border: a pixel, and how far into it
    column = np.zeros(width + 1, np.uint32)  # 255 x height at most: sums down one row of cells; nothing beyond the last
    before = np.zeros(width + 1, np.uint64)  # sums of all columns before one
    for i in range(side):
        top, bottom = i * height, (i + 1) * height
        column[:] = 0
        for y in range(top // side, (bottom + side - 1) // side):
            weight = np.uint32(min(bottom, side * (y + 1)) - max(top, side * y))
            row = gray[y]
            for x in range(width):  # side by side in memory: 16 at a time
                column[x] += weight * np.uint32(row[x])
        for x in range(width):
            before[x + 1] = before[x] + np.uint64(column[x])
        start = np.uint64(0)
        for j in range(side):
            last = pixels[j + 1]
            stop = before[last] * np.uint64(side) + overs[j + 1] * np.uint64(column[last])
            mean = np.float64(stop - start) / (height * width)  # rounded once: both are far below 2^53
            cells[i * side + j] = np.uint8((mean + _TO_WHOLE) - _TO_WHOLE)
            start = stop
