"""Hash deduplication: images whose hashes are equal (or nearly), and whose thumbnails are alike, keep their best copy.

Cost: one decode per image (of a JPEG only the luma, at the reduced scale that the hash needs), then linear; near hashes
as `tasks.algorithms.hamming` says. Disk: 1.1 KB of thumbnail and hash per image. Memory: a part's thumbnails; for
grouping what `tasks.hash_copies` says, in as many passes as `images_per_pass` asks for.
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

from storage.filesystem import content_key, join, read_bytes, write_bytes
from storage.images import decode_gray
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.records import IMAGE_COLUMNS, image_schema
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
from tasks.algorithms.hamming import to_bytes
from tasks.algorithms.pca_hash import Pca, contrasts, fit_pca, hash_thumbnails, pack_bits
from tasks.algorithms.pdq import HASH_BYTES, MIN_QUALITY, pdq_hash
from tasks.config import StageConfig
from tasks.hash_copies import HASHED, Hashed, find_copies, load_array
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
SIDE = 32
_DECODED_SIDE = 4 * SIDE
"""A JPEG is decoded no smaller: with less, a resized copy's thumbnail differs more than its hash forgives."""
_PDQ_SIDE = 512
"""The same for PDQ, which looks at finer detail."""
PCA_FILE = "pca.npy"
_PDQ_SUFFIX = "-pdq.npy"
DUPLICATES_FILE = "duplicates.parquet"
SCHEMA = image_schema(pa.field("hash", pa.string()))  # 16 hex digits (pdq: 64); null for an image without contrast


class HashDedup(StageConfig):
    """Which hash, and when two images of equal hash are one picture."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"images_per_pass"})

    method: Literal["pca", "phash", "pdq"] = "pca"
    """pca: 64 signs of a PCA of this run's thumbnails. phash: 64 signs of their low frequencies (imagehash.phash). pdq:
    256 signs of the picture's low frequencies, as published, comparable with anyone's."""
    max_distance: Annotated[int, Field(ge=0, le=63)] = 0
    """Bits that the hashes of one picture may differ by; 0 compares equal ones only. PDQ's publishers use 31."""
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
def hash_dedup(images: Manifest, config: HashDedup, layout: Layout, earlier: Sequence[Manifest] = ()) -> Manifest:
    """Drop (`hash_duplicate`, other = keeper) all but the best image of every group of equal pictures.

    The keeper has the most pixels; of those, the earliest crawl date; of those, the smallest id.

    `earlier` are hash_dedup stages of earlier crawls: an image is dropped for one of theirs too, unless it has more
    pixels; then both stay, for self_dedup to choose, because nothing is said here about theirs. Their PCA is used, so
    that hashes can be compared. Raises ValueError when they were hashed by another method.
    """
    fitted = {"pca": content_key(config.pca_file)} if config.pca_file else None
    inputs = {"images": images} | {f"earlier_{number:04d}": one for number, one in enumerate(earlier)}
    stage = Stage("hash_dedup", version=VERSION, config=config, inputs=inputs, layout=layout, also=fitted)
    if stage.finished:
        return stage.reuse()
    known = [found for one in earlier for found in _hashed_before(one, config.method)]
    parts = images.paths(".parquet")
    written = stage.map(
        write_thumbnails, _thumbnail_work(images), prefix="thumbnails", root=layout.root, pdq=config.method == "pdq"
    )
    thumbnails = [stage.path(outcome.files[0].path) for outcome in written]
    pca = _pca_entry(stage, config, thumbnails, earlier)
    work = [{"part": part, "thumbnails": path} for part, path in zip(parts, thumbnails, strict=True)]
    hashed = stage.map(
        hash_part,
        work,
        prefix="hashes",
        pca_path=stage.path(PCA_FILE) if pca else None,
        min_contrast_levels=config.min_contrast_levels,
        method=config.method,
    )
    new = [Hashed(stage.path(outcome.files[0].path), path) for outcome, path in zip(hashed, thumbnails, strict=True)]
    copies = find_copies(
        [*new, *known],
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
    return stage.publish(judged, files=[duplicates, *([pca] if pca else []), *kept_for_later])


def _hashed_before(manifest: Manifest, method: str) -> list[Hashed]:
    """The hash tables and thumbnails of an earlier stage, part by part."""
    if manifest.stage != "hash_dedup" or manifest.config.get("method") != method:
        raise ValueError(
            f"{manifest.path} was made by {manifest.stage} with method {manifest.config.get('method')!r}: its hashes "
            f"cannot be compared with {method!r}. Give hash_dedup stages of that method, or none."
        )
    names = [entry.path for entry in manifest.files]
    tables = [name for name in names if name.startswith("hashes-")]
    thumbnails = [name for name in names if name.startswith("thumbnails-") and not name.endswith(_PDQ_SUFFIX)]
    return [
        Hashed(join(manifest.directory, table), join(manifest.directory, pixels), new=False)
        for table, pixels in zip(tables, thumbnails, strict=True)
    ]


def _thumbnail_work(images: Manifest) -> list[dict[str, str | None]]:
    """Each part, with the thumbnails that the stage before has made of it in passing, if it has."""
    parts, ready = images.paths(".parquet"), images.paths(".thumbnails.npy")
    made: list[str | None] = [*ready] if len(ready) == len(parts) else [None] * len(parts)
    return [{"part": part, "thumbnails": path} for part, path in zip(parts, made, strict=True)]


def write_thumbnails(work: Mapping[str, Any], out: str, *, root: str, pdq: bool) -> Outcome:
    """The kept images of one part as thumbnails, uint8 [images, 1024] in `out`.npy; with `pdq` their PDQ hashes and
    qualities too, uint8 [images, 33].

    An image that does not decode here did before: the file was damaged since, and ImageError says so.
    """
    rows = _images(work["part"]).select(["image_file", "image_offset", "image_bytes"]).to_pylist()
    if work["thumbnails"] is not None and not pdq:
        thumbnails = load_array(work["thumbnails"])
        if thumbnails.shape != (len(rows), SIDE * SIDE) or thumbnails.dtype != np.uint8:
            raise ValueError(
                f"{work['thumbnails']} holds {thumbnails.dtype} {thumbnails.shape}, not uint8 {(len(rows), SIDE**2)}: "
                "it does not belong to its part. Delete that stage's folder and run again."
            )
        return Outcome(len(rows), len(rows), files=[_save(f"{out}.npy", thumbnails)])
    layout = Layout(root)
    thumbnails = np.zeros((len(rows), SIDE * SIDE), np.uint8)
    digests = np.zeros((len(rows), HASH_BYTES + 1), np.uint8)
    for number, row in enumerate(rows):
        data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        gray = decode_gray(data, min_side=_PDQ_SIDE if pdq else _DECODED_SIDE)
        thumbnails[number] = thumbnail_of(gray)
        if pdq:
            digest, quality = pdq_hash(gray)
            digests[number] = np.frombuffer(digest + bytes([quality]), np.uint8)
    files = [_save(f"{out}.npy", thumbnails), *([_save(f"{out}{_PDQ_SUFFIX}", digests)] if pdq else [])]
    return Outcome(len(rows), len(rows), files=files)


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """An encoded image as 32 x 32 gray pixels, each the mean of what it covers, whatever the image's shape: [1024]."""
    return thumbnail_of(decode_gray(data, min_side=_DECODED_SIDE))


def thumbnail_of(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`thumbnail` of an image that is decoded already: luma [height, width], of 128 pixels or more on a side."""
    return np.asarray(cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8).reshape(-1)


def _images(part: str) -> pa.Table:
    return kept(read_table(part))


def _save(path: str, array: NDArray[Any]) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data)
    return FileEntry(path.rsplit("/", 1)[-1], len(array), len(data), hashlib.sha256(data).hexdigest())


def _pca_entry(
    stage: Stage, config: HashDedup, thumbnails: Sequence[str], earlier: Sequence[Manifest]
) -> FileEntry | None:
    """The PCA in the stage's folder, fitted or copied: [bits, pixels + 1], the thresholds in the last column."""
    if config.method != "pca":
        return None
    if given := config.pca_file or (earlier[0].file(PCA_FILE) if earlier else None):
        return _save(stage.path(PCA_FILE), _checked_pca(given))
    share = max(1, config.max_fit_images // max(1, len(thumbnails)))
    blocks = (block for block in (load_array(path)[:share] for path in thumbnails) if len(block))
    first = next(blocks, None)
    if first is None:  # no image came in: any PCA will do
        return _save(stage.path(PCA_FILE), np.zeros((64, SIDE * SIDE + 1)))
    pca = fit_pca(_chained(first, blocks))
    return _save(stage.path(PCA_FILE), np.column_stack([pca.directions, pca.thresholds]))


def _chained(first: NDArray[np.uint8], rest: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    yield first
    yield from rest


def _checked_pca(path: str) -> NDArray[np.float64]:
    stored = load_array(path)
    if stored.ndim != 2 or stored.shape[1] != SIDE * SIDE + 1 or len(stored) > 64:
        raise ValueError(
            f"{path} holds an array of shape {stored.shape}, not a PCA of at most 64 x {SIDE * SIDE + 1}. "
            "Give the pca.npy of a finished hash_dedup stage, or leave pca_file out to fit one."
        )
    return stored.astype(np.float64)


def hash_part(
    work: Mapping[str, str], out: str, *, pca_path: str | None, min_contrast_levels: float, method: str
) -> Outcome:
    """Hash and keeper's criteria of the kept images of one part, in their order."""
    images, thumbnails = _images(work["part"]), load_array(work["thumbnails"])
    flat = contrasts(thumbnails) < min_contrast_levels
    if method == "pdq":
        digests = load_array(work["thumbnails"].removesuffix(".npy") + _PDQ_SUFFIX)
        bits, flat = digests[:, :HASH_BYTES], flat | (digests[:, HASH_BYTES] < MIN_QUALITY)
        hashes = _short_hashes([row.tobytes() for row in bits])
    elif pca_path is not None:
        stored = load_array(pca_path)
        hashes = hash_thumbnails(thumbnails, Pca(stored[:, :-1], stored[:, -1]))
        bits = to_bytes(hashes)
    else:
        hashes = frequency_hashes(thumbnails)
        bits = to_bytes(hashes)
    by_bytes = np.array([int(digest[:16], 16) for digest in images["sha256"].to_pylist()], np.uint64)
    dates = images["crawl_date"] if "crawl_date" in images.column_names else pa.nulls(images.num_rows, pa.string())
    table = pa.table(
        [
            images["id"],
            pa.array(np.where(flat, by_bytes, hashes), pa.uint64()),
            pa.array([row.tobytes() for row in bits], pa.binary()),
            pa.array(~flat),
            pc.multiply(images["width"].cast(pa.int64()), images["height"].cast(pa.int64())),
            dates,
        ],
        schema=HASHED,
    )
    return Outcome(table.num_rows, table.num_rows, files=[write_table(f"{out}.parquet", table)])


def _short_hashes(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    """64 bits of each longer hash, to group by: what they confuse (n^2 / 2^65 pairs), the thumbnails tell apart."""
    short = (hashlib.blake2b(digest, digest_size=8).digest() for digest in digests)
    return np.array([int.from_bytes(one, "big") for one in short], np.uint64)


def frequency_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """imagehash.phash of thumbnails [images, 1024]: the signs of 8 x 8 low frequencies about their median."""
    import imagehash  # it imports SciPy and PyWavelets, which the default method does without

    pictures = (Image.fromarray(pixels.reshape(SIDE, SIDE)) for pixels in thumbnails)
    bits = [imagehash.phash(picture).hash.reshape(-1) for picture in pictures]
    return pack_bits(np.array(bits, dtype=bool).reshape(len(bits), 64))


def judge_part(work: Mapping[str, Any], out: str, *, duplicates: str) -> Outcome:
    """One part's table of verdicts, in the order of its kept images."""
    table = _images(work["part"])
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
