"""Choosing by hash: a sample that depends on the ids and the seed, never on the order of the rows."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


def mix(values: Keys) -> Keys:
    """SplitMix64's finaliser: spreads every input bit over all 64 (Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def id_keys(ids: npt.ArrayLike, *, seed: int) -> Keys:
    """A 64-bit pseudo-random key per id (ASCII strings): the same id and seed give the same key on any machine.

    Memory: the ids once more as fixed-width bytes, and 8 bytes per id.
    """
    text = np.asarray(ids, dtype=np.bytes_)
    if text.size == 0:
        return np.zeros(0, dtype=np.uint64)
    width = -(-text.dtype.itemsize // 8) * 8
    words = text.astype(f"S{width}").view("<u8").reshape(len(text), width // 8)
    keys = np.full(len(text), np.uint64(seed), dtype=np.uint64)
    for column in range(words.shape[1]):
        # A column of zeros is padding of a wider array: an id must not change its key with its neighbours' length.
        mixed = mix(keys ^ words[:, column])
        keys = np.where(words[:, column] == 0, keys, mixed)
    return mix(keys)


def row_uniforms(start: int, count: int, *, seed: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) of rows start..start+count: a counter-based stream, the same whatever the blocks."""
    rows = np.arange(start, start + count, dtype=np.uint64)
    mixed = mix(rows ^ mix(np.full(1, seed, dtype=np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(keys: Keys, num: int) -> Rows:
    """The rows of the `num` smallest keys (all, if there are fewer), in increasing row order."""
    if num >= len(keys):
        return np.arange(len(keys), dtype=np.int64)
    if num <= 0:
        return np.zeros(0, dtype=np.int64)
    return np.sort(np.argsort(keys, kind="stable")[:num]).astype(np.int64)


def sample_per_group(groups: npt.NDArray[np.integer], keys: Keys, *, per_group: int) -> Rows:
    """At most `per_group` rows of every group: those with the smallest keys; increasing row order.

    `groups` [rows] may be any integers. Memory: 16 bytes per row while sorting.
    """
    if per_group <= 0 or len(groups) == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort((keys, groups))
    ordered = groups[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    rank = np.arange(len(order)) - np.repeat(firsts, np.diff(np.r_[firsts, len(order)]))
    return np.sort(order[rank < per_group]).astype(np.int64)
