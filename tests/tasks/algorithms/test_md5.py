"""Many MD5s at a time are the MD5s one at a time."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from tasks.algorithms.md5 import LANES, md5_digests


def digests(messages: Sequence[bytes]) -> list[bytes]:
    """Of messages that lie one after the other, each at an odd place."""
    data = np.frombuffer(b"".join(b"-" + one for one in messages), np.uint8)
    sizes = np.array([len(one) for one in messages], np.int64)
    return [one.tobytes() for one in md5_digests(data, np.cumsum(sizes + 1) - sizes, sizes)]


def one_by_one(messages: Sequence[bytes]) -> list[bytes]:
    return [hashlib.md5(one, usedforsecurity=False).digest() for one in messages]


def test_every_length_around_the_blocks_ends_gives_hashlibs_digest() -> None:
    data = np.random.default_rng(0).bytes(300)
    messages = [data[:size] for size in range(261)]
    assert len(messages) > 4 * LANES
    assert digests(messages) == one_by_one(messages)


def test_messages_of_very_different_lengths_keep_their_places() -> None:
    random = np.random.default_rng(1)
    messages = [random.bytes(int(size)) for size in random.geometric(1e-4, 90)]
    assert digests(messages) == one_by_one(messages)


def test_fewer_messages_than_lanes_and_none_at_all() -> None:
    assert digests([b"abc"])[0].hex() == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    assert digests([]) == []


@pytest.mark.parametrize(("start", "size"), [(90, 11), (-1, 5), (5, -1)])
def test_a_message_outside_of_the_data_is_an_error(start: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside of the 100 bytes"):
        md5_digests(np.zeros(100, np.uint8), np.array([0, start]), np.array([10, size]))
