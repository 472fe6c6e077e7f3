"""SHA-256 (FIPS 180-4) of a stream and of messages within it, in one pass over the bytes.

A SHA-256 is a chain in which every two rounds wait for the two before, so a processor with SHA instructions (x86's
SHA-NI) is busy half of the time. A shard's own checksum and those of its members are chains over the same blocks, as
members begin at whole blocks in a tar: their rounds take turns, and the message schedule is made once for both. So both
cost what one did: 25 us of 45 KB here instead of 52. Compiled at the first use (some seconds, kept on disk).
"""

import os
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from tasks.algorithms.llvm_vectors import I32, I64, array_data, called, shuffled

BLOCK_BYTES = 64
_X4 = ir.VectorType(I32, 4)
_PRIMES = [n for n in range(2, 312) if all(n % divisor for divisor in range(2, n))]  # the first 64


def _root_fraction(prime: int, root: int) -> int:
    """The first 32 bits of the fraction of a prime's square or cube root (4.2.2, 5.3.3), in whole numbers."""
    wanted, low, high = prime << (32 * root), 0, prime << 32
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**root <= wanted else (low, middle)
    return low & 0xFFFFFFFF


_ADDED = [_root_fraction(prime, 3) for prime in _PRIMES]
_START = [_root_fraction(prime, 2) for prime in _PRIMES[:8]]
_LANES = (5, 4, 1, 0, 7, 6, 3, 2)  # of the eight words a-h, as SHA-NI has them: f e b a in one register, h g d c in one


def is_fast() -> bool:
    """Whether this processor has the instructions, and numba compiles for this processor; else `hashlib` is better."""
    told_another = any(os.environ.get(name) for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"))
    return not told_another and bool(llvm.get_host_cpu_features().get("sha"))


class PairedSha256:
    """The SHA-256 of a stream of whole blocks, and of messages in it. Only where `is_fast`."""

    def __init__(self) -> None:
        self._state = np.array([_START[_LANES[place]] for place in range(8)], np.uint32)
        self._bytes = 0

    def update(
        self,
        data: UInt8[np.ndarray, " bytes"],
        starts: Int64[np.ndarray, " messages"],
        sizes: Int64[np.ndarray, " messages"],
    ) -> UInt8[np.ndarray, "messages 32"]:
        """Takes the stream's next bytes; the SHA-256 of each message data[start : start + size] in them.

        Raises ValueError unless the bytes are whole blocks, and the messages lie apart and in order in them, each from
        a block's start on.
        """
        ends = starts + sizes
        if len(data) % BLOCK_BYTES or (starts % BLOCK_BYTES).any():
            raise ValueError(f"{len(data)} bytes, or messages in them, that are no whole blocks of {BLOCK_BYTES}")
        apart = np.concatenate([[0], ends]) <= np.concatenate([starts, [len(data)]])
        if (sizes < 0).any() or not apart.all():
            raise ValueError("messages overlap, are not in order or end outside of the data")
        self._bytes += len(data)
        first = np.array([_START[_LANES[place]] for place in range(8)], np.uint32)
        return _in_bytes(_update(data, starts, sizes, self._state, first))

    def digest(self) -> bytes:
        """Of the stream so far."""
        end = np.zeros(BLOCK_BYTES, np.uint8)
        end[0] = 0x80
        end[-8:] = np.frombuffer((8 * self._bytes).to_bytes(8, "big"), np.uint8)
        state = self._state.copy()
        _single(state, end, 0, 1)
        return _in_bytes(state[np.newaxis]).tobytes()


def _in_bytes(states: UInt32[np.ndarray, "messages 8"]) -> UInt8[np.ndarray, "messages 32"]:
    return states[:, np.argsort(_LANES)].astype(">u4", order="C").view(np.uint8)


def _chained(streams: int) -> Any:
    """Code that takes blocks first, first + 1, ... of `data` into one or two states."""

    def build(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        states = [array_data(context, builder, kinds[n], arguments[n], _X4) for n in range(streams)]
        data = array_data(context, builder, kinds[streams], arguments[streams], _X4)
        places = [builder.gep(state, [I32(half)]) for state in states for half in range(2)]
        held = [cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in places]
        with cgutils.for_range(builder, arguments[streams + 2]) as loop:
            block = builder.mul(builder.add(arguments[streams + 1], loop.index), I64(4))
            rows = [builder.gep(data, [builder.add(block, I64(row))]) for row in range(4)]
            words = [called(builder, "llvm.bswap.v4i32", _X4, builder.load(row, align=1)) for row in rows]
            before = [builder.load(one) for one in held]
            for one, old, new in zip(held, before, _rounds(builder, before, words), strict=True):
                builder.store(builder.add(old, new), one)
        for place, one in zip(places, held, strict=True):
            builder.store(builder.load(one), place, align=4)
        return context.get_dummy_value()

    return build


def _rounds(builder: ir.IRBuilder, state: list[Any], words: list[Any]) -> list[Any]:
    """The 64 rounds, four a turn, of every state: two registers each, which change places every two rounds."""
    state, words = list(state), list(words)
    for turn in range(16):
        if turn >= 4:
            mixed = called(builder, "llvm.x86.sha256msg1", _X4, words[-4], words[-3])
            mixed = builder.add(mixed, shuffled(builder, words[-2], words[-1], [1, 2, 3, 4]))
            words.append(called(builder, "llvm.x86.sha256msg2", _X4, mixed, words[-1]))
        four = builder.add(words[turn], ir.Constant(_X4, [I32(one) for one in _ADDED[4 * turn : 4 * turn + 4]]))
        last_two = shuffled(builder, four, four, [2, 3, 0, 0])
        for taken in (four, last_two):
            for n in range(0, len(state), 2):
                after = called(builder, "llvm.x86.sha256rnds2", _X4, state[n + 1], state[n], taken)
                state[n], state[n + 1] = after, state[n]
    return state


def _typed_one(typing: Any, state: Any, data: Any, first: Any, blocks: Any) -> Any:
    return types.void(state, data, types.int64, types.int64), _chained(1)


def _typed_two(typing: Any, state: Any, other: Any, data: Any, first: Any, blocks: Any) -> Any:
    return types.void(state, other, data, types.int64, types.int64), _chained(2)


_one_chain: Any = intrinsic(_typed_one)
_two_chains: Any = intrinsic(_typed_two)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _single(state: UInt32[np.ndarray, "8"], data: UInt8[np.ndarray, " bytes"], first: int, blocks: int) -> None:
    _one_chain(state, data, first, blocks)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _update(
    data: UInt8[np.ndarray, " bytes"],
    starts: Int64[np.ndarray, " messages"],
    sizes: Int64[np.ndarray, " messages"],
    stream: UInt32[np.ndarray, "8"],
    start: UInt32[np.ndarray, "8"],
) -> UInt32[np.ndarray, "messages 8"]:
    """Between messages the stream alone, in their whole blocks both; then a message's end with its padding (5.1.1)."""
    states, at = np.empty((len(starts), 8), np.uint32), 0
    tail = np.empty(2 * BLOCK_BYTES, np.uint8)
    for one in range(len(starts)):
        state, first, whole = states[one], starts[one] // BLOCK_BYTES, sizes[one] // BLOCK_BYTES
        state[:] = start
        _one_chain(stream, data, at, first - at)
        _two_chains(stream, state, data, first, whole)
        at = first + whole
        rest = sizes[one] % BLOCK_BYTES
        tail[:] = 0
        tail[:rest] = data[at * BLOCK_BYTES : at * BLOCK_BYTES + rest]
        tail[rest] = 0x80
        blocks = 1 if rest < BLOCK_BYTES - 8 else 2
        for place in range(8):
            tail[blocks * BLOCK_BYTES - 1 - place] = ((sizes[one] * 8) >> (8 * place)) & 0xFF
        _one_chain(state, tail, 0, blocks)
    _one_chain(stream, data, at, len(data) // BLOCK_BYTES - at)
    return states
