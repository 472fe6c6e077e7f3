"""Which of the found URLs may be fetched, each URL once, cut into parts that spread every host over the run."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.core import url_to_fs
from numpy.typing import NDArray

from storage.filesystem import join
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint
from storage.tables import count_drops, kept, read_table, write_table
from tasks.extract import SCHEMA
from tasks.removal.ledger import REMOVED, Ledger
from tasks.stage import Outcome, Stage, stage_task
from tasks.web.domains import lists_key
from tasks.web.errors import EmptyCrawl
from tasks.web.policy import judge_urls
from tasks.web.policy_config import UrlPolicy, policy_rules
from tasks.web.shuffle import hex_ids, read_bucket, read_group, split_by_bucket, write_groups
from tasks.web.urls import public_suffix_version

__all__ = [
    "UrlPolicy", "cut_part", "deduplicate_bucket", "judge_run", "list_known", "mark_duplicates", "mark_known",
    "part_spans", "runs_of_parts", "url_policy",
]  # fmt: skip

VERSION = 3
_MAX_SAME = 1000  # rows of one id that a run sends to its bucket


@stage_task(name="url_policy")
def url_policy(
    urls: Manifest, config: UrlPolicy, layout: Layout, known: Manifest | None = None, ledger: Ledger | None = None
) -> Manifest:
    """Judge every URL, keep the first of equal ones, and cut the kept ones into parts for download.

    `known` is what earlier crawls have downloaded (a `download` stage, or several united): those URLs become
    `known_url`; what could not be had then is tried again. What the `ledger` names becomes `removed`.

    Rows in id order: an id is a hash, so a host's URLs are spread evenly. Out of core in three passes: runs of extract
    parts (of about a bucket's rows) are judged and split by id into buckets; each bucket is freed of duplicates (the
    first in crawl order stays) and sorted; buckets are cut into parts. What a run names more than a thousand times (the
    placeholder of a lazy image, a counting pixel) would fill one bucket alone: the rows beyond are judged already, and
    become parts of their own, at the end. Memory: one run or one bucket, 1 KB a row, whatever the size of the crawl.
    Cost: linear in rows, but for (rows / rows_per_bucket)^2 reads of a row group: a
    million for a billion URLs. Raises BadDomainList, EmptyCrawl.
    """
    lists = lists_key(config.list_files)
    policy = {"public_suffix_list": public_suffix_version()} | ({"lists": lists} if lists else {})
    stage = Stage(
        "url_policy",
        version=VERSION,
        config=config,
        inputs={"urls": urls} | ({"known": known} if known is not None else {}),
        layout=layout,
        also=policy | ({"ledger": ledger.identity} if ledger else {}),
    )
    if stage.finished:
        return stage.reuse()
    num_buckets = max(1, -(-urls.rows_in // config.rows_per_bucket))
    plain = {"config": config, "lists": lists, "ledger": ledger, "num_buckets": num_buckets}
    judged = stage.map(judge_run, runs_of_parts(urls, config.rows_per_bucket), prefix="judged", **plain)
    spread = [stage.path(outcome.files[0].path) for outcome in judged]
    crowds = [stage.path(entry.path) for outcome in judged for entry in outcome.files[1:]]
    earlier = known.paths(".parquet") if known is not None else []
    listed = stage.map(list_known, earlier, prefix="known", num_buckets=num_buckets)
    known_files = [stage.path(entry.path) for outcome in listed for entry in outcome.files]
    buckets = stage.map(
        deduplicate_bucket,
        range(num_buckets),
        prefix="bucket",
        judged=spread,
        known=known_files,
        urls_per_part=config.urls_per_part,
    )
    if not any(outcome.rows_kept for outcome in buckets):
        raise EmptyCrawl(
            f"the URL policy keeps none of {urls.rows_in} URLs (dropped: {_drops(buckets)}). Loosen the "
            "policy, or name another crawl."
        )
    sorted_files = [stage.path(entry.path) for outcome in buckets for entry in outcome.files]
    cuts = [
        (path, group) for path, one in zip(sorted_files, buckets, strict=True) for group in range(one.facts["parts"])
    ]
    outcomes = stage.map(cut_part, cuts + [(path, 0) for path in crowds])
    for path in spread + crowds + known_files + sorted_files:
        _remove(path)
    facts = {"buckets": num_buckets, "parts": len(outcomes), "policy": _policy_version(config, policy)}
    return stage.publish(outcomes, facts=facts)


def _policy_version(config: UrlPolicy, lists: Mapping[str, str]) -> str:
    """What tells one policy from another: 16 hex digits of its code's version, its rules and its lists' content."""
    return fingerprint("policy", VERSION, config.deciding(), lists)[:16]


def runs_of_parts(urls: Manifest, rows: int) -> list[list[str]]:
    """The parts of a stage in runs of about `rows` rows (of one part where that has more), in their order."""
    entries = {join(urls.directory, entry.path): entry.rows for entry in urls.files}
    runs: list[list[str]] = []
    total = 0
    for path in urls.paths(".parquet"):
        if not runs or total + entries[path] > rows:
            runs.append([])
            total = 0
        runs[-1].append(path)
        total += entries[path]
    return runs


def judge_run(
    run: Sequence[str], out: str, *, config: UrlPolicy, lists: str, num_buckets: int, ledger: Ledger | None = None
) -> Outcome:
    """Some extract parts → their rows with verdicts, split into buckets by id; the crowd (`part_crowd`), if there is
    one, in a file beside."""
    table = pa.concat_tables([_judged(read_table(part), config, lists, ledger) for part in run])
    drops = count_drops(table)
    few, crowd = part_crowd(table)
    files = [write_groups(f"{out}.parquet", split_by_bucket(few, num_buckets), SCHEMA)]
    files += [write_groups(f"{out}.crowd.parquet", [crowd], SCHEMA)] if crowd.num_rows else []
    return Outcome(table.num_rows, table.num_rows - sum(drops.values()), drops, files)


def _judged(table: pa.Table, config: UrlPolicy, lists: str, ledger: Ledger | None) -> pa.Table:
    reason, detail = judge_urls(table["url"], policy_rules(config, lists))
    if ledger:
        entry = ledger.match(table)
        removed = pc.and_(pc.is_null(reason), pc.is_valid(entry))
        reason, detail = pc.if_else(removed, REMOVED, reason), pc.if_else(removed, entry, detail)
    table = table.set_column(table.schema.get_field_index("drop"), SCHEMA.field("drop"), reason)
    return table.set_column(table.schema.get_field_index("detail"), SCHEMA.field("detail"), detail)


def list_known(part: str, out: str, *, num_buckets: int) -> Outcome:
    """The ids of what one part of an earlier download holds, split into the same buckets."""
    ids = kept(read_table(part, ["id", "drop"])).select(["id"])
    entry = write_groups(f"{out}.parquet", split_by_bucket(ids, num_buckets), ids.schema)
    return Outcome(ids.num_rows, ids.num_rows, files=(entry,))


def deduplicate_bucket(
    part: int, out: str, *, judged: list[str], known: Sequence[str] = (), urls_per_part: int
) -> Outcome:
    """One bucket of all judged parts → sorted by id, copies marked, grouped into parts of at most `urls_per_part`."""
    table = mark_duplicates(read_bucket(judged, part))
    if known:
        table = mark_known(table, read_bucket(known, part)["id"])
    spans = part_spans(pc.is_null(table["drop"]).to_numpy(), urls_per_part)
    groups = [table.slice(start, end - start) for start, end in spans]
    entry = write_groups(f"{out}.parquet", groups, SCHEMA)
    drops = count_drops(table)
    return Outcome(table.num_rows, table.num_rows - sum(drops.values()), drops, (entry,), facts={"parts": len(groups)})


def mark_duplicates(table: pa.Table) -> pa.Table:
    """Rows in crawl order → in id order; of the kept rows with equal id all but the first become `duplicate_url`."""
    ids = hex_ids(table["id"])
    order = np.argsort(ids, kind="stable")
    table, ids = table.take(pa.array(order)), ids[order]
    kept = pc.is_null(table["drop"]).to_numpy()
    rows = np.flatnonzero(kept)
    repeats = rows[1:][ids[rows[1:]] == ids[rows[:-1]]]
    copy = np.zeros(len(ids), bool)
    copy[repeats] = True
    mask = pa.array(copy)
    drop = pc.if_else(mask, pa.scalar("duplicate_url"), table["drop"])
    other = pc.if_else(mask, table["id"], table["other"])
    table = table.set_column(table.schema.get_field_index("drop"), SCHEMA.field("drop"), drop)
    return table.set_column(table.schema.get_field_index("other"), SCHEMA.field("other"), other)


def part_crowd(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(rows, crowd): the crowd are the rows of an id behind its first _MAX_SAME, in id order, all of them dropped.

    None of them can be the first of its URL, so those that no rule forbids are copies whatever the other runs hold.
    """
    ids = hex_ids(table["id"])
    order = np.argsort(ids, kind="stable")
    beyond = np.zeros(len(ids), bool)
    beyond[_MAX_SAME:] = ids[order][_MAX_SAME:] == ids[order][: max(0, len(ids) - _MAX_SAME)]
    if not beyond.any():
        return table, table.slice(0, 0)
    crowd = table.take(pa.array(order[beyond]))
    copies = pc.is_null(crowd["drop"])
    drop = pc.if_else(copies, pa.scalar("duplicate_url"), crowd["drop"])
    other = pc.if_else(copies, crowd["id"], crowd["other"])
    crowd = crowd.set_column(table.schema.get_field_index("drop"), SCHEMA.field("drop"), drop)
    crowd = crowd.set_column(table.schema.get_field_index("other"), SCHEMA.field("other"), other)
    return table.take(pa.array(np.sort(order[~beyond]))), crowd


def mark_known(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    """Kept rows whose id is among `ids` become `known_url`."""
    mask = pc.and_(pc.is_null(table["drop"]), pc.is_in(table["id"], ids.combine_chunks()))
    drop = pc.if_else(mask, pa.scalar("known_url"), table["drop"])
    return table.set_column(table.schema.get_field_index("drop"), SCHEMA.field("drop"), drop)


def part_spans(kept: NDArray[np.bool_], urls_per_part: int) -> list[tuple[int, int]]:
    """(start, end) rows of parts with at most `urls_per_part` kept rows each, as even as can be, covering all rows."""
    total = int(kept.sum())
    if not len(kept):
        return []
    num_parts = max(1, -(-total // urls_per_part))
    wanted = [total * number // num_parts for number in range(1, num_parts)]
    cuts = [0, *(np.searchsorted(np.cumsum(kept), wanted) + 1).tolist(), len(kept)]
    return list(pairwise(cuts))


def cut_part(part: tuple[str, int], out: str) -> Outcome:
    """One row group of a bucket → one part."""
    table = read_group(*part)
    entry = write_table(f"{out}.parquet", table)
    drops = count_drops(table)
    return Outcome(table.num_rows, table.num_rows - sum(drops.values()), drops, (entry,))


def _drops(outcomes: list[Outcome]) -> dict[str, int]:
    reasons = sorted({reason for outcome in outcomes for reason in outcome.drops})
    return {reason: sum(outcome.drops.get(reason, 0) for outcome in outcomes) for reason in reasons}


def _remove(path: str) -> None:
    filesystem, inner = url_to_fs(path)
    filesystem.rm_file(inner)
