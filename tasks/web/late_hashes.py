"""Hashes of the images in a shard, taken as the shard is written, some MiB of it at a time, and put into their rows."""

import hashlib
from collections import deque
from collections.abc import Sequence

import numpy as np

from tasks.member_hashes import WORTH_COMPILING, MemberHashes, hex_digests
from tasks.web.rows import Rows


class LateHashes(MemberHashes):
    """A shard's hasher that writes the hashes of its members into their rows, too.

    Of many images, a third of what `hashlib` takes for the three hashes: `tasks.algorithms.sha256` and `.md5`.
    """

    def __init__(self, rows: Rows, *, md5: bool, num_images: int) -> None:
        super().__init__(num_members=num_images)
        self._rows, self._md5, self._many = rows, md5, num_images >= WORTH_COMPILING
        self._waiting: deque[int] = deque()

    def expect(self, number: int) -> None:
        """The next member is of the row of this number, which has its hashes when the shard is written."""
        self._waiting.append(number)

    def update(self, data: memoryview, members: Sequence[tuple[int, int]]) -> None:
        """The shard's next bytes."""
        super().update(data, members)
        sha256s, self.sha256s = self.sha256s, []
        md5s = self._md5s(data, members) if self._md5 else [None] * len(members)
        for sha256, md5 in zip(sha256s, md5s, strict=True):
            self._rows.set_hashes(self._waiting.popleft(), sha256, md5)

    def _md5s(self, data: memoryview, members: Sequence[tuple[int, int]]) -> Sequence[str | None]:
        if not self._many:
            return [
                hashlib.md5(data[start : start + size], usedforsecurity=False).hexdigest() for start, size in members
            ]
        from tasks.algorithms.md5 import md5_digests  # numba: half a second, which a small crawl does without

        places = np.array(members, np.int64).reshape(-1, 2)
        return hex_digests(md5_digests(np.frombuffer(data, np.uint8), places[:, 0].copy(), places[:, 1].copy()))
