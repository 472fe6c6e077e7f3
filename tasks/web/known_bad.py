"""Lists of hashes of files that must not be kept: what matches one is neither stored nor passed on, but for its hashes.

Such lists (of abuse material above all) come from hotlines and trust-and-safety exchanges under agreements of their
own; none is part of this project.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from storage.filesystem import content_key, read_bytes
from storage.images import ImageError, decode_gray
from tasks.algorithms.pdq import pdq_hash
from tasks.config import StageConfig
from tasks.web.errors import BadHashList

Kind = Literal["md5", "sha256", "pdq"]
_HEX_CHARS: Mapping[Kind, int] = {"md5": 32, "sha256": 64, "pdq": 64}
_LINE = re.compile(r"\s*\"?([0-9a-fA-F]+)\"?\s*(?:[,;\s].*)?")
_LONG_HEX = re.compile(r"[0-9a-fA-F]{16}")
_PDQ_SIDE = 512


class HashList(StageConfig):
    """One list: a text file with a hash in hexadecimal at the start of each line; the rest of a line, empty lines and
    lines that begin with # are passed over, and so is a first line in which nothing looks like a hash (a CSV's
    header)."""

    file: str
    """Path or URL."""
    kind: Kind
    """What the hashes are: of the file (md5, sha256) or of the picture (pdq, 256 bits)."""
    max_distance: Annotated[int, Field(ge=0, le=127)] = 31
    """pdq: differing bits up to which two pictures are the same."""
    min_quality: Annotated[int, Field(ge=0, le=100)] = 50
    """pdq: a picture whose hash is of lower quality has too little detail to be compared."""


@dataclass(frozen=True)
class Match:
    """A hash that stands in a list: which, of what kind, in which file; how many bits off (0 for file hashes)."""

    kind: Kind
    hash: str
    list: str
    distance: int = 0


class KnownBad:
    """Loaded lists. Memory: 16 or 32 bytes per hash. A lookup of a file hash is a binary search; of a PDQ hash one pass
    over its list, about 1 ms per 100,000 hashes."""

    def __init__(self, lists: Sequence[HashList]) -> None:
        self._lists = [(one, load_hashes(one)) for one in lists]

    def __bool__(self) -> bool:
        return bool(self._lists)

    def match(self, body: bytes, *, md5: str, sha256: str) -> Match | None:
        """The first list that an image's file, or its picture, stands in."""
        seen: tuple[bytes, int] | None = None
        for one, hashes in self._lists:
            if one.kind == "pdq":
                seen = seen or _pdq(body)
                found = _nearest(hashes, seen, one)
            else:
                found = _exact(hashes, {"md5": md5, "sha256": sha256}[one.kind], one)
            if found is not None:
                return found
        return None


@lru_cache(maxsize=4)
def load_known_bad(lists: tuple[HashList, ...], key: str) -> KnownBad:
    """The lists, once in a process as long as their content (`key`) stays the same."""
    return KnownBad(lists)


def lists_key(lists: Sequence[HashList]) -> str:
    """A key that changes when the content of any list does."""
    return " ".join(content_key(one.file) for one in lists)


def load_hashes(one: HashList) -> NDArray[Any]:
    """The list's hashes: sorted fixed-length bytes, or for pdq uint8 [hashes, 32]. Raises BadHashList with the line."""
    try:
        lines = read_bytes(one.file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadHashList(f"{one.file} is no text file: {error}. Give a list of hashes, one a line.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is not None and len(match[1]) == _HEX_CHARS[one.kind]:
            found.append(bytes.fromhex(match[1]))
        elif number > 1 or _LONG_HEX.search(line):
            raise BadHashList(
                f"{one.file}, line {number}: {line[:80]!r} does not begin with a hash of kind {one.kind} "
                f"({_HEX_CHARS[one.kind]} hexadecimal digits). Correct the line or the list's `kind`."
            )
    if not found:
        raise BadHashList(f"{one.file} holds no hash of kind {one.kind}. Name another file, or leave the list out.")
    if one.kind == "pdq":
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)
    return np.unique(np.array(found, dtype=f"S{_HEX_CHARS[one.kind] // 2}"))


def _exact(hashes: NDArray[Any], digest: str, one: HashList) -> Match | None:
    # Fixed-length bytes compare without their trailing zeros, and so does the digest made of the same type.
    wanted = np.array(bytes.fromhex(digest), dtype=hashes.dtype)
    at = int(np.searchsorted(hashes, wanted))
    found = at < len(hashes) and hashes[at] == wanted
    return Match(one.kind, digest, one.file) if found else None


def _pdq(body: bytes) -> tuple[bytes, int]:
    """The picture's hash and its quality; quality 0 for one that does not decode, which `screen` will drop."""
    try:
        return pdq_hash(decode_gray(body, min_side=_PDQ_SIDE))
    except ImageError:
        return bytes(32), 0


def _nearest(hashes: NDArray[Any], seen: tuple[bytes, int], one: HashList) -> Match | None:
    digest, quality = seen
    if quality < one.min_quality:
        return None
    distances = np.bitwise_count(hashes ^ np.frombuffer(digest, np.uint8)).sum(axis=1)
    best = int(distances.argmin())
    if distances[best] > one.max_distance:
        return None
    return Match("pdq", digest.hex(), one.file, int(distances[best]))
