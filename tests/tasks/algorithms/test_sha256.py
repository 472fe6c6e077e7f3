"""The SHA-256 of a stream and of messages in it, in one pass, are hashlib's."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.algorithms.sha256 import BLOCK_BYTES, PairedSha256, is_fast

pytestmark = pytest.mark.skipif(not is_fast(), reason="this processor has no SHA instructions (x86's SHA-NI)")
NO_MESSAGES = np.empty(0, np.int64), np.empty(0, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), max_size=6), max_size=4),
    seed=st.integers(0, 99),
)
def test_stream_and_messages_have_hashlibs_digests(pieces: list[list[tuple[int, int]]], seed: int) -> None:
    random, paired, stream = np.random.default_rng(seed), PairedSha256(), b""
    for piece in pieces:
        data, starts = b"", []
        for blocks_before, size in piece:
            data += random.bytes(blocks_before * BLOCK_BYTES)
            starts.append(len(data))
            data += random.bytes(size + -size % BLOCK_BYTES)
        sizes = [size for _, size in piece]
        found = paired.update(np.frombuffer(data, np.uint8), np.array(starts, np.int64), np.array(sizes, np.int64))
        messages = [data[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        assert [one.tobytes() for one in found] == [hashlib.sha256(one).digest() for one in messages]
        stream += data
        assert paired.digest() == hashlib.sha256(stream).digest()


def test_every_length_around_the_blocks_ends_gives_hashlibs_digest() -> None:
    data, starts = np.random.default_rng(0).bytes(64 * 512), np.arange(64) * 512
    sizes = np.arange(448, 512)
    found = PairedSha256().update(np.frombuffer(data, np.uint8), starts, sizes)
    messages = [data[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    assert [one.tobytes() for one in found] == [hashlib.sha256(one).digest() for one in messages]


@pytest.mark.parametrize(
    ("num_bytes", "starts", "sizes", "why"),
    [
        (100, [], [], "no whole blocks"),
        (640, [10], [5], "no whole blocks"),
        (640, [0, 64], [65, 5], "overlap"),
        (640, [64, 0], [5, 5], "overlap"),
        (640, [576], [65], "outside"),
        (640, [-64], [5], "outside"),
        (640, [64], [-5], "overlap"),
    ],
)
def test_messages_that_do_not_lie_in_blocks_apart_are_errors(
    num_bytes: int, starts: list[int], sizes: list[int], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        PairedSha256().update(np.zeros(num_bytes, np.uint8), np.array(starts, np.int64), np.array(sizes, np.int64))
