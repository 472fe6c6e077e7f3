"""The permuted rows -> WebDataset tars with a JSON of lineage beside each image, an index, checksums and a card.

Memory: the rows of one group of shards (about 1.5 KB a row) and one image; the bytes are read where they lie.
"""

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from storage.filesystem import join, read_bytes, write_bytes
from storage.images import FILE_EXTENSIONS
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.samples import SampleWriter
from storage.tables import read_table, write_table
from tasks.config import StageConfig
from tasks.shuffle import group_of
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
CARD = "dataset.json"
INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.string()),  # the tar that holds the image
        ("extension", pa.string()),
        ("offset", pa.int64()),  # of the image's bytes in the tar
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)


class Pack(StageConfig):
    """How the dataset is written."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")] = "lvd"
    """Prefix of the shards' names."""


@stage_task(name="pack")
def pack(shuffled: Manifest, *, composition: Sequence[Mapping[str, Any]], config: Pack, layout: Layout) -> Manifest:
    """One dataset version: root/datasets/<fingerprint>/ with tars, their index and dataset.json.

    `composition` is the retrieval's table (one row per source and mode), copied into the card.
    """
    stage = Stage(
        "pack", version=VERSION, config=config, inputs={"shuffled": shuffled}, layout=layout, directory=layout.dataset
    )
    if stage.finished:
        return stage.reuse()
    shards, groups = shuffled.facts["num_shards"], shuffled.facts["num_groups"]
    work = [
        {
            "shards": [shard for shard in range(shards) if int(group_of(np.array(shard), shards, groups)) == group],
            "rows": [path for path in shuffled.paths(".parquet") if path.endswith(f"-group-{group:05d}.parquet")],
        }
        for group in range(groups)
    ]
    written = stage.map(write_group, work, prefix="group", name=config.name, root=layout.root)
    card = _write_card(stage, shuffled, composition, config, written)
    return stage.publish(written, files=[card], facts={"composition": list(composition)})


def write_group(work: Mapping[str, Any], out: str, *, name: str, root: str) -> Outcome:
    """The shards of one group: rows in the permutation's order, image bytes read, tar and index written."""
    order = [("key", "ascending"), ("id", "ascending")]
    table = pa.concat_tables([read_table(path) for path in work["rows"]]).sort_by(order)
    entries: list[FileEntry] = []
    for shard in work["shards"]:
        rows = table.filter(pc.equal(table["shard"], shard))["row"].to_pylist()
        target = join(posixpath.dirname(out), f"{name}-{shard:06d}")
        entries += write_shard([json.loads(row) for row in rows], target, Layout(root))
    return Outcome(table.num_rows, table.num_rows, files=entries)


def write_shard(rows: Sequence[Mapping[str, Any]], out: str, layout: Layout) -> list[FileEntry]:
    """`out`.tar with image and JSON per row, `out`.parquet with every sample's place in it."""
    index = []
    with SampleWriter(f"{out}.tar") as writer:
        for row in rows:
            data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise ValueError(
                    f"image {row['id']} in {row['image_file']} changed since it was read "
                    f"(SHA-256 differs). Delete that stage's folder, or restore the source file, and run again."
                )
            extension = FILE_EXTENSIONS.get(row["format"], "bin")
            places = writer.add(row["id"], {extension: data, "json": sample_json(row)})
            offset, size = places[extension]
            place = {"shard": posixpath.basename(writer.path), "extension": extension, "offset": offset, "bytes": size}
            index.append({"id": row["id"], **place, "sha256": row["sha256"]})
    return [writer.entry, write_table(f"{out}.parquet", pa.Table.from_pylist(index, schema=INDEX_SCHEMA))]


def sample_json(row: Mapping[str, Any]) -> bytes:
    """The JSON beside an image: what it is and every step of its way, without times of this run."""
    shown = {name: row[name] for name in ("id", "url", "sha256", "width", "height", "format")}
    return json.dumps(shown | {"lineage": row["lineage"]}, sort_keys=True, ensure_ascii=False).encode()


def _write_card(
    stage: Stage,
    shuffled: Manifest,
    composition: Sequence[Mapping[str, Any]],
    config: Pack,
    written: Sequence[Outcome],
) -> FileEntry:
    """dataset.json: what the dataset holds, shard by shard, and from what it was made."""
    tars = sorted(
        (entry for outcome in written for entry in outcome.files if entry.path.endswith(".tar")), key=lambda e: e.path
    )
    card = {
        "name": config.name,
        "version": stage.fingerprint[:16],
        "num_images": sum(entry.rows for entry in tars),
        "bytes": sum(entry.bytes for entry in tars),
        "made_from": shuffled.reference,
        "composition": list(composition),
        "shards": [{"file": e.path, "samples": e.rows, "bytes": e.bytes, "sha256": e.sha256} for e in tars],
    }
    data = json.dumps(card, sort_keys=True, indent=1).encode()
    write_bytes(stage.path(CARD), data)
    return FileEntry(CARD, 0, len(data), hashlib.sha256(data).hexdigest())
