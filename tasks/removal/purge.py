"""Making what the ledger names unreadable: no file below the root, but the ledger, holds its bytes or its vectors.

A run after a removal drops what the ledger names and makes everything behind that drop anew (`tasks.removal.ledger`).
What is left to do is here. Each folder below root/stages and root/datasets is one of three kinds:

- **superseded**: no kept manifest was made of it. It is deleted if it holds a removed image: one of its tables has the
  id, or it has no table with ids and was made of a folder that holds one. Half-done folders (no manifest) that nobody
  keeps are deleted without a look: what is in them cannot be told.
- **kept, before the drop** (download, filters, hash dedup): the image's bytes in its tars become zeros, in a tar of
  the same offsets; its row stays as a tombstone (`removed`, detail = the entry), so that a stage that is made anew
  passes it over; its rows are cut out of the thumbnails and hashes that a later crawl is compared with, the others'
  left in their order (`tasks.removal.looks`); files that no manifest names (scratch) and the receipts are deleted.
- **kept, behind the drop**: has no kept row of the image. If it has one and vectors or shards besides, the run did not
  know the ledger yet, and StillHeld says to run it again first.

Reports (root/runs/*/*.html) show pictures and are deleted; the flow writes that of the kept run again. Files outside
the root (a curated source that is read where it lies) are listed, never touched. What is of all images together (the
PCA of the hashes, whitening, centroids) stays. What left the root is out of reach: copies of the dataset, weights
trained on it, thumbnails in the Prefect server's artifacts.

Killed anywhere, it can be run again: tars keep their size and are zeroed again; a rewritten table gets a new name that
the manifest takes up in one write, after all else in its folder; of a deleted folder the manifest goes first, and what
is left of it is half done. Nothing else may write below the root meanwhile.

What the kept runs' hash deduplication has dropped as a copy of a removed image goes with it: it is in no dataset, and
shows the same. Any other copy stays, such as a larger one in whose favour the named one had been dropped: an image that
the ledger names by URL alone may lie in the pool under another URL too. Name its hash to take out every copy.

Cost: reads the ids, URLs and hashes of all tables below the root twice, in parts on the cluster, and writes the tars
and the thumbnails that hold a removed image once.
"""

import dataclasses
import hashlib
import os
import posixpath
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.core import url_to_fs

from storage.filesystem import exists, file_sha256, is_url, join
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, load_manifest, save_manifest
from storage.overwrite import Place, overwrite
from storage.tables import read_table, write_table
from tasks.hashing.names import MARK
from tasks.removal.holdings import Removed
from tasks.removal.ledger import REMOVED, Ledger
from tasks.removal.looks import cut, is_for_later
from tasks.removal.plan import PurgePlan, is_below, plan_purge


def purge(layout: Layout, keep: Sequence[Manifest], ledger: Ledger) -> PurgePlan:
    """Do what `plan_purge` says, and return it. Raises StillHeld before anything is touched."""
    plan = plan_purge(layout, keep, ledger)
    for path in (*plan.folders, *plan.tars, *plan.tables, *plan.looks, *plan.files):
        _check_below(path, layout)
    for tar, places in plan.tars.items():
        zero_places(tar, places)
    for path in plan.files:  # while the tables still tell that their folders hold the image
        _delete(path)
    for folder in plan.touched:
        _rewrite_manifest(folder, plan)
    for path in plan.folders:
        _delete_folder(path)
    return plan


def zero_places(tar: str, places: Sequence[Place]) -> None:
    """The tar again, these places of it zeros, in place of the old one; nothing is written if they are."""
    overwrite(tar, places, lambda place: bytes(place[1]))


def _rewrite_manifest(folder: str, plan: PurgePlan) -> None:
    """New checksums of zeroed tars, tombstones and thumbnails with rows cut out under new names; the manifest takes
    them up in one write, then the old ones are deleted: tables last, for they tell that the others hold the image."""
    manifest = load_manifest(folder)
    looks = {path: order for path, order in plan.looks.items() if posixpath.dirname(path) == folder}
    replaced = cut(looks, plan.removed, _mark(plan.removed))
    marked, gone = 0, set(plan.files)
    entries = []
    for entry in manifest.files:
        path = join(folder, entry.path)
        if path in gone or (is_for_later(entry.path) and not exists(path)):
            continue  # the second: deleted by a purge that was killed
        if path in plan.tars:
            size, sha256 = file_sha256(path)
            entry = dataclasses.replace(entry, bytes=size, sha256=sha256)
        elif path in plan.tables:
            replaced[path], rows = _tombstones(path, plan.removed)
            marked += rows
        entries.append(replaced.get(path, entry))
    manifest.files = tuple(entries)
    if marked:
        drops = {**manifest.drops, REMOVED: manifest.drops.get(REMOVED, 0) + marked}
        manifest.rows_kept, manifest.drops = manifest.rows_kept - marked, dict(sorted(drops.items()))
    save_manifest(manifest)
    for path in sorted(replaced, key=lambda path: (path.endswith(".parquet"), path)):
        _delete(path)


def _mark(removed: Removed) -> str:
    """What tells files that were written without these images from those that were written without others."""
    return hashlib.sha256("".join(sorted(removed)).encode()).hexdigest()[:8]


def _tombstones(path: str, removed: Removed) -> tuple[FileEntry, int]:
    """The table under a new name with the kept rows of removed images marked, and how many those are."""
    table = read_table(path)
    ids, entries = pa.array(list(removed), pa.string()), pa.array(list(removed.values()), pa.string())
    named = entries.take(pc.index_in(table["id"].combine_chunks(), value_set=ids))
    hit = pc.and_(pc.is_valid(named), pc.is_null(table["drop"]))
    for name, value in (("drop", pa.scalar(REMOVED)), ("detail", named)):
        column = table.schema.get_field_index(name)
        table = table.set_column(column, table.schema.field(column), pc.if_else(hit, value, table[name]))
    stem = path.removesuffix(".parquet").partition(MARK)[0]
    return write_table(f"{stem}{MARK}{_mark(removed)}.parquet", table), int(pc.sum(hit).as_py() or 0)


def _check_below(path: str, layout: Layout) -> None:
    """Raises ValueError for what is not below the root, links followed."""
    real, root = (path, layout.root) if is_url(path) else (os.path.realpath(path), os.path.realpath(layout.root))
    if not is_below(path, layout) or not is_below(real, Layout(root)):
        raise ValueError(f"{path} is not below the root {layout.root} (it leads to {real}): nothing was touched")


def _delete(path: str) -> None:
    """A file, or a folder with all that is in it; what is gone already is well."""
    filesystem, inner = url_to_fs(path)
    if filesystem.exists(inner):
        filesystem.rm(inner, recursive=filesystem.isdir(inner))


def _delete_folder(path: str) -> None:
    """The manifest first: what a killed purge leaves of the folder is half done, and the next one deletes it."""
    _delete(join(path, "manifest.json"))
    _delete(path)
