"""What single tables know of images that are taken out: which rows the ledger names, and where bytes of them lie."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.filesystem import open_read
from tasks.removal.ledger import MATCHED_COLUMNS, Ledger
from tasks.workers import map_parts

Removed = Mapping[str, str]
"""Id of a removed image -> the entry that names it, or that names the image it was dropped as a copy of."""
_COPY = "hash_duplicate"


@dataclass(frozen=True)
class Holding:
    """What one table knows of removed images: the ids of its rows, of its kept rows, and where bytes of them lie."""

    ids: frozenset[str]
    kept: frozenset[str]  # none in a table without verdicts
    places: tuple[tuple[str, int, int], ...]  # image_file, offset, bytes
    num_kept: int = 0  # of all its images


def mapped(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """function(*call) for every call, on the cluster. Raises what the first that failed raised."""
    results, failures = map_parts(function, calls)
    if failures:
        raise failures[min(failures)]
    return results


def find_removed(path: str, ledger: Ledger) -> dict[str, str]:
    """Ids of a table's rows that the ledger names, and the entry; {} for a table without ids."""
    table = read_columns(path, MATCHED_COLUMNS)
    if "id" not in table.column_names:
        return {}
    entries = ledger.match(table)
    hit = pc.is_valid(entries)
    return dict(zip(table["id"].filter(hit).to_pylist(), entries.filter(hit).to_pylist(), strict=True))


def with_copies(removed: Removed, judged: Sequence[str]) -> dict[str, str]:
    """The removed images, and those that these tables of hash deduplication say were dropped as copies of one of them,
    or of such a copy. Cost: reads two columns of the tables once more than such chains are long (they are not)."""
    found, news = dict(removed), dict(removed)
    while news:
        copies = mapped(_copies_of, [(path, news) for path in judged])
        news = {name: entry for one in copies for name, entry in one.items() if name not in found}
        found |= news
    return found


def _copies_of(path: str, removed: Removed) -> dict[str, str]:
    table = read_columns(path, ("id", "drop", "other"))
    if table.num_columns < 3:
        return {}
    hit = pc.and_(pc.equal(table["drop"], _COPY), pc.is_in(table["other"], pa.array(list(removed), pa.string())))
    rows = table.filter(hit).select(["id", "other"]).to_pylist()
    return {row["id"]: removed[row["other"]] for row in rows}


def holding_of(path: str, removed: frozenset[str]) -> Holding:
    """What a table knows of these ids."""
    table = read_columns(path, ("id", "drop", "image_file", "image_offset", "image_bytes"))
    if "id" not in table.column_names:
        return Holding(frozenset(), frozenset(), ())
    num_kept = table["drop"].null_count if "drop" in table.column_names else 0
    rows = table.filter(pc.is_in(table["id"], pa.array(sorted(removed)))).to_pylist()
    places = [
        (row["image_file"], row["image_offset"], row["image_bytes"])
        for row in rows
        if row.get("image_file") is not None
    ]
    kept = frozenset(row["id"] for row in rows if row.get("drop", "") is None)
    return Holding(frozenset(row["id"] for row in rows), kept, tuple(places), num_kept)


def read_columns(path: str, names: Iterable[str]) -> pa.Table:
    """Those of these columns that a table has."""
    with open_read(path) as file:
        parquet = pq.ParquetFile(file)
        return parquet.read([name for name in names if name in parquet.schema_arrow.names])
