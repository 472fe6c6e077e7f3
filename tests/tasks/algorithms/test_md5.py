"""Many MD5s at a time are the MD5s one at a time."""

import hashlib

import numpy as np

from tasks.algorithms.md5 import LANES, md5_digests


def test_every_length_around_the_blocks_ends_gives_hashlibs_digest() -> None:
    data = np.random.default_rng(0).bytes(300)
    messages = [data[:size] for size in range(261)]
    assert len(messages) > 4 * LANES
    assert md5_digests(messages) == [hashlib.md5(one, usedforsecurity=False).digest() for one in messages]


def test_messages_of_very_different_lengths_keep_their_places() -> None:
    random = np.random.default_rng(1)
    messages = [random.bytes(int(size)) for size in random.geometric(1e-4, 90)]
    assert md5_digests(messages) == [hashlib.md5(one, usedforsecurity=False).digest() for one in messages]


def test_fewer_messages_than_lanes_and_none_at_all() -> None:
    assert md5_digests([b"abc"])[0].hex() == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert md5_digests([]) == []
