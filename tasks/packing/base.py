"""Packing on from an earlier dataset: what it holds stays where it is, what is new is found, what left is cut out.

An image stays when the earlier dataset has its id with the same input bytes. Its shard is taken over unchanged (a hard
link) if all of it stays with the same JSON; otherwise the shard is written anew, in its old order, from its own bytes.

Each shard of a dataset is a stretch of the permutation of one packing (a rewritten one has gaps), so a range of keys
meets few shards, and a shard few row groups. Memory: the rows of one range, or of one shard. Cost: 2 reads of the keys,
and a read of every shard's index; image bytes move only in shards that change.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import BadManifest, ChecksumMismatch
from storage.filesystem import join, read_bytes
from storage.manifest import FileEntry, Manifest, adopt
from storage.range_reader import read_ranges
from storage.samples import index_path
from storage.tables import read_table
from tasks.packing.dataset_card import CARD
from tasks.packing.exchange import ORDER, read_stretch
from tasks.packing.images import Images, Packed, Row, joined, outcome_of, rows_of, write_samples
from tasks.stage import Outcome

_SAME = ["id", "input_sha256"]


class OtherBase(ValueError):
    """An earlier dataset that this one cannot go on from."""


@dataclass(frozen=True)
class HeldShard:
    """One shard of the earlier dataset: its two files and the keys it spans."""

    tar: FileEntry
    index: FileEntry
    directory: str
    first: int
    last: int

    @property
    def index_file(self) -> str:
        """Absolute path of its index."""
        return join(self.directory, self.index.path)


@dataclass(frozen=True)
class Source:
    """Rows of the shuffled set by range of keys, without those that an earlier dataset holds."""

    files: Sequence[str]
    held: Sequence[HeldShard] = ()

    def within(self, first: int, last: int) -> "Source":
        """The same for keys in [first, last] alone: what travels to a worker does not grow with the dataset."""
        return Source(self.files, [shard for shard in self.held if shard.first <= last and shard.last >= first])

    def __call__(self, first: int, last: int, columns: Sequence[str] | None) -> pa.Table:
        """Rows with keys in [first, last]."""
        held = self.within(first, last).held
        needed = columns if columns is None or not held else [*columns, "id", "sha256"]
        table = pa.concat_tables([read_stretch(path, first, last, needed) for path in self.files])
        if held:
            indexes = pa.concat_tables([read_table(shard.index_file, _SAME) for shard in held])
            table = table.filter(pc.invert(_among(table["id"], table["sha256"], indexes)))
        return table if columns is None else table.select(columns)


def _among(ids: pa.ChunkedArray, sha256s: pa.ChunkedArray, index: pa.Table) -> pa.Array:
    """Which images the index holds, with the same input bytes."""
    place = pc.index_in(ids, value_set=index["id"].combine_chunks())
    return pc.fill_null(pc.equal(index["input_sha256"].take(place), sha256s), False)


def differences(base: Manifest, *, seed: int, images: Images, name: str) -> list[str]:
    """Why an earlier dataset cannot be gone on from: what was set otherwise when it was packed; [] when it can be."""
    card = json.loads(read_bytes(base.file(CARD)))
    wanted = {"name": name, "images": images.deciding(), "seed": seed}
    return [f"{key} {card.get(key)!r} there, {value!r} here" for key, value in wanted.items() if card.get(key) != value]


def held_shards(base: Manifest, *, seed: int, images: Images, name: str) -> list[HeldShard]:
    """The shards of an earlier dataset. Raises OtherBase when it was packed in another way, BadManifest for no dataset.

    Only a dataset with the same permutation, the same treatment of images and the same name can be gone on from.
    """
    differing = differences(base, seed=seed, images=images, name=name)
    if differing:
        raise OtherBase(
            f"cannot go on from {base.directory}: {'; '.join(differing)}. Use the same settings, or pack without base."
        )
    card = json.loads(read_bytes(base.file(CARD)))
    entries = {entry.path: entry for entry in base.files}
    try:
        return [
            HeldShard(entries[s["file"]], entries[index_path(s["file"])], base.directory, *s["order"])
            for s in card["shards"]
        ]
    except KeyError as error:
        raise BadManifest(f"{base.path} names no file {error}, but its {CARD} does. Pack without base.") from error


def count_new(part: tuple[tuple[int, int], Source], out: str) -> Outcome:
    """How many rows of a range of keys the earlier dataset does not hold. `out` is not written: the receipt tells."""
    (first, last), source = part
    num_rows = source(first, last, [ORDER]).num_rows
    return Outcome(num_rows, num_rows)


def carry_shard(shard: HeldShard, out: str, *, directory: str, files: Sequence[str], images: Images) -> Outcome:
    """One earlier shard into the new dataset: linked when all of it stays, rewritten without what left, or gone."""
    index = read_table(shard.index_file)
    rows = _rows_now(index, shard, files)
    places = _places_now(index, rows, images)
    target = join(directory, shard.tar.path)
    if all(place is not None and not changed for place, changed in places):
        links = [adopt(entry, shard.directory, join(directory, entry.path)) for entry in (shard.tar, shard.index)]
        return _noted(outcome_of(index, links), {"shards": {"linked": 1}})
    stays = [(number, place) for number, (place, _) in enumerate(places) if place is not None]
    facts = {"shards": {"rewritten" if stays else "emptied": 1}, "left": len(places) - len(stays)}
    if not stays:
        return _noted(joined([]), facts)
    return _noted(
        write_samples(
            _again(stays, index.to_pylist(), rows, shard, images), target, num_samples=len(stays), verify=False
        ),
        facts,
    )


def _noted(outcome: Outcome, facts: Mapping[str, Any]) -> Outcome:
    return replace(outcome, facts={**outcome.facts, **facts})


def _rows_now(index: pa.Table, shard: HeldShard, files: Sequence[str]) -> list[Row]:
    """The rows of the new set that this shard holds, in any order."""
    tables = [read_stretch(path, shard.first, shard.last) for path in files]
    ids = index["id"].combine_chunks()
    table = pa.concat_tables([table.filter(pc.is_in(table["id"], ids)) for table in tables])
    return rows_of(table.filter(_among(table["id"], table["sha256"], index)))


def _places_now(index: pa.Table, rows: Sequence[Row], images: Images) -> list[tuple[int | None, bool]]:
    """Per sample of the shard: the row it is now (None: it left), and whether its JSON is another one now."""
    by_id = {row.id: number for number, row in enumerate(rows)}
    told = index.select(["id", "sha256", "json_sha256"]).to_pylist()
    places = [by_id.get(sample["id"]) for sample in told]
    return [
        (place, place is not None and _json_sha256(rows[place], sample["sha256"], images) != sample["json_sha256"])
        for place, sample in zip(places, told, strict=True)
    ]


def _json_sha256(row: Row, sha256: str, images: Images) -> str:
    return hashlib.sha256(row.json(images.packed(row), sha256)).hexdigest()


def _again(
    stays: Sequence[tuple[int, int]],
    index: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    shard: HeldShard,
    images: Images,
) -> "Iterator[tuple[Row, Packed, bytes, str]]":
    """The samples that stay, their bytes from the shard itself, verified."""
    tar = join(shard.directory, shard.tar.path)
    ranges = [(tar, index[number]["offset"], index[number]["bytes"]) for number, _ in stays]
    for (number, place), data in zip(stays, read_ranges(ranges), strict=True):
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != index[number]["sha256"]:
            raise ChecksumMismatch(
                f"image {rows[place].id} in {tar} is not what its index promises. Pack again without base."
            )
        yield rows[place], images.packed(rows[place]), data, sha256
