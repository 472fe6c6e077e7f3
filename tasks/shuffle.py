"""The chosen images in the order of the dataset: one seeded permutation of the whole set, in one pass over the rows.

Rows (no image bytes) of the pool and of the sources taken as they are get a key and their lineage as JSON, and are
written sorted by key, one file per ~rows_per_exchange rows; packing reads its stretch of keys from all of them.

Memory: 2.2 KB a row of one exchange at its peak (1.1 GB for half a million; a row itself is 0.8 KB, 0.1 KB on disk).
Files: 284 for 142 M images, 2,400 for 1.2 B. Cost: linear (14 us a row), but that each stretch of 32 shards reads a
footer and one or two row groups of every file: 126,000 such reads for 142 M images, 9 million for 1.2 B, where a larger
`rows_per_exchange` is worth its memory (2 million: 600 files, 2.3 million reads, 4.5 GB).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from storage.filesystem import join
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS, IMAGE_FIELDS
from storage.tables import kept, read_table
from tasks.algorithms.sampling import id_keys
from tasks.config import StageConfig
from tasks.packing.exchange import ORDER, count_ranges, write_ordered
from tasks.packing.json_columns import json_objects
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
SCHEMA = pa.schema([(ORDER, pa.uint64()), ("id", pa.string()), *IMAGE_FIELDS, ("lineage", pa.large_string())])
# Where the lineage of a web image comes from: stage -> the columns of its table that go into the JSON.
HISTORY_COLUMNS = {
    "url_policy": ["page_url", "alt", "how", "crawl_file", "crawl_offset", "crawl_date"],
    "download": ["sha256", "final_url"],
}
_RENAMED = {"sha256": "original_sha256"}


class Shuffle(StageConfig):
    """How the dataset is cut into shards and in which order."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"rows_per_exchange", "shards_per_part"})

    samples_per_shard: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Images of one tar: all have this many, or all one less or fewer, but never differ by more than one image."""
    seed: int = 0
    """Seed of the permutation."""
    rows_per_exchange: Annotated[int, Field(ge=1)] = 500_000
    """Rows that are sorted at a time, about: memory (2.2 KB a row) against the number of files."""
    shards_per_part: Annotated[int, Field(ge=1)] = 32
    """Shards that are packed as one part: what a killed run loses at most."""


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
    """Rows of the images that `chosen` keeps and of the `as_is` sources, permuted, their lineage beside them.

    `history` maps the stages of HISTORY_COLUMNS to their manifests, part i of which holds every image of part i of
    `chosen`. Raises NothingChosen when no image is left.
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
    num_ranges = math.ceil(total / (config.samples_per_shard * config.shards_per_part))
    work = _exchange_work(chosen, sources, as_is, history, config.rows_per_exchange)
    outcomes = stage.map(exchange_part, work, prefix="exchange", seed=config.seed, num_ranges=num_ranges)
    counts = np.sum([outcome.facts["range_rows"] for outcome in outcomes], axis=0)
    return stage.publish(outcomes, facts={"range_rows": counts.tolist()})


def shuffled_files(shuffled: Manifest) -> list[str]:
    """Absolute paths of a finished shuffle's files. They hold no verdicts, so they are not named as parts are."""
    return [join(shuffled.directory, entry.path) for entry in shuffled.files]


def count_as_is(sources: Manifest, as_is: Sequence[str]) -> int:
    """Images of the sources that are taken as they are."""
    wanted = pa.array(list(as_is), pa.string())
    tables = (kept(read_table(path, ["drop", "source"])) for path in sources.paths(".parquet"))
    return sum(pc.sum(pc.is_in(table["source"], wanted)).as_py() or 0 for table in tables)


def _exchange_work(
    chosen: Manifest, sources: Manifest, as_is: Sequence[str], history: Mapping[str, Manifest], rows: int
) -> list[dict[str, Any]]:
    """Runs of parts that keep about `rows` rows; part i of the pool goes with part i of every stage of its history."""
    paths = {stage: history[stage].paths(".parquet") for stage in HISTORY_COLUMNS}
    pool = [
        {"rows": path, "history": {stage: paths[stage][number] for stage in paths}}
        for number, path in enumerate(chosen.paths(".parquet"))
    ]
    curated = [{"rows": path, "as_is": list(as_is)} for path in sources.paths(".parquet")] if as_is else []
    return [
        {"parts": parts[start : start + step]}
        for parts, manifest in ((pool, chosen), (curated, sources))
        for step in [max(1, rows * len(parts) // max(1, manifest.rows_kept))]
        for start in range(0, len(parts), step)
    ]


def exchange_part(work: dict[str, Any], out: str, *, seed: int, num_ranges: int) -> Outcome:
    """Rows of a run of parts, with their lineage, sorted by their place in the permutation."""
    table = pa.concat_tables(lineage_rows(part) for part in work["parts"])
    keys = id_keys(table["id"].to_numpy(), seed=seed)
    counts = count_ranges(keys, num_ranges).tolist()
    table = table.add_column(0, ORDER, pa.array(keys)).cast(SCHEMA)
    entry = write_ordered(f"{out}.parquet", table, num_ranges=num_ranges)
    return Outcome(entry.rows, entry.rows, files=[entry], facts={"range_rows": counts})


def lineage_rows(part: Mapping[str, Any]) -> pa.Table:
    """The kept images of one part: IMAGE_COLUMNS, and `lineage`, JSON of what is known of where each came from."""
    table = kept(read_table(part["rows"]))
    if "as_is" in part:
        table = table.filter(pc.is_in(table["source"], pa.array(part["as_is"], pa.string())))
        known = {name: table[name] for name in ("source", "split")}
        known |= {"original_sha256": table["sha256"], "as_is": pa.chunked_array([pa.repeat(True, table.num_rows)])}
    else:
        similarity = pc.round(table["value"].cast(pa.float64()), 5)
        known = {"retrieved_by": table["detail"], "query": table["other"], "similarity": similarity}
        for stage, path in part["history"].items():
            past = _history_of(table["id"], stage, path)
            known |= {_RENAMED.get(name, name): past[name] for name in HISTORY_COLUMNS[stage]}
    return table.select(IMAGE_COLUMNS).append_column("lineage", json_objects(known))


def _history_of(ids: pa.ChunkedArray, stage: str, path: str) -> pa.Table:
    """The rows of an earlier stage's part about these images, in their order."""
    past = kept(read_table(path, ["id", "drop", *HISTORY_COLUMNS[stage]]))
    place = pc.index_in(ids, value_set=past["id"].combine_chunks())
    if place.null_count:
        lost = ids.filter(pc.is_null(place))[0].as_py()
        raise ValueError(
            f"image {lost} and {place.null_count - 1} others are not among the kept rows of {stage} in {path}: that "
            "stage is not this pool's history. Give the manifests that the pool was made of."
        )
    return past.take(place)
