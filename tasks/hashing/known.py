"""The hashes of earlier crawls that a new one's can be compared with, without those of images that were taken out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.filesystem import join
from storage.manifest import Manifest
from tasks.hashing.copies import Hashed
from tasks.hashing.looks import PREFIX
from tasks.hashing.pca import PCA_FILE
from tasks.removal.ledger import Ledger
from tasks.removal.plan import find_removed
from tasks.workers import map_parts

STAGE = "hash_dedup"
HASHES = "hashes"
_HASHES = re.compile(rf"{HASHES}-\d+\.parquet")
_THUMBNAILS = re.compile(rf"{PREFIX}-\d+\.npy")


def comparable(stages: Iterable[Manifest], meaning: Mapping[str, Any], pca_sha256: str | None = None) -> list[Manifest]:
    """Of earlier stages those of hash deduplication whose hashes mean what this run's will, in their order.

    They were made with the same method and encoder (`meaning`), with one PCA among them (`pca_sha256`; without it, that
    of the first), and a removal has left their hashes there.
    """
    alike = [
        one
        for one in stages
        if one.stage == STAGE and {name: one.config.get(name) for name in meaning} == dict(meaning) and hashes_of(one)
    ]
    wanted = pca_sha256 or next((pca_of(one) for one in alike), None)
    return [one for one in alike if pca_of(one) == wanted]


def pca_of(manifest: Manifest) -> str | None:
    """The checksum of the PCA that a stage hashed with; None when its method has none."""
    return next((entry.sha256 for entry in manifest.files if entry.path == PCA_FILE), None)


def hashes_of(manifest: Manifest) -> list[tuple[str, str]]:
    """The table of hashes and the thumbnails of each of a stage's parts; nothing where a removal deleted them."""
    names = [entry.path for entry in manifest.files]
    tables = sorted(name for name in names if _HASHES.fullmatch(name))
    thumbnails = sorted(name for name in names if _THUMBNAILS.fullmatch(name))
    paths = [[join(manifest.directory, name) for name in found] for found in (tables, thumbnails)]
    return list(zip(*paths, strict=True))


def known_parts(
    earlier: Sequence[Manifest], meaning: Mapping[str, Any], pca_sha256: str | None, removed: frozenset[str]
) -> list[Hashed]:
    """The hashed images of earlier crawls, part by part, but for those of these ids.

    Raises ValueError for a stage whose hashes mean something else.
    """
    for one in earlier:
        asked = {name: one.config.get(name) for name in meaning}
        if one.stage != STAGE or asked != dict(meaning) or pca_of(one) != pca_sha256:
            raise ValueError(
                f"{one.path} was made by {one.stage} with {asked} and PCA {pca_of(one)}: its hashes cannot be compared "
                f"with those of {dict(meaning)} and PCA {pca_sha256}. Give hash_dedup stages of that kind, or none."
            )
    return [
        Hashed(table, thumbnails, new=False, removed=removed) for one in earlier for table, thumbnails in hashes_of(one)
    ]


def removed_ids(earlier: Sequence[Manifest], history: Sequence[Manifest], ledger: Ledger) -> frozenset[str]:
    """Ids of images of earlier crawls that the ledger names, by what these stages know of them."""
    if not ledger or not earlier:
        return frozenset()
    tables = [path for manifest in (*earlier, *history) for path in manifest.paths(".parquet")]
    found, failures = map_parts(find_removed, [(path, ledger) for path in tables])
    if failures:
        raise failures[min(failures)]
    return frozenset(name for named in found for name in named)
