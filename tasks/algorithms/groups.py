"""Groups of copies: which rows are in one, their strongest edge, how large groups are, and a measure of quality."""

import numba
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows
from tasks.algorithms.components import Integers

_EXACT_SIZES = 64


def grouped_rows(labels: Integers, sizes: Integers) -> Rows:
    """Rows in components of more than one, increasing. Memory beside the result: one block."""
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(labels), 1 << 20):
        found.append(np.flatnonzero(sizes[labels[start : start + (1 << 20)]] > 1) + start)
    return np.concatenate(found)


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


def carried_pixels(
    num_pixels: npt.NDArray[np.integer], num_bytes: npt.NDArray[np.integer], enough_bits: Floats
) -> npt.NDArray[np.int64]:
    """How many pixels an encoded image's bytes can carry well: its own, or fewer where it is compressed hard.

    `enough_bits` is what a pixel needs in the image's format to be hardly worse than the original; 0 for formats
    without loss. Of two copies (the same content, hence as hard to compress) the one that is enlarged, or compressed
    again, carries no more pixels than the other and has fewer bits for each.
    """
    lossy = enough_bits > 0
    carried = np.divide(8.0 * num_bytes, enough_bits, out=np.full(len(num_bytes), np.inf), where=lossy)
    return np.minimum(num_pixels, carried).astype(np.int64)
