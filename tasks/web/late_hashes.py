"""Hashes of a shard and of the images in it, taken together as the shard is written, some MiB of it at a time."""

import hashlib
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8

from tasks.web.rows import Rows

if TYPE_CHECKING:
    from tasks.algorithms.sha256 import PairedSha256

_WORTH_COMPILING = 300
"""Images; below that, `hashlib` is done before numba is there."""


class LateHashes:
    """A shard's hasher (`storage.shard_file`) that writes the hashes of its members into their rows, too.

    Of many images, a third of what `hashlib` takes for the three hashes: `tasks.algorithms.sha256` and `.md5`.
    """

    def __init__(self, rows: Rows, *, md5: bool, num_images: int) -> None:
        self._rows, self._md5, self._many = rows, md5, num_images >= _WORTH_COMPILING
        self._waiting: deque[int] = deque()
        self._paired = _paired() if self._many else None
        self._plain = hashlib.sha256()

    def expect(self, number: int) -> None:
        """The next member is of the row of this number, which has its hashes when the shard is written."""
        self._waiting.append(number)

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        """The shard's next bytes."""
        places = np.array(members, np.int64).reshape(-1, 2)
        if self._paired is not None:
            sha256s = _hex(self._paired.update(np.frombuffer(data, np.uint8), places[:, 0].copy(), places[:, 1].copy()))
        else:
            self._plain.update(data)
            sha256s = [hashlib.sha256(data[start : start + size]).hexdigest() for start, size in members]
        md5s = self._md5s(data, members, places) if self._md5 else [None] * len(members)
        for sha256, md5 in zip(sha256s, md5s, strict=True):
            self._rows.set_hashes(self._waiting.popleft(), sha256, md5)

    def _md5s(
        self, data: memoryview, members: Sequence[tuple[int, int]], places: Int64[np.ndarray, "members 2"]
    ) -> Sequence[str | None]:
        if not self._many:
            return [
                hashlib.md5(data[start : start + size], usedforsecurity=False).hexdigest() for start, size in members
            ]
        from tasks.algorithms.md5 import md5_digests  # numba: half a second, which a small crawl does without

        return _hex(md5_digests(np.frombuffer(data, np.uint8), places[:, 0].copy(), places[:, 1].copy()))

    def hexdigest(self) -> str:
        """The shard's SHA-256 so far."""
        return (self._plain if self._paired is None else self._paired).digest().hex()


def _paired() -> "PairedSha256 | None":
    from tasks.algorithms.sha256 import PairedSha256, is_fast

    return PairedSha256() if is_fast() else None


def _hex(digests: UInt8[np.ndarray, "members size"]) -> list[str]:
    digits, text = 2 * digests.shape[1], digests.tobytes().hex()
    return [text[start : start + digits] for start in range(0, len(text), digits)]
