"""Filters on decoded images: each image is decoded once, and whatever looks at it sees that one array.

Used twice: `screen` with [Geometry] before deduplication, `safety` with [Nsfw, Faces] after it. What hash deduplication
compares is made in passing (`hashes`). An image that a filter changes (a face was blurred) gets a new file in the
stage's own tar; the file as it came is overwritten where download put it, unless `keep_unblurred` (`tasks.originals`).

With `ahead`, `screen` lets the filters of `safety` look at the same array and stores what they say, in full, for every
image that it keeps: `safety` (`seen`) then takes the rows of those that deduplication left, and decodes nothing. The
verdicts are those that it would have given itself, in the same order: an image is dropped for its size, then as a copy,
then for what is in it, so that of two copies the kept one's verdict counts, as it does in two passes. It costs looking
at the copies too. bench/decode_once.py says when that pays.

Cost: linear in images. Memory: one batch of decoded images (64 megapixels, or one larger image) and the models.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS
from storage.tables import count_drops, kept, read_table, write_table
from tasks.config import StageConfig
from tasks.filters import Filter
from tasks.filters.judge import Judge
from tasks.filters.pictures import batches, widest
from tasks.hashing.looks import DECODED_SIDE, PREFIX, Kind, Looks, beside, luma
from tasks.news import Teller
from tasks.originals import erase_originals
from tasks.stage import Outcome, Stage, stage_task

VERSION = 3
CARRIED = (pa.field("crawl_date", pa.string()),)
"""Columns of the input that later stages decide by."""
AHEAD = "ahead"
"""A part's table of another stage's verdicts is `ahead-00000.parquet`, the images they changed are in its tar."""
_COUNTS = pa.field("counts", pa.string())  # JSON: what a row adds to that stage's facts


class ImageFilter(StageConfig):
    """Which filters look at the images, in this order; the first that drops an image gives the reason."""

    filters: Annotated[tuple[Filter, ...], Field(min_length=1)]
    """The filters."""
    keep_unblurred: bool = False
    """Keep the files of images that a filter has changed (blurred) as they came, too. Otherwise the changed image takes
    their place in the download's tar once the stage is done, and copies of it that were dropped become zeros."""


@stage_task(name="filter_images", task_run_name="{name}")
def filter_images(
    images: Manifest,
    config: ImageFilter,
    layout: Layout,
    name: str,
    *,
    hashes: Kind | None = None,
    ahead: ImageFilter | None = None,
    seen: Manifest | None = None,
) -> Manifest:
    """Run the filters on the kept images of the stage before; part i of the result judges part i of `images`.

    `hashes`: what to write for hash deduplication, of the kept images as they came. `ahead`: the filters of a later
    stage, which look now and whose verdicts are stored. `seen`: the stage that has done so for this one.
    Raises FilterUnavailable, before any part, when a filter's model is not installed, and ValueError when `seen` has
    looked with other filters.
    """
    also = {"hashes": hashes, "ahead": ahead.deciding() if ahead else None}
    stage = Stage(
        name,
        version=VERSION,
        config=config,
        inputs={"images": images} | ({"seen": seen} if seen else {}),
        layout=layout,
        also={key: value for key, value in also.items() if value is not None},
    )
    if stage.finished:
        return stage.reuse()
    if seen is not None:
        taken = stage.map(take_part, _seen_work(images, seen, config))
        return stage.publish([*taken, *([] if config.keep_unblurred else erase_originals(stage, images, taken))])
    for plug in (*config.filters, *(ahead.filters if ahead else ())):
        plug.build()  # a missing model is said once, here, and not by every part
    parts = images.paths(".parquet")
    outcomes = stage.map(filter_part, parts, config=config, root=layout.root, hashes=hashes, ahead=ahead)
    if config.keep_unblurred or not any(path.endswith(".tar") for path in _files(outcomes)):
        return stage.publish(outcomes)
    return stage.publish([*outcomes, *erase_originals(stage, images, outcomes)])


def _files(outcomes: Sequence[Outcome]) -> list[str]:
    """The files of the stage's own parts."""
    return [entry.path for one in outcomes for entry in one.files if entry.path.startswith("part-")]


def filter_part(
    part: str,
    out: str,
    *,
    config: ImageFilter,
    root: str,
    hashes: Kind | None = None,
    ahead: ImageFilter | None = None,
) -> Outcome:
    """One part: its table of verdicts; when a filter may change images, a tar with the changed ones; looks for hash
    deduplication; the later stage's table and tar."""
    layout = Layout(root)
    table = kept(read_table(part))
    carried = [column for column in CARRIED if column.name in table.column_names]
    columns = [*IMAGE_COLUMNS, *(column.name for column in carried)]
    now = Judge([plug.build() for plug in config.filters], out, layout)
    later = Judge([plug.build() for plug in ahead.filters], beside(out, AHEAD), layout) if ahead else None
    looks = Looks(hashes) if hashes else None
    side_now = widest([*(one.min_side for one in now.built), *([DECODED_SIDE[hashes]] if hashes else [])])
    side = widest([side_now, *(one.min_side for one in (later.built if later else ()))])
    with ExitStack() as stack:
        teller = stack.enter_context(Teller(out, table.num_rows))
        for judge in filter(None, (now, later)):
            stack.enter_context(judge)
        for batch in batches(table.select(columns).to_pylist(), layout, side):
            anew = [item.anew(columns) for item in batch]
            if side != side_now and side_now is not None:  # what was decoded for the later stage is too much for this
                for item in batch:
                    item.shrink(side_now)
            now.judge(batch)
            for item in batch:
                if looks is not None and item.kept and item.came is not None:
                    looks.add(luma(item.came))
            if later is not None:
                later.judge([one for item, one in zip(batch, anew, strict=True) if item.kept])
            for item in batch:
                teller.row(item.row["drop"])
    judged = now.table(carried)
    files = [write_table(f"{out}.parquet", judged), *now.files]
    if looks is not None:
        files += looks.write(beside(out, PREFIX))
    if later is not None:
        counts = pa.array([json.dumps(one, sort_keys=True) for one in later.counts_of_rows], pa.string())
        files += [write_table(f"{beside(out, AHEAD)}.parquet", later.table(carried).append_column(_COUNTS, counts))]
        files += later.files
    drops = count_drops(judged)
    return Outcome(judged.num_rows, judged.num_rows - sum(drops.values()), drops, files, dict(now.counts))


def _seen_work(images: Manifest, seen: Manifest, config: ImageFilter) -> list[dict[str, str]]:
    """Each part with the table of verdicts that `seen` has stored for it."""
    if (looked := seen.config.get("also", {}).get("ahead")) != config.deciding():
        raise ValueError(
            f"stage {seen.stage} in {seen.directory} has looked ahead with {looked}, and this stage asks for "
            f"{config.deciding()}: give it the stage that was run with these filters, or none."
        )
    parts = images.paths(".parquet")
    names = sorted(entry.path for entry in seen.files if entry.path.startswith(AHEAD) and entry.path.endswith("t"))
    tables = [seen.file(name) for name in names]
    return [{"part": part, "seen": table} for part, table in zip(parts, tables, strict=True)]


def take_part(work: Mapping[str, Any], out: str) -> Outcome:
    """One part: the stored verdicts of its kept images, in their order. Raises ValueError for an image without one."""
    ids, seen = kept(read_table(work["part"]))["id"].combine_chunks(), read_table(work["seen"])
    places = pc.index_in(ids, value_set=seen["id"].combine_chunks())
    if places.null_count:
        raise ValueError(
            f"{work['seen']} says nothing on {places.null_count} images of {work['part']}: the two are not of one run. "
            "Delete the later stage's folder and run again."
        )
    judged = seen.take(places)
    counts: Counter[str] = Counter()
    for row in judged[_COUNTS.name].to_pylist():
        counts.update(json.loads(row))
    judged = judged.drop_columns([_COUNTS.name])
    drops = count_drops(judged)
    files = [write_table(f"{out}.parquet", judged)]
    return Outcome(judged.num_rows, judged.num_rows - sum(drops.values()), drops, files, dict(counts))
