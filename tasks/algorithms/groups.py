"""Groups of copies: the best row of each, their strongest edge, how large groups are, and a measure of quality."""

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows
from tasks.algorithms.components import Integers

_EXACT_SIZES = 64


def best_of_each(groups: Integers, preference: Sequence[npt.NDArray[np.generic]]) -> Rows:
    """Of every group, in increasing order of its number, the position of its best row.

    `preference` holds one or more arrays [rows], the most important first; the smallest value wins, and where all are
    equal the first row. Negate a column whose largest value should win. Memory: what sorting takes.
    """
    order = np.lexsort([*reversed(preference), groups])
    ordered = groups[order]
    return np.asarray(order[np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]])


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def raise_to(best: Floats, labels: Integers, left: Rows, right: Rows, similarity: Floats) -> None:
    """best[row] = the largest similarity of the row's edges within its component, over edges that come by blocks."""
    for edge in range(len(left)):
        a, b = left[edge], right[edge]
        if labels[a] == labels[b]:
            best[a] = max(best[a], similarity[edge])
            best[b] = max(best[b], similarity[edge])


def size_table(histogram: dict[int, int]) -> dict[str, int]:
    """{size: components}, from 65 on by powers of two ("65-128"): a page long, however large a component is."""
    table: dict[str, int] = {}
    for size, count in sorted(histogram.items()):
        upper = 1 << (size - 1).bit_length()
        name = str(size) if size <= _EXACT_SIZES else f"{upper // 2 + 1}-{upper}"
        table[name] = table.get(name, 0) + count
    return table


def effective_pixels(
    num_pixels: npt.NDArray[np.integer], num_bytes: npt.NDArray[np.integer], enough_bits: Floats
) -> npt.NDArray[np.int64]:
    """A measure of quality among copies: pixels * min(1, bits per pixel / enough bits per pixel)**2.

    `enough_bits` is what a pixel needs in the image's format to be hardly worse than the original; 0 for formats
    without loss, whose pixels all count. Copies have the same content, hence are as hard to compress. Compressed again,
    an image has fewer bits for each pixel and counts less. Enlarged, its bytes grow more slowly than its side (there is
    nothing new to encode), so that pixels * bits**2 falls; with detail of its own they grow faster, and it rises.
    """
    lossy = (enough_bits > 0) & (num_pixels > 0)
    share = np.divide(8.0 * num_bytes, enough_bits * num_pixels, out=np.ones(len(num_bytes)), where=lossy)
    return (num_pixels * np.minimum(1.0, share) ** 2).astype(np.int64)
