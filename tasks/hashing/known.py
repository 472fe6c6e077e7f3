"""The images of earlier crawls that a new one's are compared with, without those that were taken out.

Their hashes are taken as they are where they were made the way this run makes its own. Where they were made with
another PCA, method or contrast, they are made again from what was kept of every image (its thumbnail, its features, its
PDQ hash), which costs no decode: 1 KB is read, and with a PCA 20 us of a core are spent on an image, a part at a time,
on the cluster. Memory: a part (see `tasks.hashing.parts`). Disk, until the stage is published: 40 bytes an image.

What cannot be compared is left out, with a warning and its number of images in the stage's facts; `self_dedup` finds
copies of those by their descriptors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storage.filesystem import join
from storage.manifest import Manifest
from tasks.graph.scratch import scratch_map
from tasks.hashing.copies import Hashed
from tasks.hashing.looks import PDQ_SUFFIX, PIXELS, load_rows
from tasks.hashing.names import FEATURES_SUFFIX, beside_thumbnails, look_files
from tasks.hashing.parts import Hashing, hash_again
from tasks.hashing.pca import PCA_FILE
from tasks.progress import run_logger
from tasks.removal.holdings import find_removed, mapped, with_copies
from tasks.removal.ledger import Ledger
from tasks.stage import Stage

STAGE = "hash_dedup"


@dataclass
class Known:
    """Parts of earlier crawls in the order that they are given in, and what is told about them."""

    parts: list[Hashed] = field(default_factory=list)
    compared: int = 0
    hashed_again: int = 0
    left_out: list[dict[str, Any]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """How many images this run's were compared with, and which were left out, why; {} for a run without any."""
        if not self.compared and not self.left_out:
            return {}
        counts = {"earlier_compared": self.compared, "earlier_hashed_again": self.hashed_again}
        left_out = sum(one["images"] for one in self.left_out)
        return counts | {"earlier_left_out": left_out} | ({"left_out": self.left_out} if self.left_out else {})


def known_parts(
    stage: Stage,
    earlier: Sequence[Manifest],
    meaning: Mapping[str, Any],
    how: Hashing,
    pca_sha256: str | None,
    removed: frozenset[str],
) -> Known:
    """The hashed images of earlier crawls, part by part, hashed as this run hashes; those of the ids `removed` do not
    count. `meaning` is what of this run's config decides what a hash is of: its method and its encoder.

    Raises ValueError for a stage that is no hash deduplication.
    """
    known = Known()
    for one in earlier:
        if one.stage != STAGE:
            raise ValueError(f"{one.path} was made by {one.stage}: give hash_dedup stages of earlier crawls, or none.")
        pairs = hashes_of(one)
        why = _missing(one, pairs, meaning)
        if why is not None:
            known.left_out.append({"stage": one.reference, "images": one.rows_in, "why": why})
            run_logger().warning(
                f"hash_dedup: {one.rows_in:,} images of {one.directory} are not compared by hash: {why}. "
                "self_dedup compares them by their descriptors."
            )
            continue
        tables = [table for table, _ in pairs]
        known.compared += one.rows_in
        if not _alike(one, meaning, how, pca_sha256):
            known.hashed_again += one.rows_in
            tables = _hashed_again(stage, one, pairs, how)
        known.parts += [
            Hashed(table, thumbnails, new=False, removed=removed)
            for table, (_, thumbnails) in zip(tables, pairs, strict=True)
        ]
    return known


def _alike(one: Manifest, meaning: Mapping[str, Any], how: Hashing, pca_sha256: str | None) -> bool:
    """Whether its hashes mean what this run's do."""
    same_contrast = one.config.get("min_contrast_levels") == how.min_contrast_levels
    return _means(one, meaning) and pca_of(one) == pca_sha256 and same_contrast


def _means(one: Manifest, meaning: Mapping[str, Any]) -> bool:
    return {name: one.config.get(name) for name in meaning} == dict(meaning)


def _missing(one: Manifest, pairs: Sequence[tuple[str, str]], meaning: Mapping[str, Any]) -> str | None:
    """Why a stage's images cannot be compared; None when they can."""
    if not pairs:
        return None if not one.rows_in else "a removal has deleted their hashes and thumbnails"
    beside = {"pdq": PDQ_SUFFIX, "pca_features": FEATURES_SUFFIX}.get(meaning["method"])
    names = {entry.path for entry in one.files}
    if beside and not all(beside_thumbnails(path, beside).rpartition("/")[2] in names for _, path in pairs):
        wanted = "PDQ hashes, which need more detail" if beside == PDQ_SUFFIX else "features, which need the encoder"
        return f"they were hashed with {one.config.get('method')}, which keeps thumbnails and no {wanted}"
    if beside == FEATURES_SUFFIX and one.config.get("encoder") != meaning["encoder"]:
        return f"their features are of another encoder, {one.config.get('encoder')}"
    columns = load_rows(pairs[0][1], np.zeros(0, np.int64)).shape[1]
    return None if columns == PIXELS else f"their thumbnails have {columns} pixels, and {PIXELS} are wanted"


def _hashed_again(stage: Stage, one: Manifest, pairs: Sequence[tuple[str, str]], how: Hashing) -> list[str]:
    """Tables of hashes of its parts, made as this run makes its own, in files that are swept when it is done."""
    judged = one.paths(".parquet")
    work = [
        {"part": part, "hashes": table, "thumbnails": thumbnails}
        for part, (table, thumbnails) in zip(judged, pairs, strict=True)
    ]
    outcomes, _ = scratch_map(
        stage,
        f"known-{one.fingerprint[:16]}",
        hash_again,
        work,
        pca_path=how.pca_path,
        min_contrast_levels=how.min_contrast_levels,
        method=how.method,
    )
    return [stage.path(outcome.files[0].path) for outcome in outcomes]


def earlier_pca(earlier: Iterable[Manifest], meaning: Mapping[str, Any]) -> str | None:
    """The PCA file of the first of these stages that hashed with this method and encoder and whose hashes are there:
    with it they need not be made again. None when no stage has."""
    alike = (one for one in earlier if _means(one, meaning) and pca_of(one) is not None and hashes_of(one))
    found = next(alike, None)
    return None if found is None else found.file(PCA_FILE)


def pca_of(manifest: Manifest) -> str | None:
    """The checksum of the PCA that a stage hashed with; None when its method has none."""
    return next((entry.sha256 for entry in manifest.files if entry.path == PCA_FILE), None)


def hashes_of(manifest: Manifest) -> list[tuple[str, str]]:
    """The table of hashes and the thumbnails of each of a stage's parts; nothing where a removal deleted them."""
    files = look_files(entry.path for entry in manifest.files)
    tables = {one.part: join(manifest.directory, one.name) for one in files if one.is_hashes}
    thumbnails = {one.part: join(manifest.directory, one.name) for one in files if one.is_thumbnails}
    return [(tables[part], thumbnails[part]) for part in sorted(tables) if part in thumbnails]


def removed_ids(earlier: Sequence[Manifest], history: Sequence[Manifest], ledger: Ledger) -> frozenset[str]:
    """Ids of images of earlier crawls that the ledger names, by what these stages know of them, and of the copies that
    these stages have dropped for one of them: nothing that is in the set stands behind such a copy any more."""
    if not ledger or not earlier:
        return frozenset()
    judged = [path for manifest in earlier for path in manifest.paths(".parquet")]
    tables = [*judged, *(path for manifest in history for path in manifest.paths(".parquet"))]
    named: dict[str, str] = {}
    for found in mapped(find_removed, [(path, ledger) for path in tables]):
        named |= found
    return frozenset(with_copies(named, judged))
