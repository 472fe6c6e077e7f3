"""URLs → verified images: original bytes in tar shards, a row for every URL with what became of it."""

import hashlib
from typing import Any

import pyarrow as pa

from storage.images import FILE_EXTENSIONS
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
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
    table = kept(read_table(part, ["id", "drop", "url", "page_url", "alt", "crawl_date"])).drop_columns(["drop"])
    sources = table.to_pylist()
    engine = shared_engine(
        config, f"{policy.model_dump_json()} {lists}", lambda url: _check_hop(url, policy_rules(policy, lists))
    )
    rows: list[dict[str, Any]] = []
    image_file = Layout(root).relative(f"{out}.tar")
    with SampleWriter(f"{out}.tar") as tar:

        def write(fetched: Fetched, body: bytes | None) -> None:
            source = sources[len(rows)]
            rows.append(source | _verdict(fetched) | _place(tar, source["id"], fetched, body, image_file))

        with InOrder[Fetched](write, memory_bytes=config.memory_bytes) as in_order:
            for number, fetched in engine.download([source["url"] for source in sources]):
                in_order.put(number, fetched.without_body(), fetched.body)
    result = table_from_rows(rows, SCHEMA)
    entry = write_table(f"{out}.parquet", result)
    drops = count_drops(result)
    facts = {"bytes_kept": sum(row["image_bytes"] or 0 for row in rows)}
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, (entry, tar.entry), facts)


def _check_hop(url: str, rules: Rules) -> tuple[str, str | None] | None:
    reasons, details = judge_urls(pa.array([url]), rules)
    reason = reasons[0].as_py()
    return None if reason is None else (reason, details[0].as_py())


def _verdict(fetched: Fetched) -> dict[str, Any]:
    return {
        "drop": fetched.reason,
        "detail": fetched.detail,
        "http_status": fetched.status,
        "final_url": fetched.final_url,
        "content_type": fetched.content_type,
        "attempts": fetched.attempts,
        "seconds": fetched.seconds,
        "fetched_at": fetched.fetched_at,
    }


def _place(tar: SampleWriter, key: str, fetched: Fetched, body: bytes | None, image_file: str) -> dict[str, Any]:
    """Where the image lies and what it is; empty for a drop."""
    if body is None or fetched.info is None:
        return {"image_bytes": None}
    extension = FILE_EXTENSIONS[fetched.info.format]
    offset, size = tar.add(key, {extension: body})[extension]
    return {
        "sha256": hashlib.sha256(body).hexdigest(),
        "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
        "width": fetched.info.width,
        "height": fetched.info.height,
        "format": fetched.info.format,
        "image_file": image_file,
        "image_offset": offset,
        "image_bytes": size,
    }
