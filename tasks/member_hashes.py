"""SHA-256 of a shard and of the members in it, taken in one pass as the shard is written."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from tasks.algorithms.sha256 import PairedSha256

WORTH_COMPILING = 300
"""Members; of fewer, `hashlib` is done before numba is there (half a second)."""


class MemberHashes:
    """A shard's hasher (`storage.shard_file`) that has the SHA-256 of its members, too, in their order.

    By `tasks.algorithms.sha256`, where the processor can and there are many: two for what one costs.
    """

    def __init__(self, *, num_members: int) -> None:
        self.sha256s: list[str] = []
        self._paired = _paired() if num_members >= WORTH_COMPILING else None
        self._plain = hashlib.sha256()

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        """The shard's next bytes, and where members lie in them."""
        if self._paired is not None:
            places = np.array(members, np.int64).reshape(-1, 2)
            self.sha256s += hex_digests(
                self._paired.update(np.frombuffer(data, np.uint8), places[:, 0].copy(), places[:, 1].copy())
            )
        else:
            self._plain.update(data)
            self.sha256s += [hashlib.sha256(data[start : start + size]).hexdigest() for start, size in members]

    def hexdigest(self) -> str:
        """The shard's SHA-256 so far."""
        return (self._plain if self._paired is None else self._paired).digest().hex()


def _paired() -> "PairedSha256 | None":
    from tasks.algorithms.sha256 import PairedSha256, is_fast

    return PairedSha256() if is_fast() else None


def hex_digests(digests: UInt8[np.ndarray, "members size"]) -> list[str]:
    """Digests as text."""
    digits, text = 2 * digests.shape[1], digests.tobytes().hex()
    return [text[start : start + digits] for start in range(0, len(text), digits)]
