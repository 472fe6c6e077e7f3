"""One part of hash deduplication: what is looked at (decoded here only where no stage before has), then its hashes.

Memory: a part's thumbnails (1 KB an image), and while they are hashed 8 KB for each of a block of images.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from storage.filesystem import join, read_bytes
from storage.images import decode_gray
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, adopt
from storage.tables import kept, read_table, write_table
from tasks.algorithms.hamming import to_bytes
from tasks.algorithms.pca_hash import Pca, contrasts, feature_levels, hash_thumbnails, pack_bits
from tasks.algorithms.pdq import HASH_BYTES, MIN_QUALITY
from tasks.encoders import Encoder, built
from tasks.encoding.images import encode_images
from tasks.hashing.copies import HASHED
from tasks.hashing.looks import (
    DECODED_SIDE,
    PDQ_SUFFIX,
    PIXELS,
    SIDE,
    Kind,
    Looks,
    load_array,
    thumbnail_of,
    write_array,
)
from tasks.hashing.names import FEATURES_SUFFIX, beside_thumbnails, look_files
from tasks.stage import Outcome

_WAITING_IMAGES = 64
_BLOCK_IMAGES = 2048


@dataclass(frozen=True)
class Hashing:
    """How the images of a run are hashed."""

    method: str
    pca_path: str | None
    min_contrast_levels: float


def thumbnail(data: bytes) -> NDArray[np.uint8]:
    """An encoded image as 32 x 32 gray pixels, each the mean of what it covers, whatever the image's shape: [1024]."""
    return thumbnail_of(decode_gray(data, min_side=DECODED_SIDE["thumbnails"]))


def looks_work(images: Manifest, kind: Kind) -> list[dict[str, Any]]:
    """Each part, with the looks that the stage before has made of it in passing, if it has."""
    entries = {entry.path: entry for entry in images.files}
    found = {(one.part, one.suffix): entries[one.name] for one in look_files(entries) if not one.is_hashes}
    suffixes = [".npy", *([PDQ_SUFFIX] if kind == "pdq" else [])]
    work: list[dict[str, Any]] = []
    for number, part in enumerate(images.paths(".parquet")):
        ready = {one: found[number, one] for one in suffixes if (number, one) in found}
        whole = len(ready) == len(suffixes)
        work.append({"part": part, "ready": ready if whole else {}, "directory": images.directory})
    return work


def write_looks(work: Mapping[str, Any], out: str, *, root: str, kind: Kind, encoder: Encoder | None) -> Outcome:
    """The looks of the kept images of one part, in their order, taken over or made; with an encoder their features.

    An image that does not decode here did before: the file was damaged since, and ImageError says so.
    """
    layout, table = Layout(root), kept(read_table(work["part"]))
    if work["ready"]:
        ready = work["ready"].items()
        files = [_taken(entry, work["directory"], f"{out}{suffix}", table.num_rows) for suffix, entry in ready]
    else:
        looks = Looks(kind)
        for row in table.select(["image_file", "image_offset", "image_bytes"]).to_pylist():
            data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
            looks.add(decode_gray(data, min_side=DECODED_SIDE[kind]))
        files = looks.write(out)
    if encoder is not None:
        files.append(write_array(f"{out}{FEATURES_SUFFIX}", _features(table, encoder, layout)))
    return Outcome(table.num_rows, table.num_rows, files=files)


def _taken(entry: FileEntry, directory: str, target: str, num_images: int) -> FileEntry:
    """A ready file, taken over. Raises ValueError when it is of other images."""
    if entry.rows != num_images:
        raise ValueError(
            f"{join(directory, entry.path)} holds {entry.rows} images and its part {num_images}: it does not belong to "
            "its part. Delete that stage's folder and run again."
        )
    return adopt(entry, directory, target)


def _features(table: pa.Table, encoder: Encoder, layout: Layout) -> NDArray[np.uint8]:
    """What a descriptor network says of the images of a table, as bytes: [images, dim]."""
    network = built(encoder)
    found = encode_images(
        table,
        network,
        layout,
        waiting_images=_WAITING_IMAGES,
        decode_threads=1,
        transform=feature_levels,  # type: ignore[arg-type]
        dtype=np.uint8,
    )
    for error in found.failures.values():
        raise error
    return np.asarray(found.vectors, np.uint8)


def hash_part(
    work: Mapping[str, str], out: str, *, pca_path: str | None, min_contrast_levels: float, method: str
) -> Outcome:
    """Hash and keeper's criteria of the kept images of one part, in their order."""
    images = kept(read_table(work["part"]))
    dates = images["crawl_date"] if "crawl_date" in images.column_names else pa.nulls(images.num_rows, pa.string())
    num_pixels = pc.multiply(images["width"].cast(pa.int64()), images["height"].cast(pa.int64()))
    how = Hashing(method, pca_path, min_contrast_levels)
    hashed = _hash_columns(work["thumbnails"], images["sha256"], how)
    table = pa.table([images["id"], *hashed, num_pixels, dates], schema=HASHED)
    return Outcome(table.num_rows, table.num_rows, files=[write_table(f"{out}.parquet", table)])


def hash_again(
    work: Mapping[str, str], out: str, *, pca_path: str | None, min_contrast_levels: float, method: str
) -> Outcome:
    """The table of hashes of one part of an earlier crawl (`hashes`), made anew as this run makes its own.

    `part` is that part's table of verdicts, which has every image's SHA-256. Raises ValueError when it lacks one.
    """
    before, judged = read_table(work["hashes"]), read_table(work["part"], ["id", "sha256"])
    places = pc.index_in(before["id"].combine_chunks(), value_set=judged["id"].combine_chunks())
    if places.null_count:
        raise ValueError(
            f"{work['hashes']} has {places.null_count} images that {work['part']} has not: the two do not belong "
            "together. Delete that stage's folder and run its crawl again."
        )
    how = Hashing(method, pca_path, min_contrast_levels)
    hashed = _hash_columns(work["thumbnails"], judged["sha256"].take(places), how)
    table = pa.table([before["id"], *hashed, before["num_pixels"], before["crawl_date"]], schema=HASHED)
    return Outcome(table.num_rows, table.num_rows, files=[write_table(f"{out}.parquet", table)])


def _hash_columns(thumbnails: str, sha256s: pa.ChunkedArray, how: Hashing) -> tuple[pa.Array, pa.Array, pa.Array]:
    """The columns hash, bits and hashed of HASHED, of the images of these thumbnails and these files' SHA-256."""
    pixels = load_array(thumbnails)
    flat = np.concatenate([np.zeros(0), *map(contrasts, _blocks(pixels))]) < how.min_contrast_levels
    if how.method == "pdq":
        digests = load_array(beside_thumbnails(thumbnails, PDQ_SUFFIX))
        bits, flat = digests[:, :HASH_BYTES], flat | (digests[:, HASH_BYTES] < MIN_QUALITY)
        hashes = _short_hashes([row.tobytes() for row in bits])
    else:
        hashes = frequency_hashes(pixels) if how.pca_path is None else _pca_hashes(thumbnails, how.method, how.pca_path)
        bits = to_bytes(hashes)
    by_bytes = np.array([int(digest[:16], 16) for digest in sha256s.to_pylist()], np.uint64)
    return (
        pa.array(np.where(flat, by_bytes, hashes), pa.uint64()),
        pa.array([row.tobytes() for row in bits], pa.binary()),
        pa.array(~flat),
    )


def hashed_bytes(thumbnails: str, method: str) -> NDArray[np.uint8]:
    """What the PCA is of: [images, pixels], or [images, dim] of a network's features."""
    return load_array(beside_thumbnails(thumbnails, FEATURES_SUFFIX) if method == "pca_features" else thumbnails)


def _pca_hashes(thumbnails: str, method: str, pca_path: str) -> NDArray[np.uint64]:
    rows, stored = hashed_bytes(thumbnails, method), load_array(pca_path)
    if rows.shape[1] != stored.shape[1] - 1:
        raise ValueError(
            f"{pca_path} is a PCA of {stored.shape[1] - 1} numbers an image, and these images have {rows.shape[1]}: "
            "give a PCA of the same method and encoder, or leave pca_file out to fit one."
        )
    pca = Pca(stored[:, :-1], stored[:, -1])
    return np.concatenate([np.zeros(0, np.uint64), *(hash_thumbnails(block, pca) for block in _blocks(rows))])


def _blocks(rows: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (rows[start : start + _BLOCK_IMAGES] for start in range(0, len(rows), _BLOCK_IMAGES))


def _short_hashes(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    """64 bits of each longer hash, to group by: what they confuse (n^2 / 2^65 pairs), the thumbnails tell apart."""
    short = (hashlib.blake2b(digest, digest_size=8).digest() for digest in digests)
    return np.array([int.from_bytes(one, "big") for one in short], np.uint64)


def frequency_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """imagehash.phash of thumbnails [images, 1024]: the signs of 8 x 8 low frequencies about their median."""
    import imagehash  # it imports SciPy and PyWavelets, which the default method does without

    if thumbnails.shape[1:] != (PIXELS,):
        raise ValueError(f"thumbnails of {PIXELS} pixels are wanted, not {thumbnails.shape}")
    pictures = (Image.fromarray(pixels.reshape(SIDE, SIDE)) for pixels in thumbnails)
    bits = [imagehash.phash(picture).hash.reshape(-1) for picture in pictures]
    return pack_bits(np.array(bits, dtype=bool).reshape(len(bits), 64))
