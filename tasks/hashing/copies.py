"""Which hashed images are copies of which: equal hashes first, in passes that bound the memory, then near ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.tables import read_table
from tasks.algorithms.hamming import first_keepers, near_pairs
from tasks.algorithms.pca_hash import correlations, verified_groups
from tasks.hashing.looks import load_rows

HASHED = pa.schema(
    [
        ("id", pa.string()),
        ("hash", pa.uint64()),  # what equal images have equal: the hash, or 64 bits made of a longer one
        ("bits", pa.binary()),  # the hash itself, most significant byte first
        ("hashed", pa.bool_()),
        ("num_pixels", pa.int64()),
        ("crawl_date", pa.string()),
    ]
)
COPIES = pa.schema([("part", pa.int64()), ("id", pa.string()), ("other", pa.string()), ("value", pa.float32())])
# Most pixels, then what an earlier crawl has, then earliest date (null last), then smallest id.
PREFERENCE = [("num_pixels", "descending"), ("new", "ascending"), ("crawl_date", "ascending"), ("id", "ascending")]
_ROUNDING = 1e-9
_BLOCK_PAIRS = 100_000


@dataclass(frozen=True)
class Hashed:
    """The images of one part: their table of HASHED, and their thumbnails [images, pixels], in one order."""

    table: str
    thumbnails: str
    new: bool = True
    """False for a part of an earlier crawl."""
    removed: frozenset[str] = frozenset()
    """Ids that count no more: of images that were taken out since."""

    def counting(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these places whose image still counts."""
        if not self.removed or not len(places):
            return places
        ids = read_table(self.table, ["id"])["id"].take(places)
        gone = pc.is_in(ids, value_set=pa.array(sorted(self.removed), pa.string()))
        return np.asarray(places[~gone.to_numpy()])

    def rows(self, number: int, places: NDArray[np.int64]) -> pa.Table:
        """Some of its images: their table with the columns part (`number`), place and new."""
        table = read_table(self.table).take(places)
        for name, column in (("part", np.full(len(places), number)), ("place", places)):
            table = table.append_column(name, pa.array(column))
        return table.append_column("new", pa.array(np.full(len(places), int(self.new))))


def find_copies(
    parts: Sequence[Hashed], *, min_correlation: float, images_per_pass: int, max_distance: int = 0
) -> pa.Table:
    """Every image that is a copy: its part, its id, its keeper's id, their correlation; sorted by part and id.

    Memory: 30 bytes per image of one pass (`images_per_pass`), and 1 KB for each that shares its hash. With
    `max_distance`, beside that, for the images that are left: 130 bytes each (150 with 256-bit hashes), and 1 KB for
    each that is near another.
    """
    rows = sum(read_table(part.table, ["hashed"]).num_rows for part in parts)
    passes = max(1, -(-rows // images_per_pass))
    found = [_copies_of_pass(parts, number, passes, min_correlation) for number in range(passes)]
    copies = pa.concat_tables([COPIES.empty_table(), *found])
    if max_distance:
        near = _near_copies(parts, copies, min_correlation, max_distance)
        copies = pa.concat_tables([_follow(copies, near), near])
    return copies.sort_by([("part", "ascending"), ("id", "ascending")])


def _copies_of_pass(parts: Sequence[Hashed], number: int, passes: int, min_correlation: float) -> pa.Table:
    """Copies among the images whose hash, modulo the number of passes, is this one's."""
    hashes = (_column(part.table, "hash") for part in parts)
    mine = [np.zeros(0, np.uint64), *(part[part % np.uint64(passes) == number] for part in hashes)]
    values, counts = np.unique(np.concatenate(mine), return_counts=True)
    shared = values[counts > 1]
    places = [part.counting(np.flatnonzero(np.isin(_column(part.table, "hash"), shared))) for part in parts]
    if not any(map(len, places)):
        return COPIES.empty_table()
    group, pixels = _gather(parts, places)
    keeper, correlation = verified_groups(group["hash"].to_numpy(), pixels, min_correlation=min_correlation)
    return _copies(group, keeper, correlation)


def _near_copies(parts: Sequence[Hashed], exact: pa.Table, min_correlation: float, max_distance: int) -> pa.Table:
    """Copies among the images that no equal hash has made copies."""
    gone = set(zip(exact["part"].to_pylist(), exact["id"].to_pylist(), strict=True))
    left = pa.concat_tables([_left_of_part(part, number, gone) for number, part in enumerate(parts)])
    if left.num_rows < 2:
        return COPIES.empty_table()
    left = left.take(pc.sort_indices(left, PREFERENCE))
    bits = np.frombuffer(b"".join(left["bits"].to_pylist()), np.uint8).reshape(left.num_rows, -1)
    pairs = near_pairs(bits, max_distance=max_distance)
    correlation = np.concatenate([np.zeros(0), *_pair_correlations(parts, left, pairs.first, pairs.second)])
    keeper = first_keepers(left.num_rows, pairs, correlation >= min_correlation - _ROUNDING)
    value = np.ones(left.num_rows)
    chosen = keeper[pairs.second] == pairs.first
    value[pairs.second[chosen]] = np.minimum(correlation[chosen], 1.0)
    return _copies(left, keeper, value)


def _left_of_part(part: Hashed, number: int, gone: set[tuple[int, str]]) -> pa.Table:
    """The hashed images of a part that are no copies yet, with their place in it."""
    table = read_table(part.table, ["id", "hashed"])
    stays = np.array([(number, name) not in gone for name in table["id"].to_pylist()], bool)
    places = np.flatnonzero(stays & table["hashed"].to_numpy(zero_copy_only=False))
    return part.rows(number, part.counting(places))


def _pair_correlations(
    parts: Sequence[Hashed], left: pa.Table, first: NDArray[np.int64], second: NDArray[np.int64]
) -> Iterator[NDArray[np.float64]]:
    """Correlation of the thumbnails of each pair of rows of `left`."""
    rows = np.unique(np.concatenate([first, second]))
    part, place = left["part"].to_numpy()[rows], left["place"].to_numpy()[rows]
    pixels: NDArray[np.uint8] | None = None
    for number in np.unique(part).tolist():
        mine = np.flatnonzero(part == number)
        loaded = load_rows(parts[number].thumbnails, place[mine])
        pixels = np.empty((len(rows), loaded.shape[1]), np.uint8) if pixels is None else pixels
        pixels[mine] = loaded
    for start in range(0, len(first), _BLOCK_PAIRS):
        one, other = (np.searchsorted(rows, side[start : start + _BLOCK_PAIRS]) for side in (first, second))
        if pixels is not None:
            yield correlations(pixels[one], pixels[other])


def _gather(parts: Sequence[Hashed], places: Sequence[NDArray[np.int64]]) -> tuple[pa.Table, NDArray[np.uint8]]:
    """The rows at these places of each part, and their thumbnails, in order of preference."""
    members = [(part, place) for part, place in enumerate(places) if len(place)]
    group = pa.concat_tables(parts[part].rows(part, place) for part, place in members)
    pixels = np.concatenate([load_rows(parts[part].thumbnails, place) for part, place in members])
    order = pc.sort_indices(group, PREFERENCE).to_numpy()
    return group.take(order), pixels[order]


def _copies(group: pa.Table, keeper: NDArray[np.int64], value: NDArray[np.float64]) -> pa.Table:
    copies = np.flatnonzero(keeper != np.arange(len(keeper)))
    columns = [
        group["part"].take(copies), group["id"].take(copies), group["id"].take(keeper[copies]),
        pa.array(value[copies], pa.float32()),
    ]  # fmt: skip
    return pa.table(columns, schema=COPIES)


def _follow(copies: pa.Table, near: pa.Table) -> pa.Table:
    """Copies whose keeper has become a copy itself belong to that one's keeper."""
    moved = dict(zip(near["id"].to_pylist(), near["other"].to_pylist(), strict=True))
    others = pa.array([moved.get(other, other) for other in copies["other"].to_pylist()], pa.string())
    return copies.set_column(copies.schema.get_field_index("other"), COPIES.field("other"), others)


def _column(path: str, name: str) -> NDArray[Any]:
    return np.asarray(read_table(path, [name])[name].to_numpy())
