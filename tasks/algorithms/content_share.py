"""How much of a picture is not its background: what tells a nearly blank one."""

import numba
import numpy as np
from jaxtyping import UInt8

_HALF = 0.5 + 1e-9  # a mean that is a half is rounded up, whatever the rounding of its reciprocal


def content_share(pixels: UInt8[np.ndarray, "height width 3"], *, levels: int, side: int) -> float:
    """Share, 0..1, of a picture that differs from its median colour by more than `levels` of 255 in some channel.

    Looked at is a copy whose longer side is `side` pixels (the picture itself where it is smaller), each the mean of
    the whole pixels that lie in it by their middles, so that coding noise has averaged out. The (upper) median is each
    channel's own. Memory: 3 bytes a pixel of the copy. Time: about 0.3 ns a byte of the picture and 1.5 ns of the copy.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    planes = _means(np.ascontiguousarray(pixels), max(1, round(height * scale)), max(1, round(width * scale)))
    return float(_share(planes, levels))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _borders(size: int, parts: int) -> np.ndarray:
    """Where `size` pixels are cut into `parts` (no more than there are pixels): each has at least one."""
    return ((2 * np.arange(parts + 1) * size + parts - 1) // (2 * parts)).astype(np.int64)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _means(pixels: UInt8[np.ndarray, "height width 3"], rows: int, columns: int) -> UInt8[np.ndarray, "3 pixels"]:
    height, width, _ = pixels.shape
    flat = pixels.reshape(height, 3 * width)
    tops, lefts = _borders(height, rows), _borders(width, columns)
    planes = np.empty((3, rows * columns), np.uint8)
    sums, shares = np.empty(3 * width, np.uint32), np.empty(columns)
    for i in range(rows):
        top = tops[i]
        row = flat[top]
        for x in range(3 * width):
            sums[x] = row[x]
        for y in range(top + 1, tops[i + 1]):
            row = flat[y]
            for x in range(3 * width):
                sums[x] += np.uint32(row[x])
        for j in range(columns):
            shares[j] = 1 / ((tops[i + 1] - top) * (lefts[j + 1] - lefts[j]))
        for j in range(columns):
            start, stop = 3 * lefts[j], 3 * lefts[j + 1]
            red, green, blue = sums[start], sums[start + 1], sums[start + 2]
            for x in range(start + 3, stop, 3):
                red, green, blue = red + sums[x], green + sums[x + 1], blue + sums[x + 2]
            share, place = shares[j], i * columns + j
            planes[0, place] = np.uint8(red * share + _HALF)
            planes[1, place] = np.uint8(green * share + _HALF)
            planes[2, place] = np.uint8(blue * share + _HALF)
    return planes


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _share(planes: UInt8[np.ndarray, "3 pixels"], levels: int) -> float:
    count = planes.shape[1]
    least, span = np.empty(3, np.uint8), np.empty(3, np.uint8)
    for channel in range(3):
        median = _upper_median(planes[channel])
        least[channel] = max(median - levels, 0)
        span[channel] = min(median + levels, 255) - least[channel]
    red, green, blue = planes[0], planes[1], planes[2]
    differing = 0
    for i in range(count):  # a byte below `least` wraps round and is beyond the span, too
        differing += (
            (np.uint8(red[i] - least[0]) > span[0])
            | (np.uint8(green[i] - least[1]) > span[1])
            | (np.uint8(blue[i] - least[2]) > span[2])
        )
    return differing / count


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _upper_median(values: UInt8[np.ndarray, " pixels"]) -> int:
    """By counting, in four tables: next to each other stand equal values, and one counter would wait for itself."""
    tables = np.zeros((4, 256), np.int32)
    count = len(values)
    for i in range(0, count - count % 4, 4):
        for table in range(4):
            tables[table, values[i + table]] += 1
    for i in range(count - count % 4, count):
        tables[0, values[i]] += 1
    below, value = 0, -1
    while below <= count // 2:
        value += 1
        below += tables[0, value] + tables[1, value] + tables[2, value] + tables[3, value]
    return value
