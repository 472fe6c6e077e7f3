"""URLs → verified images: original bytes in tar shards, a row for every URL with what became of it."""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.images import FILE_EXTENSIONS
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import count_drops, kept, read_table, write_table
from tasks.stage import Outcome, Stage, stage_task
from tasks.url_policy import UrlPolicy, policy_rules
from tasks.web.engine import shared_engine
from tasks.web.errors import EmptyCrawl
from tasks.web.fetch import FetchConfig, Fetched
from tasks.web.in_order import InOrder
from tasks.web.policy import Rules, judge_urls

SCHEMA = image_schema(
    pa.field("page_url", pa.string()),
    pa.field("alt", pa.string()),
    pa.field("crawl_date", pa.string()),
    pa.field("http_status", pa.int16()),
    pa.field("final_url", pa.string()),  # after redirects
    pa.field("content_type", pa.string()),  # as the server says; `format` is what the bytes say
    pa.field("md5", pa.string()),  # for lists of known-bad files
    # What follows differs from run to run; nothing may be computed from it.
    pa.field("attempts", pa.int16()),
    pa.field("seconds", pa.float32()),
    pa.field("fetched_at", pa.timestamp("ms", tz="UTC")),
)
CARRIED = ("url", "page_url", "alt", "crawl_date")
"""Columns of the URLs that stand in the result too."""
TIMING_COLUMNS = ("attempts", "seconds", "fetched_at")


class Download(FetchConfig):
    """How images are fetched: limits, politeness, what owners' wishes are honoured."""


@stage_task(name="download")
def download(urls: Manifest, config: Download, layout: Layout) -> Manifest:
    """Fetch every kept URL: part i of the result holds the images of part i of the URLs, in its order.

    The tar is the same to the byte whatever the order of arrival. Redirects obey the URL policy that made `urls`.
    Raises EmptyCrawl when not one image could be had.
    """
    stage = Stage("download", version=1, config=config, inputs={"urls": urls}, layout=layout)
    if stage.finished:
        return stage.reuse()
    outcomes = stage.map(
        download_part,
        urls.paths(".parquet"),
        config=config,
        policy=_policy_of(urls),
        lists=str(urls.config.get("also", {}).get("lists", "")),
        root=layout.root,
    )
    if not any(outcome.rows_kept for outcome in outcomes):
        reasons = sorted({reason for outcome in outcomes for reason in outcome.drops})
        raise EmptyCrawl(
            f"not one of {urls.rows_kept} URLs gave an image (reasons: {', '.join(reasons)}; rows in "
            f"{stage.directory}). Check the network, `connect_to` and `allow_networks`."
        )
    return stage.publish(outcomes)


def _policy_of(urls: Manifest) -> UrlPolicy:
    """The policy that the URLs were judged by."""
    fields = {name: value for name, value in urls.config.items() if name in UrlPolicy.model_fields}
    return UrlPolicy.model_validate(fields)


def download_part(part: str, out: str, *, config: Download, policy: UrlPolicy, lists: str, root: str) -> Outcome:
    """One part of URLs → part.tar with the original bytes and part.parquet with a row per URL, in the part's order."""
    sources = kept(read_table(part, ["id", "drop", *CARRIED])).drop_columns(["drop"])
    ids, urls = sources["id"].to_pylist(), sources["url"].to_pylist()
    engine = shared_engine(
        config, f"{policy.model_dump_json()} {lists}", lambda url: _check_hop(url, policy_rules(policy, lists))
    )
    results = Results(Layout(root).relative(f"{out}.tar"))
    with SampleWriter(f"{out}.tar") as tar:

        def write(fetched: Fetched, body: bytes | None) -> None:
            results.add(fetched, _stored(tar, ids[len(results)], fetched, body))

        with InOrder[Fetched](write, memory_bytes=config.memory_bytes) as in_order:
            for number, fetched in engine.download(urls):
                body, fetched.body = fetched.body, None
                in_order.put(number, fetched, body)
    table = results.table(sources)
    entry = write_table(f"{out}.parquet", table)
    drops = count_drops(table)
    facts = {"bytes_kept": pc.sum(table["image_bytes"]).as_py() or 0}
    return Outcome(len(urls), len(urls) - sum(drops.values()), drops, (entry, tar.entry), facts)


def _check_hop(url: str, rules: Rules) -> tuple[str, str | None] | None:
    reasons, details = judge_urls(pa.array([url]), rules)
    reason = reasons[0].as_py()
    return None if reason is None else (reason, details[0].as_py())


@dataclass(slots=True)
class Stored:
    """Where one image's bytes lie and what they are."""

    offset: int
    size: int
    sha256: str
    md5: str


def _stored(tar: SampleWriter, key: str, fetched: Fetched, body: bytes | None) -> Stored | None:
    if body is None or fetched.info is None:
        return None
    sha256, md5 = hashlib.sha256(body).hexdigest(), hashlib.md5(body, usedforsecurity=False).hexdigest()
    extension = FILE_EXTENSIONS[fetched.info.format]
    return Stored(*tar.add(key, {extension: body})[extension], sha256, md5)


class Results:
    """The rows of one part as they come in: kept as objects, turned into columns at once, which costs a tenth."""

    def __init__(self, image_file: str) -> None:
        self._image_file = image_file
        self._rows: list[tuple[Fetched, Stored | None]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, fetched: Fetched, stored: Stored | None) -> None:
        """The next row."""
        self._rows.append((fetched, stored))

    def table(self, sources: pa.Table) -> pa.Table:
        """The part's table: a row per row of `sources`, whose columns are carried over."""
        fetched = [one for one, _ in self._rows]
        stored = [one for _, one in self._rows]
        infos = [one.info if place is not None else None for one, place in self._rows]
        times = [None if one.fetched_at is None else round(one.fetched_at * 1000) for one in fetched]
        columns: dict[str, Any] = {
            "drop": [one.reason for one in fetched],
            "detail": [one.detail for one in fetched],
            "sha256": [one and one.sha256 for one in stored],
            "width": [one and one.width for one in infos],
            "height": [one and one.height for one in infos],
            "format": [one and one.format for one in infos],
            "image_file": [one and self._image_file for one in stored],
            "image_offset": [one and one.offset for one in stored],
            "image_bytes": [one and one.size for one in stored],
            "http_status": [one.status for one in fetched],
            "final_url": [one.final_url for one in fetched],
            "content_type": [one.content_type for one in fetched],
            "md5": [one and one.md5 for one in stored],
            "attempts": [one.attempts for one in fetched],
            "seconds": [one.seconds for one in fetched],
            "fetched_at": pa.array(times, pa.timestamp("ms", tz="UTC")),
        }
        arrays = {name: sources[name] for name in sources.column_names} | columns
        nothing = pa.nulls(len(self._rows))
        return pa.table([_array(arrays.get(field.name, nothing), field.type) for field in SCHEMA], schema=SCHEMA)


def _array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return values.cast(kind) if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)
