"""The chosen images in the order of the dataset: one seeded permutation of the whole set, in one pass over the rows.

Rows (no image bytes) of the pool and of the sources taken as they are get their lineage and are exchanged into groups
of neighbouring shards. Memory: the rows of PARTS_PER_EXCHANGE parts, about 1.5 KB a row; files: chunks of parts times
groups, groups = sqrt(number of shards) (142 M images: 300 chunks x 120 groups).
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.records import IMAGE_COLUMNS
from storage.tables import kept, read_table, write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
PARTS_PER_EXCHANGE = 256
SCHEMA = pa.schema([("key", pa.uint64()), ("shard", pa.int32()), ("id", pa.string()), ("row", pa.string())])
# Where the lineage of a web image comes from: stage -> the columns of its table that go into the JSON.
HISTORY_COLUMNS = {
    "url_policy": ["page_url", "alt", "how", "crawl_file", "crawl_offset", "crawl_date"],
    "download": ["sha256", "final_url"],
}


class Shuffle(StageConfig):
    """How the dataset is cut into shards and in which order."""

    samples_per_shard: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Images of one tar, on average; the permutation spreads them within a few percent."""
    seed: int = 0
    """Seed of the permutation."""


class NothingChosen(ValueError):
    """No image is left to pack."""


@stage_task(name="shuffle")
def shuffle(
    chosen: Manifest,
    sources: Manifest,
    *,
    as_is: Sequence[str],
    history: Mapping[str, Manifest],
    config: Shuffle,
    layout: Layout,
) -> Manifest:
    """Rows of the images that `chosen` keeps and of the `as_is` sources, permuted and grouped by shard.

    `history` maps the stages of HISTORY_COLUMNS to their manifests. Raises NothingChosen when no image is left.
    """
    stage = Stage(
        "shuffle",
        version=VERSION,
        config=config,
        inputs={"chosen": chosen, "sources": sources, **history},
        layout=layout,
        also={"as_is": sorted(as_is)},
    )
    if stage.finished:
        return stage.reuse()
    total = chosen.rows_kept + count_as_is(sources, as_is)
    if total == 0:
        raise NothingChosen(
            f"nothing to pack: no pool image was retrieved and no source is taken as it is. See {chosen.path}; lower "
            "the thresholds or raise the number of neighbours."
        )
    shards = math.ceil(total / config.samples_per_shard)
    groups = math.ceil(math.sqrt(shards))
    work = _exchange_work(chosen, sources, as_is, history)
    outcomes = stage.map(exchange_part, work, seed=config.seed, shards=shards, groups=groups)
    return stage.publish(outcomes, facts={"num_shards": shards, "num_groups": groups})


def count_as_is(sources: Manifest, as_is: Sequence[str]) -> int:
    """Images of the sources that are taken as they are."""
    wanted = pa.array(list(as_is), pa.string())
    tables = (kept(read_table(path, ["drop", "source"])) for path in sources.paths(".parquet"))
    return sum(pc.sum(pc.is_in(table["source"], wanted)).as_py() or 0 for table in tables)


def _exchange_work(
    chosen: Manifest, sources: Manifest, as_is: Sequence[str], history: Mapping[str, Manifest]
) -> list[dict[str, Any]]:
    """Chunks of parts; part i of the pool goes with part i of every stage whose columns it takes along."""
    pool = [
        {"rows": path, "history": {stage: paths[number] for stage, paths in _history_paths(history).items()}}
        for number, path in enumerate(chosen.paths(".parquet"))
    ]
    curated = (
        [{"rows": path, "as_is": list(as_is), "history": {}} for path in sources.paths(".parquet")] if as_is else []
    )
    parts = pool + curated
    return [{"parts": parts[i : i + PARTS_PER_EXCHANGE]} for i in range(0, len(parts), PARTS_PER_EXCHANGE)]


def _history_paths(history: Mapping[str, Manifest]) -> dict[str, list[str]]:
    return {stage: history[stage].paths(".parquet") for stage in HISTORY_COLUMNS}


def permutation_keys(ids: Sequence[str], seed: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """uint64 [n]: where each id stands in the seeded permutation; equal for equal (seed, id), whatever the order."""
    digests = (hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8] for key in ids)
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)


def exchange_part(work: dict[str, Any], out: str, *, seed: int, shards: int, groups: int) -> Outcome:
    """Rows of a chunk of parts, with their lineage, spread over one file per group of shards."""
    rows = [row for part in work["parts"] for row in lineage_rows(part)]
    keys = permutation_keys([row["id"] for row in rows], seed)
    files: list[FileEntry] = []
    shard_of = _shard_of(keys, shards)
    for group in range(groups):
        here = np.flatnonzero(group_of(shard_of, shards, groups) == group)
        records = [
            {
                "key": int(keys[i]),
                "shard": int(shard_of[i]),
                "id": rows[i]["id"],
                "row": json.dumps(rows[i], sort_keys=True),
            }
            for i in here.tolist()
        ]
        files.append(write_table(f"{out}-group-{group:05d}.parquet", pa.Table.from_pylist(records, schema=SCHEMA)))
    return Outcome(len(rows), len(rows), files=files)


def _shard_of(keys: np.ndarray[Any, Any], shards: int) -> np.ndarray[Any, Any]:
    """Equal ranges of the key space, so that a shard is a stretch of the permutation."""
    return np.minimum((keys >> np.uint64(11)).astype(np.float64) / 2.0**53 * shards, shards - 1).astype(np.int64)


def group_of(shard: np.ndarray[Any, Any], shards: int, groups: int) -> np.ndarray[Any, Any]:
    """Group of each shard: consecutive shards, groups of equal size but for one."""
    return shard * groups // shards


def lineage_rows(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The kept images of one part, each with what is known of where it came from."""
    table = kept(read_table(part["rows"]))
    if "as_is" in part:
        table = table.filter(pc.is_in(table["source"], pa.array(part["as_is"], pa.string())))
    past = {stage: _by_id(path, HISTORY_COLUMNS[stage], table["id"]) for stage, path in part["history"].items()}
    for row in table.to_pylist():
        lineage: dict[str, Any] = {"source": row.get("source"), "split": row.get("split"), "as_is": True}
        if past:
            lineage = {"retrieved_by": row["detail"], "query": row["other"], "similarity": _rounded(row["value"])}
            download, page = past["download"][row["id"]], past["url_policy"][row["id"]]
            lineage |= {"original_sha256": download["sha256"], "final_url": download["final_url"], **page}
        yield {column: row[column] for column in IMAGE_COLUMNS} | {"lineage": lineage}


def _by_id(path: str, columns: Sequence[str], ids: pa.ChunkedArray) -> dict[str, dict[str, Any]]:
    table = kept(read_table(path, ["id", "drop", *columns]))
    table = table.filter(pc.is_in(table["id"], ids.combine_chunks()))
    return {row.pop("id"): {column: row[column] for column in columns} for row in table.to_pylist()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
