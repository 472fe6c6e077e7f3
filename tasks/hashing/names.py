"""Names of the files that hash deduplication compares by, as they were written and once a removal has cut them.

    thumbnails-00007.npy   thumbnails-00007-pdq.npy   thumbnails-00007-features.npy   hashes-00007.parquet

all in one order: row i of each is the same image. A removal writes those of a part anew, all at once and under one mark
(`thumbnails-00007-removed-1a2b3c4d-pdq.npy`), so that what belongs together is told by its name and the manifest can
take up all of them in one write.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tasks.hashing.looks import PDQ_SUFFIX, PREFIX

HASHES: Final = "hashes"
FEATURES_SUFFIX: Final = "-features.npy"
"""uint8 [images, dim]: the features of a part's images, beside its thumbnails."""
MARK: Final = "-removed-"
_NAME = re.compile(
    rf"(?P<kind>{PREFIX}|{HASHES})-(?P<part>\d+)(?:{MARK}[0-9a-f]+)?"
    rf"(?P<suffix>{re.escape(PDQ_SUFFIX)}|{re.escape(FEATURES_SUFFIX)}|\.npy|\.parquet)"
)
_SUFFIXES = {HASHES: (".parquet",), PREFIX: (".npy", PDQ_SUFFIX, FEATURES_SUFFIX)}


@dataclass(frozen=True)
class LookFile:
    """What a file's name says: its kind (thumbnails, hashes), the number of its part, and how it ends."""

    name: str
    kind: str
    part: int
    suffix: str

    @property
    def is_thumbnails(self) -> bool:
        """Thumbnails themselves, and not what stands beside them."""
        return self.kind == PREFIX and self.suffix == ".npy"

    @property
    def is_hashes(self) -> bool:
        """The table of hashes."""
        return self.kind == HASHES

    def marked(self, mark: str) -> str:
        """Its name once rows were cut out of it."""
        return f"{self.kind}-{self.part:05d}{MARK}{mark}{self.suffix}"


def look_file(name: str) -> LookFile | None:
    """What a file's name says; None for one that is not of these."""
    found = _NAME.fullmatch(name)
    if found is None or found["suffix"] not in _SUFFIXES[found["kind"]]:
        return None
    return LookFile(name, found["kind"], int(found["part"]), found["suffix"])


def look_files(names: Iterable[str]) -> list[LookFile]:
    """Those of these names that are of such files, by part."""
    return sorted((found for name in names if (found := look_file(name))), key=lambda one: (one.part, one.name))


def beside_thumbnails(thumbnails: str, suffix: str) -> str:
    """The path of what stands beside a part's thumbnails: its PDQ hashes or its features."""
    return thumbnails.removesuffix(".npy") + suffix
