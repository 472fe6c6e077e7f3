"""What a purge would do: which folders below the root hold a removed image, and what becomes of each of them."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from storage.filesystem import exists, file_sizes, join, list_files
from storage.layout import Layout
from storage.manifest import Manifest, load_manifest
from tasks.removal.holdings import Holding, Removed, find_removed, holding_of, mapped, read_columns, with_copies
from tasks.removal.ledger import Ledger
from tasks.removal.looks import cuttable, is_for_later, is_order, to_cut

_BASE = "base"
_TRAINED = ("pretrain", "evaluate")
_HASHED = "hash_dedup"


class StillHeld(RuntimeError):
    """A kept stage holds a removed image where it cannot be cut out: the run that made it did not know the ledger."""


@dataclass(frozen=True)
class PurgePlan:
    """What a purge does, all of it below the root; `lines` tells it to a person."""

    removed: Removed
    folders: tuple[str, ...] = ()
    """Folders that are deleted whole."""
    tars: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Tars in kept folders, and the (offset, bytes) in them that become zeros."""
    tables: tuple[str, ...] = ()
    """Tables in kept folders whose rows of removed images become tombstones."""
    looks: Mapping[str, str] = field(default_factory=dict)
    """Thumbnails and hashes in kept folders out of which their rows are cut, and the table that tells the order."""
    files: tuple[str, ...] = ()
    """Other files and folders that are deleted: what no manifest names, receipts, reports."""
    outside: tuple[str, ...] = ()
    """Files outside the root that hold a removed image, left alone."""
    trained: tuple[str, ...] = ()
    """Trainings on a dataset that held one, left alone: their weights hold no image."""
    num_copies: int = 0
    """How many of `removed` the ledger does not name: hash deduplication had dropped them as copies of what it does."""

    @property
    def touched(self) -> tuple[str, ...]:
        """Folders that are kept, and whose manifests change."""
        return tuple(sorted({posixpath.dirname(path) for path in (*self.tars, *self.tables, *self.looks)}))

    def lines(self) -> Iterator[str]:
        """One line for each thing that is or would be done."""
        named = f"{len(self.removed) - self.num_copies} images are named by the ledger"
        yield f"{named}, and {self.num_copies} were dropped as copies of them" if self.num_copies else named
        yield from (f"delete folder {path}" for path in self.folders)
        yield from (f"zero {sum(size for _, size in places):,} bytes in {tar}" for tar, places in self.tars.items())
        yield from (f"mark rows in {path}" for path in self.tables)
        yield from (f"cut rows out of {path}" for path in self.looks)
        yield from (f"delete {path}" for path in self.files)
        yield from (f"outside the root, NOT touched: {path}" for path in self.outside)
        yield from (f"trained on it, NOT touched: {path}" for path in self.trained)


@dataclass(frozen=True)
class Folder:
    """One folder of a stage or a dataset."""

    path: str
    is_kept: bool

    @property
    def is_trained(self) -> bool:
        """Weights and scores hold no image; whether they may stay is not for a purge to say."""
        return posixpath.basename(posixpath.dirname(self.path)) in _TRAINED

    @cached_property
    def manifest(self) -> Manifest | None:
        """None for a half-done one."""
        return load_manifest(self.path) if exists(join(self.path, "manifest.json")) else None

    @property
    def is_behind(self) -> bool:
        """Whether it is of a stage behind the drop: it has vectors of images, or images in shards."""
        arrays = self.manifest.paths(".npy") if self.manifest else []
        return self.is_packed or not all(is_for_later(posixpath.basename(path)) for path in arrays)

    @property
    def is_packed(self) -> bool:
        """Whether it is of a stage whose rows are those of shards."""
        return self.manifest is not None and self.manifest.stage in ("pack", "shuffle")

    @cached_property
    def tables(self) -> list[str]:
        """All its Parquet files, whether a manifest names them or not."""
        return [join(self.path, name) for name in sorted(file_sizes(self.path)) if name.endswith(".parquet")]

    @cached_property
    def unnamed(self) -> list[str]:
        """Files that its manifest does not promise."""
        promised = {entry.path for entry in self.manifest.files} if self.manifest else set()
        known = promised | {"manifest.json", "timing.json"}
        return [join(self.path, name) for name in sorted(file_sizes(self.path)) if name not in known]

    def holds_rows(self, holdings: Mapping[str, Holding]) -> bool:
        """Whether a removed image is kept in it, or has a hash or thumbnail there, be it in scratch that was left."""
        scratch = set(self.unnamed)
        return any(
            holdings[table].kept or (holdings[table].ids and (table in scratch or is_order(table)))
            for table in self.tables
        )


def plan_purge(layout: Layout, keep: Sequence[Manifest], ledger: Ledger) -> PurgePlan:
    """What `purge` would do; nothing is written. `keep`: the ends of the runs that stay (or all their manifests).

    Raises StillHeld when one of them holds a removed image as a vector or in a shard.
    """
    folders = _folders(layout, keep)
    tables = [table for folder in folders for table in folder.tables]
    named: dict[str, str] = {}
    for found in mapped(find_removed, [(table, ledger) for table in tables]):
        named = found | named
    if not named:
        return PurgePlan({})
    removed = named | _copies(named, [folder for folder in folders if folder.is_kept])
    holdings = dict(zip(tables, mapped(holding_of, [(table, frozenset(removed)) for table in tables]), strict=True))
    doomed = [folder for folder in folders if not folder.is_kept and _holds(folder, folders, holdings, layout, {})]
    staying = [folder for folder in folders if folder not in doomed]
    _check_kept(staying, holdings)
    holders = [folder for folder in staying if folder.holds_rows(holdings)]
    orders = {folder.path: cuttable(folder.manifest, holdings) for folder in holders if folder.manifest}
    tars, outside = _places(holdings.values(), staying, layout)
    return PurgePlan(
        removed,
        tuple(folder.path for folder in doomed),
        tars,
        tuple(t for folder in holders for t in folder.tables if holdings[t].kept and t not in folder.unnamed),
        {path: order for found in orders.values() for path, order in to_cut(found, holdings).items()},
        tuple(_leftovers(doomed, holders, tars, staying, layout, orders)),
        outside,
        tuple(folder.path for folder in staying if folder.is_trained and not folder.is_kept),
        len(removed) - len(named),
    )


def _copies(named: Removed, kept: Sequence["Folder"]) -> dict[str, str]:
    """What kept hash deduplications have dropped as copies of named images: they are gone from the set, and would show
    it still. Not those that another kept run, of other settings, has in its set by their own right."""
    judged = [path for one in kept if one.manifest and one.manifest.stage == _HASHED for path in one.tables]
    copies = {name: entry for name, entry in with_copies(named, judged).items() if name not in named}
    behind = [one for one in kept if one.is_behind] if copies else []
    held = mapped(holding_of, [(table, frozenset(copies)) for one in behind for table in one.tables])
    own = frozenset().union(*(one.ids for one in held))
    return {name: entry for name, entry in copies.items() if name not in own}


def _folders(layout: Layout, keep: Sequence[Manifest]) -> list[Folder]:
    chain = _chain(keep, layout)
    found = list_files(join(layout.root, "stages", "*", "*")) + list_files(join(layout.root, "datasets", "*"))
    return [Folder(path, path in chain) for path in found]


def _chain(keep: Sequence[Manifest], layout: Layout) -> set[str]:
    """Folders of these manifests and of all they were made of.

    Whatever another of them was made of is reached through that one, and not by being named itself: an earlier dataset
    that was gone on from (its role is "base") is superseded even if the caller names a run's whole ancestry.
    """
    used = {reference for manifest in keep for reference in manifest.inputs.values()}
    found: dict[str, Manifest] = {}
    waiting = [manifest for manifest in keep if manifest.reference not in used]
    while waiting:
        manifest = waiting.pop()
        found[manifest.directory] = manifest
        references = [reference for role, reference in manifest.inputs.items() if role != _BASE]
        waiting += [load_manifest(path) for path in (_place(r, layout) for r in references) if path not in found]
    return set(found)


def _place(reference: str, layout: Layout) -> str:
    stage, _, print_ = reference.partition("/")
    return layout.dataset(print_) if stage == "pack" else layout.stage(stage, print_)


def _holds(
    folder: Folder,
    folders: Sequence[Folder],
    holdings: Mapping[str, Holding],
    layout: Layout,
    known: dict[str, bool],
) -> bool:
    """Whether a superseded folder holds a removed image, as the module says."""
    if folder.path not in known:
        known[folder.path] = False
        if folder.is_trained:
            return False
        if folder.manifest is None or any(holdings[table].ids for table in folder.tables):
            known[folder.path] = True
        elif not any(_has_ids(table) for table in folder.tables):
            sources = {_place(reference, layout) for reference in folder.manifest.inputs.values()}
            known[folder.path] = any(
                any(holdings[table].ids for table in one.tables)
                or (not one.is_kept and _holds(one, folders, holdings, layout, known))
                for one in folders
                if one.path in sources
            )
    return known[folder.path]


def _has_ids(path: str) -> bool:
    return "id" in read_columns(path, ("id",)).column_names


def _check_kept(staying: Sequence[Folder], holdings: Mapping[str, Holding]) -> None:
    for folder in staying:
        if not folder.is_behind:
            continue
        held = [holdings[table].ids if folder.is_packed else holdings[table].kept for table in folder.tables]
        ids = sorted(set().union(*held))
        if ids:
            stage = posixpath.basename(posixpath.dirname(folder.path))
            raise StillHeld(
                f"{folder.path} ({stage}) still holds {len(ids)} removed images, {ids[0]} first. Run the flow "
                "again, so that it drops what the ledger names (take the file out of its folder if it belongs to a "
                "curated source), or do not keep this run; then purge."
            )


def _places(
    holdings: Iterable[Holding], staying: Sequence[Folder], layout: Layout
) -> tuple[dict[str, tuple[tuple[int, int], ...]], tuple[str, ...]]:
    """Where bytes of removed images lie: in tars of folders that stay, and outside the root."""
    inside: dict[str, set[tuple[int, int]]] = {}
    outside: set[str] = set()
    remaining = {folder.path for folder in staying}
    for holding in holdings:
        for file, offset, size in holding.places:
            path = layout.resolve(file)
            if not is_below(path, layout):
                outside.add(path)
            elif posixpath.dirname(path) in remaining and exists(path):
                inside.setdefault(path, set()).add((offset, size))
    return {path: tuple(sorted(places)) for path, places in sorted(inside.items())}, tuple(sorted(outside))


def _leftovers(
    doomed: Sequence[Folder],
    holders: Sequence[Folder],
    tars: Iterable[str],
    staying: Sequence[Folder],
    layout: Layout,
    orders: Mapping[str, Mapping[str, str]],
) -> Iterator[str]:
    """What is deleted beside whole folders."""
    for folder in doomed:
        yield from _existing(receipts_of(folder.path, layout))
    touched = {folder.path for folder in holders} | {posixpath.dirname(tar) for tar in tars}
    for folder in staying:
        if folder.path in touched:
            yield from folder.unnamed
            yield from _useless_looks(folder, orders.get(folder.path, {}))
            yield from _existing(receipts_of(folder.path, layout))
    yield from list_files(join(layout.root, "runs", "*", "*.html*"))


def _useless_looks(folder: Folder, orders: Mapping[str, str]) -> Iterator[str]:
    """Pictures and hashes of all images for later crawls to be compared with, whose order cannot be told."""
    for entry in folder.manifest.files if folder.manifest else ():
        if is_for_later(entry.path) and (path := join(folder.path, entry.path)) not in orders:
            yield from _existing(path)


def receipts_of(folder: str, layout: Layout) -> str:
    """The receipts of a stage's or a dataset's folder."""
    name = posixpath.basename(folder)
    parent = posixpath.basename(posixpath.dirname(folder))
    return layout.receipts("pack" if parent == "datasets" else parent, name)


def _existing(path: str) -> list[str]:
    return [path] if exists(path) else []


def is_below(path: str, layout: Layout) -> bool:
    """Whether a path lies below the root, by its name alone."""
    root = layout.root.rstrip("/") + "/"
    return path.startswith(root) and ".." not in path[len(root) :].split("/")
