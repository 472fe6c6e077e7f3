"""What was taken out, for good: an append-only ledger below the root, and the stage that keeps it out.

    root/ledger/<date>-<hash>.json      one file per batch of entries, written once, never changed

An entry names a URL, a domain (with its subdomains), an image's id, or a hash of its file (SHA-256, MD5) or of its
picture (the 16 hex digits in hash_dedup's tables: they mean the same picture only under the same PCA file, or with
method phash). `drop_removed` marks what the ledger names, `removal.purge` makes it unreadable. Every run reads the
ledger again, and what it names is refused by URL before it is fetched and by hash after, so that it never comes back.

A removed image that comes again is kept out by what its entry names, and by nothing else:

- by URL or domain: it is refused before a request is made.
- by a file's hash: a later crawl does fetch it again, from another address or from the old one, for a file's hash is
  known once the file is there. `drop_removed` then drops it, before anything is described, shown or packed; its bytes
  lie in that crawl's `download` until the next purge. By the hash of its picture: the same, for re-encoded files too.
- as a copy (another address, other bytes) of what was named by URL alone: it comes in. No crawl is compared with a
  removed image any more, nor with the copies that were dropped in its favour, which go with it: nothing of either is
  left to compare with, and who asked for one address did not speak of another. Name the picture's hash to keep out all.

Memory: about 200 bytes per entry, in every worker that matches. Cost: linear in rows; a domain costs a hash per label
of each distinct host.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError
from storage.filesystem import exists, join, list_files, read_bytes, write_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import count_drops, kept, read_table, write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task
from tasks.web.domains import DomainSet, build_domain_set
from tasks.web.urls import ascii_domain, name_url, registered_domain

VERSION = 1
REMOVED = "removed"
"""Drop reason of what the ledger names; `detail` is the entry, "kind:value"."""
FORMAT = 1
Kind = Literal["url", "domain", "id", "sha256", "md5", "pca_hash"]
_HEX = {"id": 24, "sha256": 64, "md5": 32, "pca_hash": 16}
_MATCHED_BY: dict[str, tuple[Kind, ...]] = {
    "id": ("id", "url"),  # a URL's id is a hash of it: found also where the URL itself is not stored
    "url": ("url", "domain"),
    "final_url": ("url", "domain"),
    "sha256": ("sha256",),
    "md5": ("md5",),
    "hash": ("pca_hash",),
}
"""Column -> the kinds of entries that are looked for in it."""
MATCHED_COLUMNS = tuple(_MATCHED_BY)
_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_HOST = r"^https?://(?P<host>\[[^\]]*\]|[^/:?#]+)"


class BadEntry(ValueError):
    """Something that no ledger can name."""


class DamagedLedger(StorageError):
    """A file of the ledger that cannot be read: nothing may run as if it were not there."""


@dataclass(frozen=True)
class Entry:
    """One thing that was taken out, why, and when (ISO date)."""

    kind: Kind
    value: str
    reason: str
    date: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"


def new_entry(kind: str, value: str, *, reason: str, date: str) -> Entry:
    """An entry with its value in the one form that matches: canonical URL, ASCII domain, lower-case hex.

    Raises BadEntry for what is none.
    """
    text = value.strip()
    if kind == "url":
        name = text if text.startswith("collection://") else name_url(text).url
    elif kind == "domain":
        name = _checked_domain(text)
    elif kind in _HEX:
        name = text.lower() if re.fullmatch(rf"[0-9a-fA-F]{{{_HEX[kind]}}}", text) else None
    else:
        raise BadEntry(f"no kind {kind!r} of entry: give one of {', '.join(get_args(Kind))}")
    if not name:
        wanted = f"{_HEX[kind]} hex digits" if kind in _HEX else f"a {kind}"
        raise BadEntry(f"{value!r} is not {wanted}: correct it, nothing was written")
    return Entry(kind, name, reason, date)  # type: ignore[arg-type]


def _checked_domain(text: str) -> str | None:
    """A domain that someone owns; None for what is none. Raises BadEntry for a suffix under which all register."""
    host = ascii_domain(text)
    if not _DOMAIN.fullmatch(host):
        return None
    if registered_domain(f"x.{host}") == f"x.{host}":
        raise BadEntry(f"{text!r} is a public suffix: it would take out every site below. Name the sites.")
    return host


def hash_entry(value: str, *, reason: str, date: str) -> Entry:
    """An entry for a hash, its kind told by its length: 64 SHA-256, 32 MD5, 16 hash of the picture."""
    kinds = {length: kind for kind, length in _HEX.items() if kind != "id"}
    if len(value.strip()) not in kinds:
        raise BadEntry(f"{value!r} is no hash: give SHA-256 (64 hex digits), MD5 (32) or the picture's hash (16)")
    return new_entry(kinds[len(value.strip())], value, reason=reason, date=date)


def entries_of(
    *,
    urls: Iterable[str] = (),
    domains: Iterable[str] = (),
    ids: Iterable[str] = (),
    hashes: Iterable[str] = (),
    reason: str,
    date: str,
) -> list[Entry]:
    """One batch of what a person names. Raises BadEntry for the first thing that names nothing; nothing is written."""
    named = [("url", urls), ("domain", domains), ("id", ids)]
    entries = [new_entry(kind, value, reason=reason, date=date) for kind, values in named for value in values]
    return entries + [hash_entry(value, reason=reason, date=date) for value in hashes]


def append_entries(layout: Layout, entries: Sequence[Entry]) -> str:
    """Write one batch; returns its file. The same batch again is the same file: nothing is written twice."""
    if not entries:
        raise BadEntry("an empty batch: name at least one URL, domain, id or hash")
    data = json.dumps({"format": FORMAT, "entries": [asdict(entry) for entry in entries]}, sort_keys=True).encode()
    path = join(_folder(layout), f"{entries[0].date}-{hashlib.sha256(data).hexdigest()[:16]}.json")
    if not exists(path):
        write_bytes(path, data)
    return path


def load_ledger(layout: Layout) -> "Ledger":
    """All entries of a root, in the order of their files. Raises DamagedLedger; no ledger is an empty one."""
    entries: list[Entry] = []
    for path in list_files(join(_folder(layout), "*.json")):
        try:
            content = json.loads(read_bytes(path))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
            entries += [new_entry(**entry) for entry in content["entries"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedLedger(
                f"{path} cannot be read: {error}. Restore it from a copy before you run again."
            ) from error
    return Ledger(tuple(entries))


def _folder(layout: Layout) -> str:
    return join(layout.root, "ledger")


@dataclass(frozen=True)
class Ledger:
    """Entries, ready to be matched against tables."""

    entries: tuple[Entry, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def identity(self) -> str:
        """Hex SHA-256 of what is named, whatever the order, the reasons and the dates: an input of stages."""
        return hashlib.sha256("\n".join(sorted({str(entry) for entry in self.entries})).encode()).hexdigest()

    def match(self, table: pa.Table) -> pa.ChunkedArray:
        """For each row the entry that names it ("kind:value"), or null; looks at the MATCHED_COLUMNS it has."""
        found = pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
        for column in (name for name in MATCHED_COLUMNS if name in table.column_names):
            for kind in _MATCHED_BY[column]:
                hits = self._domain_hits(table[column]) if kind == "domain" else self._hits(kind, column, table[column])
                found = found if hits is None else pc.coalesce(found, hits)
        return found

    def _hits(self, kind: Kind, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray | None:
        known = self._values.get((kind, column == "id"))
        if known is None:
            return None
        names, entries = known
        return entries.take(pc.index_in(values.cast(pa.string()), value_set=names))

    def _domain_hits(self, urls: pa.ChunkedArray) -> pa.ChunkedArray | None:
        if not self._domains:
            return None
        hosts = pc.struct_field(pc.extract_regex(urls.cast(pa.string()), _HOST), "host")
        coded = hosts.combine_chunks().dictionary_encode()
        matched = self._domains.match([host or "" for host in coded.dictionary.to_pylist()])
        labels = pa.array([None if name is None else f"domain:{name}" for name in matched], pa.string())
        return pa.chunked_array([labels.take(coded.indices)])

    @cached_property
    def _domains(self) -> DomainSet:
        return build_domain_set([entry.value for entry in self.entries if entry.kind == "domain"])

    @cached_property
    def _values(self) -> dict[tuple[Kind, bool], tuple[pa.Array, pa.Array]]:
        """(kind, as an id?) -> the values that are looked for, and the entries they stand for."""
        by_key: dict[tuple[Kind, bool], dict[str, str]] = {}
        for entry in self.entries:
            by_key.setdefault((entry.kind, entry.kind == "id"), {})[entry.value] = str(entry)
            if entry.kind == "url" and not entry.value.startswith("collection://"):
                by_key.setdefault(("url", True), {})[name_url(entry.value).id] = str(entry)
        return {
            key: (pa.array(list(values), pa.string()), pa.array(list(values.values()), pa.string()))
            for key, values in by_key.items()
        }


class Removal(StageConfig):
    """Nothing to choose: the ledger decides."""


@stage_task(name="drop_removed", task_run_name="{name}")
def drop_removed(
    records: Manifest, ledger: Ledger, layout: Layout, name: str, *, history: Mapping[str, Manifest] | None = None
) -> Manifest:
    """The kept rows of a stage, those that the ledger names dropped (`removed`, detail = the entry), part by part.

    For URLs (before they are fetched) as for images. `history` are earlier stages of the same records, part i beside
    part i: what only they know (MD5, the file before its faces were blurred, where redirects led) is looked for too.
    """
    history = history or {}
    inputs = {"records": records, **history}
    stage = Stage(
        name, version=VERSION, config=Removal(), inputs=inputs, layout=layout, also={"ledger": ledger.identity}
    )
    if stage.finished:
        return stage.reuse()
    paths = records.paths(".parquet")
    past = [manifest.paths(".parquet") for manifest in history.values()]
    work = [{"part": path, "history": [paths_[number] for paths_ in past]} for number, path in enumerate(paths)]
    return stage.publish(stage.map(drop_removed_part, work, ledger=ledger))


def drop_removed_part(work: Mapping[str, Any], out: str, *, ledger: Ledger) -> Outcome:
    """One part of it."""
    past = (_known_columns(path) for path in work["history"])
    table = split_removed(kept(read_table(work["part"])), ledger, past)
    drops = count_drops(table)
    entry = write_table(f"{out}.parquet", table)
    return Outcome(table.num_rows, table.num_rows - sum(drops.values()), drops, [entry])


def _known_columns(path: str) -> pa.Table:
    table = read_table(path)
    return table.select([name for name in MATCHED_COLUMNS if name in table.column_names])


def split_removed(table: pa.Table, ledger: Ledger, history: Iterable[pa.Table] = ()) -> pa.Table:
    """The rows, those that the ledger names marked: by their own columns, or by a row of their id in `history`."""
    entries = ledger.match(table)
    for past in history:
        named = ledger.match(past)
        hits = past["id"].filter(pc.is_valid(named)).combine_chunks()
        told = named.drop_null().combine_chunks()
        entries = pc.coalesce(entries, told.take(pc.index_in(table["id"].combine_chunks(), value_set=hits)))
    hit = pc.is_valid(entries)
    for name, value in (("drop", pa.scalar(REMOVED)), ("detail", entries)):
        column = table.schema.get_field_index(name)
        table = table.set_column(column, table.schema.field(column), pc.if_else(hit, value, table[name]))
    return table
