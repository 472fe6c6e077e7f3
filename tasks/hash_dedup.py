"""Hash deduplication: images whose hashes are equal (or nearly), and whose thumbnails are alike, keep their best copy.

Cost: linear, and no decode where the stage before has made the thumbnails in passing (`looks`); else one per image (of
a JPEG only the luma, at the reduced scale that the hash needs). `pca_features` decodes and encodes each image. Near
hashes as `tasks.algorithms.hamming` says. Disk: 1.1 KB of thumbnail and hash per image (a hard link of the stage
before's where that can be), with `pca_features` a byte per feature. Memory: a part's thumbnails; for grouping what
`tasks.hashing.copies` says, in as many passes as `images_per_pass` asks for. Earlier crawls: `tasks.hashing.known`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from storage.filesystem import content_key
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS, image_schema
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
from tasks.config import StageConfig
from tasks.earlier import Earlier
from tasks.encoders import Encoder
from tasks.graph.scratch import sweep
from tasks.hashing.copies import Hashed, find_copies
from tasks.hashing.known import STAGE, earlier_pca, known_parts, removed_ids
from tasks.hashing.looks import PREFIX, Kind
from tasks.hashing.names import HASHES
from tasks.hashing.parts import Hashing, hash_part, looks_work, write_looks
from tasks.hashing.pca import PCA_FILE, write_pca
from tasks.removal.ledger import Ledger
from tasks.stage import Outcome, Stage, stage_task

VERSION = 4
DUPLICATES_FILE = "duplicates.parquet"
SCHEMA = image_schema(pa.field("hash", pa.string()))  # 16 hex digits (pdq: 64); null for an image without contrast


class HashDedup(StageConfig):
    """Which hash, and when two images of equal hash are one picture."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"images_per_pass"})

    method: Literal["pca", "pca_features", "phash", "pdq"] = "pca"
    """pca: 64 signs of a PCA of this run's thumbnails. pca_features: of a PCA of what `encoder` says of the images (the
    papers' "PCA hash" is read both ways; this one costs a network's pass over every image). phash: 64 signs of the
    thumbnails' low frequencies (imagehash.phash). pdq: 256 signs of the picture's low frequencies, as published,
    comparable with anyone's."""
    encoder: Encoder | None = None
    """What describes the images for `pca_features`: a descriptor network, such as describe's; else null."""
    max_distance: Annotated[int, Field(ge=0, le=63)] = 0
    """Bits that the hashes of one picture may differ by; 0 compares equal ones only. PDQ's publishers use 31."""
    pca_file: str | None = None
    """A PCA fitted before (an earlier run's pca.npy). Without one, that of the crawl before, or one fitted here."""
    max_fit_images: Annotated[int, Field(ge=1)] = 1_000_000
    """The PCA is fitted on this many images at most, the first of each part in equal shares."""
    min_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.98
    """Images of equal hash are one picture when their thumbnails correlate at least so much. -1: trust the hash."""
    min_contrast_levels: Annotated[float, Field(ge=0, le=127)] = 2.0
    """An image whose thumbnail's standard deviation (of 0..255) is smaller is compared by its bytes alone."""
    images_per_pass: Annotated[int, Field(ge=1)] = 100_000_000
    """Grouping goes through all hashes once per so many images: bounds its memory, changes nothing else."""

    @model_validator(mode="after")
    def _encoder_for_features_alone(self) -> "HashDedup":
        if (self.method == "pca_features") != (self.encoder is not None):
            raise ValueError(
                f"method is {self.method!r} and encoder is {self.encoder!r}: pca_features needs an encoder, the other "
                "methods take none. Give one (describe.encoder's will do), or set it to null."
            )
        return self

    @property
    def looks(self) -> Kind:
        """What the stage before should write of every image, for this one to decode none."""
        return "pdq" if self.method == "pdq" else "thumbnails"

    def meaning(self) -> dict[str, Any]:
        """What two runs must share, beside the PCA, for their hashes to mean the same."""
        return {name: value for name, value in self.deciding().items() if name in ("method", "encoder")}


def hashed_before(earlier: Earlier | None) -> list[Manifest]:
    """The hash deduplications of all crawls behind the run that this one goes on from, the newest first."""
    if earlier is None:
        return []
    return [one for one in earlier.chain.values() if one.stage == STAGE]


@stage_task(name="hash_dedup")
def hash_dedup(
    images: Manifest,
    config: HashDedup,
    layout: Layout,
    earlier: Sequence[Manifest] = (),
    *,
    ledger: Ledger | None = None,
    history: Sequence[Manifest] = (),
) -> Manifest:
    """Drop (`hash_duplicate`, other = keeper) all but the best image of every group of equal pictures.

    The keeper has the most pixels; of those, the earliest crawl date; of those, the smallest id.

    `earlier` are hash_dedup stages of earlier crawls: an image is dropped for one of theirs too, unless it has more
    pixels; then both stay, for self_dedup to choose, because nothing is said here about theirs. The PCA is that of the
    first of them that has one of this kind; those that were hashed otherwise are hashed again from what they kept, and
    what cannot be is left out with a warning (facts: earlier_compared, earlier_hashed_again, earlier_left_out). What
    the `ledger` names among them, by what they or the stages of their `history` know, is nobody's keeper any more, and
    no copy of it is. Cost: their hashes are read once a pass (16 bytes an image in memory, of one pass), their
    thumbnails only where a hash is shared or is made again. Raises ValueError for stages of another kind.
    """
    removed = removed_ids(earlier, history, ledger or Ledger())
    also = {"pca": content_key(config.pca_file)} if config.pca_file else {}
    if removed:
        also["removed"] = hashlib.sha256("\n".join(sorted(removed)).encode()).hexdigest()
    inputs = {"images": images} | {f"earlier_{number:04d}": one for number, one in enumerate(earlier)}
    stage = Stage(STAGE, version=VERSION, config=config, inputs=inputs, layout=layout, also=also)
    if stage.finished:
        return stage.reuse()
    parts = images.paths(".parquet")
    written = stage.map(
        write_looks,
        looks_work(images, config.looks),
        prefix=PREFIX,
        root=layout.root,
        kind=config.looks,
        encoder=config.encoder,
    )
    thumbnails = [stage.path(outcome.files[0].path) for outcome in written]
    pca = None
    if config.method in ("pca", "pca_features"):
        given = config.pca_file or earlier_pca(earlier, config.meaning())
        pca = write_pca(
            stage.path(PCA_FILE),
            thumbnails,
            method=config.method,
            given=given,
            max_fit_images=config.max_fit_images,
        )
    how = Hashing(config.method, stage.path(PCA_FILE) if pca else None, config.min_contrast_levels)
    known = known_parts(stage, earlier, config.meaning(), how, pca.sha256 if pca else None, removed)
    work = [{"part": part, "thumbnails": path} for part, path in zip(parts, thumbnails, strict=True)]
    hashed = stage.map(
        hash_part,
        work,
        prefix=HASHES,
        pca_path=how.pca_path,
        min_contrast_levels=how.min_contrast_levels,
        method=how.method,
    )
    new = [Hashed(stage.path(outcome.files[0].path), path) for outcome, path in zip(hashed, thumbnails, strict=True)]
    copies = find_copies(
        [*new, *known.parts],
        min_correlation=config.min_correlation,
        images_per_pass=config.images_per_pass,
        max_distance=config.max_distance,
    )
    copies = copies.filter(pc.less(copies["part"], len(new)))
    duplicates = write_table(stage.path(DUPLICATES_FILE), copies)
    verdicts = [
        {"part": part, "hashes": one.table, "number": number}
        for number, (part, one) in enumerate(zip(parts, new, strict=True))
    ]
    judged = stage.map(judge_part, verdicts, duplicates=stage.path(DUPLICATES_FILE))
    # What a later crawl is compared with: promised, so that it is there then.
    kept_for_later = [entry for outcome in (*written, *hashed) for entry in outcome.files]
    files = [duplicates, *([pca] if pca else []), *kept_for_later]
    published = stage.publish(judged, files=files, facts=known.facts)
    sweep(stage)
    return published


def judge_part(work: Mapping[str, Any], out: str, *, duplicates: str) -> Outcome:
    """One part's table of verdicts, in the order of its kept images."""
    table = kept(read_table(work["part"]))
    carried = [table.schema.field(name) for name in ("crawl_date",) if name in table.column_names]
    copies = read_table(duplicates)
    mine = copies.filter(pc.equal(copies["part"], work["number"])).to_pylist()
    copy_of = {row["id"]: row for row in mine}
    rows = table.select([*IMAGE_COLUMNS, *(field.name for field in carried)]).to_pylist()
    for row, hashed in zip(rows, read_table(work["hashes"], ["bits", "hashed"]).to_pylist(), strict=True):
        row["hash"] = hashed["bits"].hex() if hashed["hashed"] else None
        if copy := copy_of.get(row["id"]):
            detail = "same picture" if hashed["hashed"] else "same bytes"
            row |= {"drop": "hash_duplicate", "detail": detail, "value": copy["value"], "other": copy["other"]}
    result = table_from_rows(rows, pa.schema([*SCHEMA, *carried]))
    drops = count_drops(result)
    files = [write_table(f"{out}.parquet", result)]
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, files)
