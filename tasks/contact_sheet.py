"""Small pictures of what a stage kept and dropped, for the UI and the report."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import StorageError, UnreachableStorage
from storage.filesystem import open_read, read_bytes
from storage.images import ImageError, decode_rgb, encode_thumbnail
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS
from tasks.algorithms.sampling import id_keys, sample_per_group

_SIDE_PIXELS = 88
_PARTS_LOOKED_AT = 8
_SPARE = 4  # times as many as are shown: a dropped image may have no bytes
_KEPT = "kept"
_COLUMNS = [*IMAGE_COLUMNS, "drop", "detail", "value", "other"]


@dataclass(frozen=True)
class Picture:
    """One thumbnail: its data URI, what to write below it, and where the image came from."""

    data_uri: str
    caption: str
    title: str


def contact_sheet(manifest: Manifest, layout: Layout, *, per_kind: int = 8) -> dict[str, list[Picture]]:
    """Up to `per_kind` pictures of the kept images and of each drop reason; {} for stages without images.

    Chosen by hash of the id from the first parts, so the same stage shows the same pictures. Reads a few dozen images,
    also where none of a reason's images can be decoded.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    for path in manifest.paths(".parquet")[:_PARTS_LOOKED_AT]:
        for row in _drawn(path, _SPARE * per_kind):
            chosen.setdefault(row["drop"] or _KEPT, []).append(row)
    sheet = {
        kind: list(islice(_pictures(_by_key(rows)[: _SPARE * per_kind], layout), per_kind))
        for kind, rows in sorted(chosen.items())
    }
    return {kind: pictures for kind, pictures in sheet.items() if pictures}


def _drawn(path: str, per_kind: int) -> list[dict[str, Any]]:
    """Rows of one part with an image, at most `per_kind` of each verdict; [] for tables without images.

    Raises UnreachableStorage for a file that is no table."""
    try:
        with open_read(path) as file:
            content = pq.ParquetFile(file)
            if not set(_COLUMNS) <= set(content.schema_arrow.names):
                return []
            table = content.read(columns=_COLUMNS)
    except pa.ArrowException as error:
        raise UnreachableStorage(f"{path} is not a readable table: {error}. Delete its stage's folder.") from error
    table = table.filter(pc.is_valid(table["image_file"]))
    kinds = pc.fill_null(table["drop"], _KEPT).dictionary_encode().combine_chunks().indices.to_numpy()
    keys = id_keys(table["id"].to_pylist(), seed=0)
    rows: list[dict[str, Any]] = table.take(pa.array(sample_per_group(kinds, keys, per_group=per_kind))).to_pylist()
    return rows


def _by_key(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = id_keys([row["id"] for row in rows], seed=0)
    return [rows[place] for place in np.argsort(keys, kind="stable")]


def _pictures(rows: Sequence[Mapping[str, Any]], layout: Layout) -> Iterator[Picture]:
    for row in rows:
        yield from picture_of(row, layout)


def picture_of(row: Mapping[str, Any], layout: Layout) -> list[Picture]:
    """[the row's picture], or [] when its bytes are gone or do not decode (a dropped image may have none)."""
    try:
        data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
        small = encode_thumbnail(decode_rgb(data, min_side=_SIDE_PIXELS), side=_SIDE_PIXELS)
    except (StorageError, ImageError):
        return []
    value = row.get("value")
    caption = " ".join(filter(None, [row.get("detail"), f"{value:.2f}" if value is not None else None]))
    return [Picture(f"data:image/jpeg;base64,{base64.b64encode(small).decode()}", caption, row["url"] or row["id"])]
