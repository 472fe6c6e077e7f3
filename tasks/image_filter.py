"""Filters on decoded images: each image is decoded once and every filter of the stage sees that one array.

Used twice: `screen` with [Geometry] before deduplication, `safety` with [Nsfw, Faces] after it. An image that a filter
changes (a face was blurred) gets a new file in the stage's own tar; the file as it came stays where download put it.

Cost: linear in images. Memory: one batch of decoded images (64 megapixels, or one larger image) and the models.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from storage.filesystem import read_bytes
from storage.images import FILE_EXTENSIONS, ImageError, decode_rgb, encode_like
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS, image_schema
from storage.samples import SampleWriter
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
from tasks.config import StageConfig
from tasks.filters import BuiltFilter, Filter, Finding, Picture
from tasks.filters.thumbnails import (
    THUMBNAIL_DECODED_SIDE,
    THUMBNAIL_PIXELS,
    THUMBNAILS,
    thumbnail,
    write_array,
)
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
CARRIED = (pa.field("crawl_date", pa.string()),)
"""Columns of the input that later stages decide by."""
_BATCH_IMAGES = 32
_BATCH_PIXELS = 64_000_000

Row = dict[str, Any]


class ImageFilter(StageConfig):
    """Which filters look at the images, in this order; the first that drops an image gives the reason."""

    filters: Annotated[tuple[Filter, ...], Field(min_length=1)]
    """The filters."""
    thumbnails: bool = False
    """Write `part-*.thumbnails.npy` beside each table, a row per kept image: hash deduplication then decodes none."""


@stage_task(name="filter_images", task_run_name="{name}")
def filter_images(images: Manifest, config: ImageFilter, layout: Layout, name: str) -> Manifest:
    """Run the filters on the kept images of the stage before; part i of the result judges part i of `images`.

    Raises FilterUnavailable, before any part, when a filter's model is not installed.
    """
    stage = Stage(name, version=VERSION, config=config, inputs={"images": images}, layout=layout)
    if stage.finished:
        return stage.reuse()
    for plug in config.filters:
        plug.build()  # a missing model is said once, here, and not by every part
    outcomes = stage.map(
        filter_part,
        images.paths(".parquet"),
        filters=config.filters,
        thumbnails=config.thumbnails,
        root=layout.root,
    )
    return stage.publish(outcomes)


@dataclass
class Item:
    """One image on its way through the filters: its row, its encoded bytes, and the picture as it is now."""

    row: Row
    data: bytes = b""
    picture: Picture | None = None
    changed: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, finding: Finding) -> None:
        """Write one filter's finding into the row; the first filter with a number gives `value`."""
        row = self.row
        row |= {**finding.columns, "drop": finding.drop, "detail": finding.detail or row.get("detail")}
        if finding.drop is not None or row.get("value") is None:
            row["value"] = finding.value
        self.counts.update(finding.counts)
        if finding.changed is not None and self.picture is not None:
            self.picture, self.changed = replace(self.picture, pixels=finding.changed), True


def filter_part(part: str, out: str, *, filters: Sequence[Filter], root: str, thumbnails: bool = False) -> Outcome:
    """One part: its table of verdicts; when a filter may change images, a tar with the changed ones; thumbnails."""
    layout = Layout(root)
    built = [plug.build() for plug in filters]
    table = kept(read_table(part))
    carried = [column for column in CARRIED if column.name in table.column_names]
    rows = table.select([*IMAGE_COLUMNS, *(column.name for column in carried)]).to_pylist()
    counts: Counter[str] = Counter()
    small: list[NDArray[np.uint8]] = []
    with ExitStack() as stack:
        tar = stack.enter_context(SampleWriter(f"{out}.tar")) if any(one.changes_images for one in built) else None
        for batch in batches(rows, layout, needed_side(built, thumbnails=thumbnails)):
            examine(batch, built)
            if thumbnails:
                small += [thumbnail(one.picture.pixels) for one in batch if one.picture and one.row["drop"] is None]
            for item in batch:
                counts.update(item.counts)
                if tar is not None and item.changed and item.row["drop"] is None:
                    item.row |= _store(tar, item, layout.relative(f"{out}.tar"))
    judged = table_from_rows(rows, image_schema(*carried, *(column for one in built for column in one.fields)))
    files = [write_table(f"{out}.parquet", judged), *([tar.entry] if tar is not None else [])]
    if thumbnails:
        files.append(write_array(f"{out}{THUMBNAILS}", np.array(small, np.uint8).reshape(-1, THUMBNAIL_PIXELS)))
    drops = count_drops(judged)
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, files, dict(counts))


def needed_side(built: Sequence[BuiltFilter], *, thumbnails: bool = False) -> int | None:
    """The resolution that serves all filters: whole if one needs it whole, else the largest of their sides."""
    sides = [*(one.min_side for one in built), THUMBNAIL_DECODED_SIDE if thumbnails else 1]
    return None if None in sides else max(side for side in sides if side is not None)


def batches(rows: Sequence[Row], layout: Layout, min_side: int | None) -> Iterator[list[Item]]:
    """The rows with their images decoded, some dozens at a time; an undecodable one has its verdict and no picture."""
    batch: list[Item] = []
    pixels = 0
    for row in rows:
        item = _decoded(row, layout, min_side)
        size = item.picture.pixels[..., 0].size if item.picture else 0
        if batch and (len(batch) == _BATCH_IMAGES or pixels + size > _BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += size
    if batch:
        yield batch


def _decoded(row: Row, layout: Layout, min_side: int | None) -> Item:
    row["drop"] = None
    data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
    try:
        return Item(row, data, Picture(decode_rgb(data, min_side=min_side), row["width"], row["height"]))
    except ImageError as error:
        row |= {"drop": error.reason, "detail": error.detail}
        return Item(row)


def examine(batch: Sequence[Item], built: Sequence[BuiltFilter]) -> None:
    """Every filter on every image that none before it has dropped; a changed image goes on as changed."""
    for one in built:
        left = [(item, item.picture) for item in batch if item.row["drop"] is None and item.picture is not None]
        findings = one.examine([picture for _, picture in left])
        for (item, _), finding in zip(left, findings, strict=True):
            item.take(finding)


def _store(tar: SampleWriter, item: Item, image_file: str) -> Row:
    """Encode a changed image like the file it came from; where it lies now, and its new checksum and size."""
    if item.picture is None:
        raise ValueError(f"image {item.row['id']} was changed but never decoded")
    data = encode_like(item.data, item.picture.pixels)
    extension = FILE_EXTENSIONS[item.row["format"]]
    offset, size = tar.add(item.row["id"], {extension: data})[extension]
    place = {"image_file": image_file, "image_offset": offset, "image_bytes": size}
    return {"sha256": hashlib.sha256(data).hexdigest(), **place}
