"""Rows of removed images cut out of what hash deduplication compares by: thumbnails, PDQ hashes, features, hashes.

A later crawl is compared with these, so what is left must be left in its order: row i of each of a part's files stays
the same image. The order is told by the part's table of hashes, where the folder has one, else by the kept rows of its
table of verdicts (`screen` makes looks of the images that it keeps).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystem import join
from storage.manifest import FileEntry, Manifest
from storage.tables import kept, read_table, write_table
from tasks.hashing.looks import load_array, write_array
from tasks.hashing.names import HASHES, LookFile, look_file, look_files
from tasks.removal.holdings import Holding, Removed

_FOR_LATER = ("thumbnails-", f"{HASHES}-")
_FORMER = ".thumbnails.npy"  # what early versions called them


def is_for_later(name: str) -> bool:
    """Whether a file is only there for a later crawl, or a later stage, to save work by."""
    return name.startswith(_FOR_LATER) or name.endswith(_FORMER)


def is_order(path: str) -> bool:
    """Whether a table is one of hashes: whoever is in it has a row in the files beside it."""
    found = look_file(path.rpartition("/")[2])
    return found is not None and found.is_hashes


def cuttable(manifest: Manifest, holdings: Mapping[str, Holding]) -> dict[str, str]:
    """Each file of looks in a stage's folder, by path, and the table that tells the order of its rows.

    {} where that cannot be told (files of an early version; numbers of rows that do not agree): these are no use, and
    are deleted.
    """
    rows = {entry.path: entry.rows for entry in manifest.files}
    looks = look_files(rows)
    parts = manifest.paths(".parquet")
    tables: dict[int, tuple[str, int]] = {
        number: (path, holdings[path].num_kept) for number, path in enumerate(parts) if path in holdings
    }
    tables |= {one.part: (join(manifest.directory, one.name), rows[one.name]) for one in looks if one.is_hashes}
    whole = all(one.part in tables and tables[one.part][1] == rows[one.name] for one in looks)
    if not whole or len(looks) != sum(map(is_for_later, rows)):
        return {}
    return {join(manifest.directory, one.name): tables[one.part][0] for one in looks}


def to_cut(orders: Mapping[str, str], holdings: Mapping[str, Holding]) -> dict[str, str]:
    """Those of `cuttable` that hold a removed image."""
    return {
        path: order
        for path, order in orders.items()
        if (holdings[order].ids if is_order(order) else holdings[order].kept)
    }


def cut(paths: Mapping[str, str], removed: Removed, mark: str) -> dict[str, FileEntry]:
    """Each of these files (with the table of its order) without the rows of removed images, under a name with `mark`.

    The old ones stay: who takes up the new ones deletes them. Memory: one file.
    """
    by_order: defaultdict[str, list[str]] = defaultdict(list)
    for path, order in paths.items():
        by_order[order].append(path)
    return {
        path: entry
        for order, files in by_order.items()
        for path, entry in _cut_part(order, files, removed, mark).items()
    }


def _cut_part(order: str, paths: Sequence[str], removed: Removed, mark: str) -> dict[str, FileEntry]:
    ids = (read_table(order, ["id"]) if is_order(order) else kept(read_table(order, ["id", "drop"])))["id"]
    stays = pc.invert(pc.is_in(ids, value_set=pa.array(list(removed), pa.string())))
    places = np.flatnonzero(stays.to_numpy())
    entries: dict[str, FileEntry] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        target = join(folder, _named(name).marked(mark))
        if path.endswith(".parquet"):
            entries[path] = write_table(target, read_table(path).take(places))
        else:
            entries[path] = write_array(target, load_array(path)[places])
    return entries


def _named(name: str) -> LookFile:
    found = look_file(name)
    if found is None:
        raise ValueError(f"{name!r} is no file of looks")
    return found
