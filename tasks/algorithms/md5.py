"""MD5 (RFC 1321) of many messages at a time: 64 of them step by step in the lanes of vector registers.

A single MD5 is a chain in which every step waits for the one before, so one message fills a small part of a processor:
0.74 GB/s here, 60 us for an image of 45 KB, more than all else that a download does with it. Chains of different
messages do not wait for each other: see `bench.download` for what is left. The step is written in LLVM's vectors of
LANES numbers, which it cuts to what the processor has (16 a register with AVX-512, 8 with AVX2, 4 with NEON); numba
plans the lanes. Compiled at the first use (some seconds, kept on disk).
"""

import math
from typing import Any

import numba
import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from tasks.algorithms.llvm_vectors import I32, array_data, constant, rotated_left, transposed_words

LANES = 64
_BLOCK = 64  # bytes
_START = np.array([0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476], np.uint32)
_ADDED = [int(abs(math.sin(step + 1)) * 2**32) for step in range(64)]
_TURNS = [7, 12, 17, 22] * 4 + [5, 9, 14, 20] * 4 + [4, 11, 16, 23] * 4 + [6, 10, 15, 21] * 4
_SCALE_SHIFT = ((1, 0), (5, 1), (3, 5), (7, 0))  # of each round: its step takes word (scale x step + shift) % 16


def md5_digests(
    data: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " messages"], sizes: Int64[np.ndarray, " messages"]
) -> UInt8[np.ndarray, "messages 16"]:
    """The MD5 of every message data[start : start + size], in their order.

    Memory: 128 bytes a message. Cost: linear in their bytes; 64 messages or more of similar length fill all lanes.
    Raises ValueError when a message does not lie within the data.
    """
    if len(starts) and (starts.min() < 0 or sizes.min() < 0 or (starts + sizes).max() > len(data)):
        raise ValueError(f"messages lie outside of the {len(data)} bytes that hold them")
    tails = np.zeros((len(starts), 2 * _BLOCK), np.uint8)
    longest_first = np.argsort(-sizes, kind="stable")
    return _digests(data, starts, sizes, tails, longest_first, _START).view(np.uint8)


def _typed_step(typing: Any, state: Any, at: Any) -> Any:
    """One block of every lane (RFC 1321, 3.4): state uint32 [4, LANES], at uint64 [LANES], addresses of the blocks."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(I32, LANES)
        states = array_data(context, builder, signature.args[0], arguments[0], vector)
        words = transposed_words(builder, array_data(context, builder, signature.args[1], arguments[1], ir.IntType(64)),
                                 LANES)  # fmt: skip
        places = [builder.gep(states, [ir.IntType(32)(part)]) for part in range(4)]
        before = [builder.load(place, align=4) for place in places]
        after = _rounds(builder, before, words, vector)
        for place, old, new in zip(places, before, after, strict=True):
            builder.store(builder.add(old, new), place, align=4)
        return context.get_dummy_value()

    return types.void(state, at), build


_step: Any = intrinsic(_typed_step)


def _rounds(builder: ir.IRBuilder, state: list[Any], words: list[Any], vector: ir.VectorType) -> list[Any]:
    """The 64 steps: their parts change places from one to the next."""
    a, b, c, d = state
    for step in range(64):
        if step < 16:
            bits = builder.xor(d, builder.and_(b, builder.xor(c, d)))
        elif step < 32:
            bits = builder.xor(c, builder.and_(d, builder.xor(b, c)))
        elif step < 48:
            bits = builder.xor(builder.xor(b, c), d)
        else:
            bits = builder.xor(c, builder.or_(b, builder.not_(d)))
        scale, shift = _SCALE_SHIFT[step // 16]
        known = builder.add(builder.add(a, constant(vector, _ADDED[step])), words[(scale * step + shift) % 16])
        turned = rotated_left(builder, builder.add(known, bits), _TURNS[step])
        a, b, c, d = d, builder.add(b, turned), b, c
    return [a, b, c, d]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _digests(
    data: UInt8[np.ndarray, " bytes"],
    starts: Int64[np.ndarray, " messages"],
    sizes: Int64[np.ndarray, " messages"],
    tails: UInt8[np.ndarray, "messages 128"],
    order: Int64[np.ndarray, " messages"],
    start: UInt32[np.ndarray, "4"],
) -> UInt32[np.ndarray, "messages 4"]:
    """Messages in `order` take the next free lane: their whole blocks first, then the end with its padding (3.1, 3.2),
    written into `tails`. A lane without a message hashes one block over and over, unread."""
    digests, state = np.empty((len(order), 4), np.uint32), np.empty((4, LANES), np.uint32)
    message, in_tail = np.full(LANES, -1), np.zeros(LANES, np.bool_)
    at, left, by = np.empty(LANES, np.uint64), np.zeros(LANES, np.int64), np.zeros(LANES, np.uint64)
    idle = np.zeros(_BLOCK, np.uint8)
    first, first_tail, taken, done = np.uint64(data.ctypes.data), np.uint64(tails.ctypes.data), 0, 0
    while done < len(order):
        turns = 0
        for lane in range(LANES):
            while left[lane] == 0:
                one = message[lane]
                if one >= 0 and in_tail[lane]:
                    digests[one] = state[:, lane]
                    message[lane] = -1
                    done += 1
                elif one >= 0:
                    in_tail[lane] = True
                    at[lane] = first_tail + np.uint64(128 * one)
                    left[lane] = _pad(data, starts[one], sizes[one], tails[one])
                elif taken < len(order):
                    one = message[lane] = order[taken]
                    taken += 1
                    in_tail[lane], by[lane] = False, _BLOCK
                    at[lane], left[lane] = first + np.uint64(starts[one]), sizes[one] // _BLOCK
                    state[:, lane] = start
                else:
                    at[lane], by[lane] = np.uint64(idle.ctypes.data), 0
                    break
            if left[lane] and (turns == 0 or left[lane] < turns):
                turns = left[lane]
        for _ in range(turns):
            _step(state, at)
            for lane in range(LANES):
                at[lane] += by[lane]
        for lane in range(LANES):
            left[lane] = max(0, left[lane] - turns)
    return digests


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pad(data: UInt8[np.ndarray, " bytes"], start: int, size: int, tail: UInt8[np.ndarray, "128"]) -> int:
    """A message's last bytes, a one bit, zeros, the length in bits; how many blocks that is."""
    rest = size % _BLOCK
    for place in range(rest):
        tail[place] = data[start + size - rest + place]
    tail[rest] = 0x80
    blocks = 1 if rest < _BLOCK - 8 else 2
    for place in range(8):
        tail[blocks * _BLOCK - 8 + place] = ((size * 8) >> (8 * place)) & 0xFF
    return blocks
