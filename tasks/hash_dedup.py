"""Exact-hash deduplication: images whose thumbnails have the same 64-bit hash, and are alike, keep their best copy.

Cost: one decode per image (of a JPEG only the luma, at the reduced scale that the thumbnail needs), then linear. Disk:
1 KB of thumbnail per image. Memory: a part's thumbnails; for grouping about 30 bytes per image of one pass, and passes
are as many as `images_per_pass` asks for.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from storage.filesystem import content_key, read_bytes, write_bytes
from storage.images import decode_gray
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.records import IMAGE_COLUMNS, image_schema
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
from tasks.algorithms.pca_hash import Pca, contrasts, fit_pca, hash_thumbnails, pack_bits, verified_groups
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
SIDE = 32
_DECODED_SIDE = 4 * SIDE
"""A JPEG is decoded no smaller: with less, a resized copy's thumbnail differs more than its hash forgives."""
PCA_FILE = "pca.npy"
DUPLICATES_FILE = "duplicates.parquet"
SCHEMA = image_schema(pa.field("hash", pa.string()))  # 16 hex digits; null for an image without contrast
_HASHED = pa.schema(
    [
        ("id", pa.string()),
        ("hash", pa.uint64()),
        ("hashed", pa.bool_()),
        ("num_pixels", pa.int64()),
        ("crawl_date", pa.string()),
    ]
)
_COPIES = pa.schema([("part", pa.int64()), ("id", pa.string()), ("other", pa.string()), ("value", pa.float32())])


class HashDedup(StageConfig):
    """Which hash, and when two images of equal hash are one picture."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"images_per_pass"})

    method: Literal["pca", "phash"] = "pca"
    """pca: signs of a PCA of this run's thumbnails. phash: signs of their low frequencies (imagehash.phash)."""
    pca_file: str | None = None
    """A PCA fitted before (an earlier run's pca.npy), so that hashes of several runs can be compared."""
    max_fit_images: Annotated[int, Field(ge=1)] = 1_000_000
    """The PCA is fitted on this many images at most, the first of each part in equal shares."""
    min_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.98
    """Images of equal hash are one picture when their thumbnails correlate at least so much. -1: trust the hash."""
    min_contrast_levels: Annotated[float, Field(ge=0, le=127)] = 2.0
    """An image whose thumbnail's standard deviation (of 0..255) is smaller is compared by its bytes alone."""
    images_per_pass: Annotated[int, Field(ge=1)] = 100_000_000
    """Grouping goes through all hashes once per so many images: bounds its memory, changes nothing else."""


@stage_task(name="hash_dedup")
def hash_dedup(images: Manifest, config: HashDedup, layout: Layout) -> Manifest:
    """Drop (`hash_duplicate`, other = keeper) all but the best image of every group of equal pictures.

    The keeper has the most pixels; of those, the earliest crawl date; of those, the smallest id.
    """
    fitted = {"pca": content_key(config.pca_file)} if config.pca_file else None
    stage = Stage("hash_dedup", version=VERSION, config=config, inputs={"images": images}, layout=layout, also=fitted)
    if stage.finished:
        return stage.reuse()
    parts = images.paths(".parquet")
    written = stage.map(write_thumbnails, parts, prefix="thumbnails", root=layout.root)
    thumbnails = [stage.path(outcome.files[0].path) for outcome in written]
    pca = _pca_entry(stage, config, thumbnails)
    work = [{"part": part, "thumbnails": path} for part, path in zip(parts, thumbnails, strict=True)]
    pca_path = stage.path(PCA_FILE) if pca else None
    min_contrast = config.min_contrast_levels
    hashed = stage.map(hash_part, work, prefix="hashes", pca_path=pca_path, min_contrast_levels=min_contrast)
    tables = [stage.path(outcome.files[0].path) for outcome in hashed]
    copies = find_copies(
        tables, thumbnails, min_correlation=config.min_correlation, images_per_pass=config.images_per_pass
    )
    duplicates = write_table(stage.path(DUPLICATES_FILE), copies)
    judged = stage.map(
        judge_part,
        [
            {"part": part, "hashes": table, "number": number}
            for number, (part, table) in enumerate(zip(parts, tables, strict=True))
        ],
        duplicates=stage.path(DUPLICATES_FILE),
    )
    return stage.publish(judged, files=[duplicates, *([pca] if pca else [])])


def write_thumbnails(part: str, out: str, *, root: str) -> Outcome:
    """The kept images of one part as thumbnails, uint8 [images, 1024] in `out`.npy.

    An image that does not decode here did when it was downloaded: the file was damaged since, and ImageError says so.
    """
    rows = _images(part).select(["image_file", "image_offset", "image_bytes"]).to_pylist()
    layout = Layout(root)
    thumbnails = np.zeros((len(rows), SIDE * SIDE), np.uint8)
    for slot, row in zip(thumbnails, rows, strict=True):
        slot[:] = thumbnail(read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"]))
    return Outcome(len(rows), len(rows), files=[_save(f"{out}.npy", thumbnails)])


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """An encoded image as 32 x 32 gray pixels, each the mean of what it covers, whatever the image's shape: [1024]."""
    gray = decode_gray(data, min_side=_DECODED_SIDE)
    return np.asarray(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8).reshape(-1)


def _images(part: str) -> pa.Table:
    return kept(read_table(part))


def _save(path: str, array: NDArray[Any]) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data)
    return FileEntry(path.rsplit("/", 1)[-1], len(array), len(data), hashlib.sha256(data).hexdigest())


def _load(path: str) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))


def _pca_entry(stage: Stage, config: HashDedup, thumbnails: Sequence[str]) -> FileEntry | None:
    """The PCA in the stage's folder, fitted or copied: [bits, pixels + 1], the thresholds in the last column."""
    if config.method != "pca":
        return None
    if config.pca_file:
        return _save(stage.path(PCA_FILE), _checked_pca(config.pca_file))
    share = max(1, config.max_fit_images // max(1, len(thumbnails)))
    blocks = (block for block in (_load(path)[:share] for path in thumbnails) if len(block))
    first = next(blocks, None)
    if first is None:  # no image came in: any PCA will do
        return _save(stage.path(PCA_FILE), np.zeros((64, SIDE * SIDE + 1)))
    pca = fit_pca(_chained(first, blocks))
    return _save(stage.path(PCA_FILE), np.column_stack([pca.directions, pca.thresholds]))


def _chained(first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from rest


def _checked_pca(path: str) -> NDArray[np.float64]:
    stored = _load(path)
    if stored.ndim != 2 or stored.shape[1] != SIDE * SIDE + 1 or len(stored) > 64:
        raise ValueError(
            f"{path} holds an array of shape {stored.shape}, not a PCA of at most 64 x {SIDE * SIDE + 1}. "
            "Give the pca.npy of a finished hash_dedup stage, or leave pca_file out to fit one."
        )
    return stored.astype(np.float64)


def hash_part(work: Mapping[str, str], out: str, *, pca_path: str | None, min_contrast_levels: float) -> Outcome:
    """Hash and keeper's criteria of the kept images of one part, in their order."""
    images, thumbnails = _images(work["part"]), _load(work["thumbnails"])
    if pca_path is not None:
        stored = _load(pca_path)
        hashes = hash_thumbnails(thumbnails, Pca(stored[:, :-1], stored[:, -1]))
    else:
        hashes = frequency_hashes(thumbnails)
    flat = contrasts(thumbnails) < min_contrast_levels
    by_bytes = [int(digest[:16], 16) for digest in images["sha256"].to_pylist()]
    dates = images["crawl_date"] if "crawl_date" in images.column_names else pa.nulls(images.num_rows, pa.string())
    table = pa.table(
        [
            images["id"],
            pa.array(np.where(flat, np.array(by_bytes, np.uint64), hashes), pa.uint64()),
            pa.array(~flat),
            pc.multiply(images["width"].cast(pa.int64()), images["height"].cast(pa.int64())),
            dates,
        ],
        schema=_HASHED,
    )
    return Outcome(table.num_rows, table.num_rows, files=[write_table(f"{out}.parquet", table)])


def frequency_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """imagehash.phash of thumbnails [images, 1024]: the signs of 8 x 8 low frequencies about their median."""
    import imagehash  # it imports SciPy and PyWavelets, which the default method does without

    pictures = (Image.fromarray(pixels.reshape(SIDE, SIDE)) for pixels in thumbnails)
    bits = [imagehash.phash(picture).hash.reshape(-1) for picture in pictures]
    return pack_bits(np.array(bits, dtype=bool).reshape(len(bits), 64))


def find_copies(
    tables: Sequence[str], thumbnails: Sequence[str], *, min_correlation: float, images_per_pass: int
) -> pa.Table:
    """Every image that is a copy: its part, its id, its keeper's id, their correlation; sorted by part and id."""
    rows = sum(read_table(path, ["id"]).num_rows for path in tables)
    passes = max(1, -(-rows // images_per_pass))
    found = [_copies_of_pass(tables, thumbnails, number, passes, min_correlation) for number in range(passes)]
    return pa.concat_tables(found).sort_by([("part", "ascending"), ("id", "ascending")])


def _copies_of_pass(
    tables: Sequence[str], thumbnails: Sequence[str], number: int, passes: int, min_correlation: float
) -> pa.Table:
    """Copies among the images whose hash, modulo the number of passes, is this one's."""
    hashes = [_column(path, "hash") for path in tables]
    mine = [np.zeros(0, np.uint64), *(part[part % np.uint64(passes) == number] for part in hashes)]
    values, counts = np.unique(np.concatenate(mine), return_counts=True)
    shared = values[counts > 1]
    places = [np.flatnonzero(np.isin(part, shared)) for part in hashes]
    members = [(part, place) for part, place in enumerate(places) if len(place)]
    if not members:
        return _COPIES.empty_table()
    group = pa.concat_tables(
        read_table(tables[part]).take(place).append_column("part", pa.array(np.full(len(place), part)))
        for part, place in members
    )
    pixels = np.concatenate([_load(thumbnails[part])[place] for part, place in members])
    # Preference: most pixels, then earliest date (null last), then smallest id.
    order = pc.sort_indices(
        group, [("num_pixels", "descending"), ("crawl_date", "ascending"), ("id", "ascending")]
    ).to_numpy()
    group = group.take(order)
    keeper, correlation = verified_groups(group["hash"].to_numpy(), pixels[order], min_correlation=min_correlation)
    copies = np.flatnonzero(keeper != np.arange(len(keeper)))
    columns = [
        group["part"].take(copies), group["id"].take(copies), group["id"].take(keeper[copies]),
        pa.array(correlation[copies], pa.float32()),
    ]  # fmt: skip
    return pa.table(columns, schema=_COPIES)


def _column(path: str, name: str) -> NDArray[Any]:
    return np.asarray(read_table(path, [name])[name].to_numpy())


def judge_part(work: Mapping[str, Any], out: str, *, duplicates: str) -> Outcome:
    """One part's table of verdicts, in the order of its kept images."""
    table = _images(work["part"])
    carried = [table.schema.field(name) for name in ("crawl_date",) if name in table.column_names]
    copies = read_table(duplicates)
    mine = copies.filter(pc.equal(copies["part"], work["number"])).to_pylist()
    copy_of = {row["id"]: row for row in mine}
    rows = table.select([*IMAGE_COLUMNS, *(field.name for field in carried)]).to_pylist()
    for row, hashed in zip(rows, read_table(work["hashes"], ["hash", "hashed"]).to_pylist(), strict=True):
        row["hash"] = f"{hashed['hash']:016x}" if hashed["hashed"] else None
        if copy := copy_of.get(row["id"]):
            detail = "same picture" if hashed["hashed"] else "same bytes"
            row |= {"drop": "hash_duplicate", "detail": detail, "value": copy["value"], "other": copy["other"]}
    result = table_from_rows(rows, pa.schema([*SCHEMA, *carried]))
    drops = count_drops(result)
    files = [write_table(f"{out}.parquet", result)]
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, files)
