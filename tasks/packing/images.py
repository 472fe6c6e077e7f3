"""One shard of the dataset: every image read where it lies, verified, copied or bounded, its JSON beside it."""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import Field

from storage.errors import ChecksumMismatch
from storage.images import FILE_EXTENSIONS, decode_rgb, encode_jpeg
from storage.layout import Layout
from storage.manifest import FileEntry
from storage.range_reader import read_ranges
from storage.samples import INDEX_SCHEMA, SampleWriter, index_path
from storage.tables import write_table
from tasks.config import StageConfig
from tasks.member_hashes import MemberHashes
from tasks.packing.exchange import ORDER
from tasks.packing.json_columns import json_values
from tasks.parts import Outcome


class Packed(NamedTuple):
    """What is packed of an image: a copy with its longer side at most so many pixels, or (None) the file as it is."""

    format: str
    width: int
    height: int
    copied: bool

    @property
    def extension(self) -> str:
        """Of the member that holds it."""
        return FILE_EXTENSIONS.get(self.format, "bin")


class Original(StageConfig):
    """The files as they are, byte for byte."""

    kind: Literal["original"] = "original"
    """Tells the ways apart."""

    def packed(self, row: "Row") -> Packed:
        """Format and size in the dataset."""
        return Packed(row.format, row.width, row.height, copied=False)

    def encode(self, data: bytes, row: "Row") -> bytes:
        """The file itself."""
        return data


class Bounded(StageConfig):
    """JPEG copies of the images whose longer side is over `max_side`; the others as they are, byte for byte."""

    kind: Literal["bounded"] = "bounded"
    """Tells the ways apart."""
    max_side: Annotated[int, Field(ge=16, le=65_535)] = 1024
    """Longer side of a copy, pixels."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality of a copy."""
    method: Literal["bicubic", "bilinear"] = "bicubic"
    """How a copy is made smaller, antialiased. Bilinear is softer, and a copy takes 1 % less time."""

    def packed(self, row: "Row") -> Packed:
        """Format and size in the dataset: known from the row alone, before a pixel is decoded."""
        longer = max(row.width, row.height)
        if longer <= self.max_side:
            return Packed(row.format, row.width, row.height, copied=False)
        width, height = (max(1, round(side * self.max_side / longer)) for side in (row.width, row.height))
        return Packed("JPEG", width, height, copied=True)

    def encode(self, data: bytes, row: "Row") -> bytes:
        """The copy: decoded at the smallest scale that is still large enough, resized, transparency laid on white."""
        packed = self.packed(row)
        if not packed.copied:
            return data
        from tasks.algorithms.resized import resized  # torch: a second, which packing originals does without

        side = min(packed.width, packed.height)
        pixels = decode_rgb(data, min_side=side, max_pixels=row.width * row.height)
        small = resized(pixels, height=packed.height, width=packed.width, method=self.method)
        return encode_jpeg(small, quality=self.quality)


Images = Original | Bounded


class Row(NamedTuple):
    """One image that is to be packed: a row of the shuffled tables, `url` and `lineage` as JSON.

    Tuples, because each of a billion is made once: a frozen dataclass takes ten times as long.
    """

    order: int
    id: str
    url: str
    sha256: str
    width: int
    height: int
    format: str
    image_file: str
    image_offset: int
    image_bytes: int
    lineage: str

    def json(self, packed: Packed, sha256: str) -> bytes:
        """The JSON beside the image: what it is and every step of its way, without times of this run.

        A copy says of which image (`bounded_from`); what that one was downloaded as is in its lineage.
        """
        copied = ""
        if packed.copied:
            copied = (
                f'"bounded_from": {{"format": "{self.format}", "height": {self.height}, "sha256": "{self.sha256}", '
                f'"width": {self.width}}}, '
            )
        return (
            f'{{{copied}"format": "{packed.format}", "height": {packed.height}, '
            f'"id": "{self.id}", "lineage": {self.lineage}, "sha256": "{sha256}", "url": {self.url}, '
            f'"width": {packed.width}}}'
        ).encode()


def rows_of(table: pa.Table) -> list[Row]:
    """Rows of the shuffled tables. Memory: about 1.5 KB a row."""
    columns: list[Any] = [
        json_values(table["url"]) if name == "url" else table[name] for name in (ORDER, *Row._fields[1:])
    ]
    return list(map(Row._make, zip(*(column.to_pylist() for column in columns), strict=True)))


def write_shard(rows: Sequence[Row], tar: str, images: Images, layout: Layout, *, verify: bool = True) -> Outcome:
    """The tar and its index. With `verify`, raises ChecksumMismatch for an image whose bytes are not the ones that
    were judged."""
    files = {name: layout.resolve(name) for name in {row.image_file for row in rows}}
    ranges = [(files[row.image_file], row.image_offset, row.image_bytes) for row in rows]
    samples = _encoded(rows, ranges, images, verify=verify)
    return write_samples(samples, tar, num_samples=len(rows), verify=verify)


def _encoded(
    rows: Sequence[Row], ranges: Sequence[tuple[str, int, int]], images: Images, *, verify: bool
) -> "Iterator[tuple[Row, Packed, bytes, str]]":
    """Of a copy, the original is verified here; of an original, `write_samples` looks at what it has written."""
    for row, data in zip(rows, read_ranges(ranges), strict=True):
        packed = images.packed(row)
        if packed.copied and verify and hashlib.sha256(data).hexdigest() != row.sha256:
            raise _changed(row)
        encoded = images.encode(data, row)
        yield row, packed, encoded, hashlib.sha256(encoded).hexdigest() if packed.copied else row.sha256


def _changed(row: Row) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"image {row.id} in {row.image_file} changed since it was read "
        "(SHA-256 differs). Delete that stage's folder, or restore the source file, and run again."
    )


def write_samples(
    samples: "Iterator[tuple[Row, Packed, bytes, str]]", tar: str, *, num_samples: int, verify: bool = True
) -> Outcome:
    """A shard of (row, what is packed, its bytes, their SHA-256), and its index.

    With `verify`, the SHA-256 is taken of what is written, in the pass that takes the shard's; raises ChecksumMismatch
    where it is another, and no shard appears.
    Facts: `places`, the first and last key of each tar; `extensions`, how many images of each.
    """
    written = MemberHashes(num_members=2 * num_samples) if verify else None
    expected: list[tuple[Row, str]] = []
    index: list[tuple[Any, ...]] = []
    shard = posixpath.basename(tar)
    with SampleWriter(tar, written) as writer:
        for row, packed, data, sha256 in samples:
            expected.append((row, sha256))
            start, text, extension = writer.bytes_written, row.json(packed, sha256), packed.extension
            offset, size = writer.add(row.id, {extension: data, "json": text})[extension]
            told = hashlib.sha256(text).hexdigest()
            index.append((row.id, shard, extension, start, offset, size, sha256, told, row.sha256, row.order))
        writer.finish()
        if written is not None:
            _compare(expected, written.sha256s[::2])  # every other one is a JSON's
    columns = [list(column) for column in zip(*index, strict=True)]
    table = pa.table(columns, schema=INDEX_SCHEMA)
    return outcome_of(table, [writer.entry, write_table(index_path(tar), table)])


def _compare(expected: Sequence[tuple[Row, str]], found: Sequence[str]) -> None:
    for (row, promised), sha256 in zip(expected, found, strict=True):
        if sha256 != promised:
            raise _changed(row)


def outcome_of(index: pa.Table, entries: Sequence[FileEntry]) -> Outcome:
    """The outcome of one shard, its tar's and its index's entries given."""
    order = index[ORDER]
    facts = {
        "places": {entries[0].path: [order[0].as_py(), order[-1].as_py()]},
        "extensions": dict(Counter(index["extension"].to_pylist())),
    }
    return Outcome(index.num_rows, index.num_rows, files=list(entries), facts=facts)


def joined(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcomes of some shards as one."""
    extensions: Counter[str] = Counter()
    places: dict[str, list[int]] = {}
    for outcome in outcomes:
        extensions.update(outcome.facts["extensions"])
        places |= outcome.facts["places"]
    rows = sum(outcome.rows_kept for outcome in outcomes)
    files = [entry for outcome in outcomes for entry in outcome.files]
    return Outcome(rows, rows, files=files, facts={"places": places, "extensions": dict(extensions)})
