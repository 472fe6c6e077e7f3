"""MD5 (RFC 1321) of many messages at a time: 64 of them step by step in the lanes of vector registers.

A single MD5 is a chain in which every step waits for the one before, so one message fills a small part of a processor:
0.74 GB/s here, 60 us for an image of 45 KB, more than all else that a download does with it. Chains of different
messages do not wait for each other: 11 us. Compiled at the first use (some seconds, kept on disk).
"""

import math
from collections.abc import Sequence

import numba
import numpy as np
from jaxtyping import Int64, UInt32

LANES = 64
_BLOCK = 64  # bytes
_START = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476], np.uint32)
_ADDED = np.array([int(abs(math.sin(step + 1)) * 2**32) for step in range(64)], np.uint32)
_TURNS = np.array([7, 12, 17, 22] * 4 + [5, 9, 14, 20] * 4 + [4, 11, 16, 23] * 4 + [6, 10, 15, 21] * 4, np.uint32)
_SCALE_SHIFT = ((1, 0), (5, 1), (3, 5), (7, 0))  # of each round: its step takes word (scale x step + shift) % 16
_WORD = np.array([(scale * step + shift) % 16 for scale, shift in _SCALE_SHIFT for step in range(16)])
_U32 = np.uint32


def md5_digests(messages: Sequence[bytes]) -> list[bytes]:
    """The MD5 of every message, in their order.

    Memory: a copy of all messages. Cost: linear in their bytes; 64 messages or more of similar length fill all lanes.
    """
    padded = [(len(message) + 9 + _BLOCK - 1) // _BLOCK * _BLOCK for message in messages]
    starts = np.cumsum([0, *padded], dtype=np.int64)
    data = bytearray(int(starts[-1]))
    for message, start, size in zip(messages, starts.tolist(), padded, strict=False):
        end = start + len(message)
        data[start:end] = message
        data[end] = 0x80  # a one bit, zeros, the length in bits: RFC 1321, 3.1 and 3.2
        data[start + size - 8 : start + size] = (len(message) * 8).to_bytes(8, "little")
    blocks = np.array(padded, np.int64) // _BLOCK
    longest_first = np.argsort(-blocks, kind="stable")
    words = np.frombuffer(data, "<u4").reshape(-1, 16)
    digests = _digests(words, starts[:-1] // _BLOCK, blocks, longest_first, _START)
    return [digest.tobytes() for digest in digests.astype("<u4")]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _digests(
    words: UInt32[np.ndarray, "blocks 16"],
    starts: Int64[np.ndarray, " messages"],
    lengths: Int64[np.ndarray, " messages"],
    order: Int64[np.ndarray, " messages"],
    start: UInt32[np.ndarray, "4"],
) -> UInt32[np.ndarray, "messages 4"]:
    """Messages in `order` take the next free lane; a lane without one hashes the first block over and over, unread."""
    digests = np.empty((len(order), 4), np.uint32)
    state, work = np.empty((4, LANES), np.uint32), np.empty((4, LANES), np.uint32)
    block = np.empty((16, LANES), np.uint32)
    message, at, left = np.full(LANES, -1), np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    taken = done = 0
    while done < len(order):
        for lane in range(LANES):
            if left[lane] == 0:
                if message[lane] >= 0:
                    digests[message[lane]] = state[:, lane]
                    message[lane] = -1
                    done += 1
                if taken < len(order):
                    message[lane] = order[taken]
                    at[lane], left[lane] = starts[order[taken]], lengths[order[taken]]
                    state[:, lane] = start
                    taken += 1
                else:
                    at[lane] = 0
        turns = 0
        for lane in range(LANES):
            if left[lane] and (turns == 0 or left[lane] < turns):
                turns = left[lane]
        for _ in range(turns):
            for lane in range(LANES):
                for word in range(16):
                    block[word, lane] = words[at[lane], word]
            _step(state, work, block)
            for lane in range(LANES):
                if left[lane]:
                    at[lane] += 1
                    left[lane] -= 1
    return digests


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _mixed(kept: np.uint32, bits: np.uint32, added: np.uint32, to: np.uint32, turn: np.uint32) -> np.uint32:
    """to + ((kept + bits + added) rotated left by `turn`); every sum is cut, else numba counts in 64 bits."""
    total = _U32(_U32(kept + _U32(bits)) + added)
    return _U32(to + _U32(_U32(total << turn) | _U32(total >> _U32(_U32(32) - turn))))


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _step(
    state: UInt32[np.ndarray, "4 lanes"], work: UInt32[np.ndarray, "4 lanes"], block: UInt32[np.ndarray, "16 lanes"]
) -> None:
    """One block of every lane (RFC 1321, 3.4): the four words of the state change their parts from step to step."""
    work[:] = state
    for step in range(64):
        a, b, c, d = work[-step & 3], work[(1 - step) & 3], work[(2 - step) & 3], work[(3 - step) & 3]
        word, added, turn = block[_WORD[step]], _ADDED[step], _TURNS[step]
        if step < 16:
            for lane in range(LANES):
                bits = d[lane] ^ (b[lane] & (c[lane] ^ d[lane]))
                a[lane] = _mixed(a[lane], bits, _U32(added + word[lane]), b[lane], turn)
        elif step < 32:
            for lane in range(LANES):
                bits = c[lane] ^ (d[lane] & (b[lane] ^ c[lane]))
                a[lane] = _mixed(a[lane], bits, _U32(added + word[lane]), b[lane], turn)
        elif step < 48:
            for lane in range(LANES):
                bits = b[lane] ^ c[lane] ^ d[lane]
                a[lane] = _mixed(a[lane], bits, _U32(added + word[lane]), b[lane], turn)
        else:
            for lane in range(LANES):
                bits = c[lane] ^ (b[lane] | ~d[lane])
                a[lane] = _mixed(a[lane], bits, _U32(added + word[lane]), b[lane], turn)
    for part in range(4):
        for lane in range(LANES):
            state[part, lane] += work[part, lane]
