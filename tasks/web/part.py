"""One part of a download, where a worker runs it: URLs in, a tar of original bytes and a table of rows out."""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from storage.errors import BadManifest
from storage.filesystem import read_bytes, write_bytes
from storage.images import FILE_EXTENSIONS
from storage.layout import Layout
from storage.manifest import FileEntry
from storage.samples import SampleWriter
from storage.tables import count_drops, kept, read_table, write_table
from tasks.news import Teller
from tasks.parts import Outcome
from tasks.web.engine import shared_engine
from tasks.web.fetch import FetchConfig, Fetched
from tasks.web.in_order import InOrder
from tasks.web.known_bad import HashList, KnownBad, load_known_bad
from tasks.web.late_hashes import LateHashes
from tasks.web.policy import Rules, judge_urls
from tasks.web.policy_config import UrlPolicy, policy_rules
from tasks.web.rows import CARRIED, Rows, Stored, merged, numbers_to_retry

KNOWN_BAD = "known_bad"
_MAY_PASS = (
    "connection", "dns", "http_408", "http_500", "http_502", "http_503", "http_504", "rate_limited", "timeout",
    "truncated",
)  # fmt: skip


class Download(FetchConfig):
    """How images are fetched: limits, politeness, what owners' wishes are honoured, what must not be kept."""

    known_bad: tuple[HashList, ...] = ()
    """Lists of known-bad files. A match is dropped as `known_bad`, never stored, and logged in the part's
    `known_bad.jsonl`."""
    md5: bool = True
    """Store every file's MD5 too, as lists of known-bad files that may come later want it; it is a tenth of the
    download's processor time, a third where such a list is given. SHA-256 is always stored."""
    only_failed_of: str | None = None
    """An earlier download of the same URLs ("download/<fingerprint>", or its first characters): what it has is taken
    over, and only what failed there for one of `retry_reasons` is fetched."""
    retry_reasons: frozenset[str] = frozenset(_MAY_PASS)
    """Drops of that earlier download that may have passed by now."""

    @model_validator(mode="after")
    def _hashes(self) -> "Download":
        if not self.md5 and any(one.kind == "md5" for one in self.known_bad):
            raise ValueError("known_bad names a list of MD5s, which are not computed: set md5, or leave the list out")
        return self


@dataclass
class _Bin:
    """Where one part's images go: the tar, the rows, and the log of what must not be kept."""

    todo: pa.Table
    tar: SampleWriter
    rows: Rows
    bad: KnownBad
    md5: bool
    late: LateHashes | None
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids: list[str] = self.todo["id"].to_pylist()

    def take(self, fetched: Fetched, body: bytes | None) -> None:
        """The next result: stored, or only written down."""
        number, stored, detail = len(self.rows), Stored(), None
        if body is None or fetched.info is None:
            self.rows.add(fetched, stored)
            return
        if self.bad:  # before it is stored anywhere
            stored.sha256 = hashlib.sha256(body).hexdigest()
            stored.md5 = hashlib.md5(body, usedforsecurity=False).hexdigest() if self.md5 else None
            detail = self.judge(self.todo.slice(number, 1).to_pylist()[0], fetched.final_url, stored, body)
        if detail is None:
            if self.late is not None:
                self.late.expect(number)
            extension = FILE_EXTENSIONS[fetched.info.format]
            stored.offset, stored.size = self.tar.add(self.ids[number], {extension: body})[extension]
        else:
            fetched.reason, fetched.detail = KNOWN_BAD, detail
        self.rows.add(fetched, stored)

    def judge(self, source: Mapping[str, Any], final_url: str | None, hashes: Stored, body: bytes) -> str | None:
        """What a file matches, logged; None when it is in no list."""
        match = self.bad.match(body, md5=hashes.md5 or "", sha256=hashes.sha256 or "")
        if match is None:
            return None
        named = {name: source[name] for name in ("id", "url", "page_url")}
        seen = {"final_url": final_url, "sha256": hashes.sha256, "md5": hashes.md5, **vars(match)}
        self.log.append({"when": datetime.now(UTC).isoformat(timespec="seconds"), **named, **seen})
        return f"{match.kind} in {posixpath.basename(match.list)}"


def download_part(
    part: Mapping[str, str | None],
    out: str,
    *,
    config: Download,
    policy: UrlPolicy,
    lists: str,
    root: str,
    bad_key: str = "",
    recheck: bool = False,
) -> Outcome:
    """One part of URLs → part.tar with the original bytes and part.parquet with a row per URL, in the part's order.

    `recheck`: the lists of known-bad files are not those that the earlier download went by.
    """
    layout = Layout(root)
    sources = kept(read_table(str(part["urls"]), ["id", "drop", *CARRIED])).drop_columns(["drop"])
    earlier = _rows_of(part["earlier"], sources) if part["earlier"] else None
    numbers = numbers_to_retry(earlier, sorted(config.retry_reasons)) if earlier is not None else None
    todo = sources.take(pa.array(numbers, pa.int64())) if numbers is not None else sources
    bad = load_known_bad(config.known_bad, bad_key)
    rows = Rows(layout.relative(f"{out}.tar"))
    late = None if bad else LateHashes(rows, md5=config.md5, num_images=todo.num_rows)  # else a file's hash comes first
    with SampleWriter(f"{out}.tar", late, past_cache=True) as tar:
        bin_ = _Bin(todo, tar, rows, bad, config.md5, late)
        with Teller(out, todo.num_rows) as teller:
            _fetch_all(todo, bin_, teller, config=config, policy=policy, lists=lists)
        if earlier is not None and recheck and bad:
            earlier = _without_bad(earlier, bin_, layout)
    table = rows.table(todo)
    table = table if earlier is None or numbers is None else merged(earlier, table, numbers)
    files = [write_table(f"{out}.parquet", table), tar.entry]
    if bad:
        files.append(_write_log(f"{out}.{KNOWN_BAD}.jsonl", bin_.log))
    drops = count_drops(table)
    facts = {"bytes_kept": pc.sum(table["image_bytes"]).as_py() or 0, "urls_fetched": todo.num_rows}
    return Outcome(table.num_rows, table.num_rows - sum(drops.values()), drops, files, facts)


def _fetch_all(todo: pa.Table, bin_: _Bin, teller: Teller, *, config: Download, policy: UrlPolicy, lists: str) -> None:
    """Every URL's image into the bin, in the table's order."""
    engine = shared_engine(
        config, f"{policy.model_dump_json()} {lists}", lambda url: _check_hop(url, policy_rules(policy, lists))
    )
    with InOrder[Fetched](bin_.take, memory_bytes=config.memory_bytes) as in_order:
        for number, fetched in engine.download(todo["url"].to_pylist()):
            teller.row(fetched.reason)
            body, fetched.body = fetched.body, None
            in_order.put(number, fetched, body)


def _rows_of(path: str, sources: pa.Table) -> pa.Table:
    """An earlier download's rows of these URLs, in their order; it may have rows of URLs that a purge has dropped
    since. Raises BadManifest when it lacks one."""
    table = read_table(path)
    places = pc.index_in(sources["id"].combine_chunks(), value_set=table["id"].combine_chunks())
    if places.null_count:
        raise BadManifest(f"{path} holds other URLs than the part that it should be of. Delete its stage's folder.")
    return table.take(places)


def _without_bad(earlier: pa.Table, bin_: _Bin, layout: Layout) -> pa.Table:
    """Taken-over rows judged by the lists of today: a match is dropped, and points to no bytes any more."""
    rows = earlier.to_pylist()
    for row in rows:
        if row["drop"] is not None:
            continue
        body = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        detail = bin_.judge(row, row["final_url"], Stored(row["sha256"], row["md5"]), body)
        if detail is not None:
            nowhere = dict.fromkeys(("image_file", "image_offset", "image_bytes", "width", "height", "format"))
            row |= {"drop": KNOWN_BAD, "detail": detail, **nowhere}
    return pa.Table.from_pylist(rows, schema=earlier.schema)


def _write_log(path: str, log: Sequence[Mapping[str, Any]]) -> FileEntry:
    data = "".join(json.dumps(line, sort_keys=True) + "\n" for line in log).encode()
    write_bytes(path, data)
    return FileEntry(posixpath.basename(path), len(log), len(data), hashlib.sha256(data).hexdigest())


def _check_hop(url: str, rules: Rules) -> tuple[str, str | None] | None:
    reasons, details = judge_urls(pa.array([url]), rules)
    reason = reasons[0].as_py()
    return None if reason is None else (reason, details[0].as_py())
