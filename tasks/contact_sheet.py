"""Small pictures of what a stage kept and dropped, for the UI and the report."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from storage.errors import StorageError
from storage.filesystem import read_bytes
from storage.images import ImageError, decode_rgb, encode_thumbnail
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS
from storage.tables import read_table

_SIDE_PIXELS = 88
_PARTS_LOOKED_AT = 8


@dataclass(frozen=True)
class Picture:
    """One thumbnail: its data URI, what to write below it, and where the image came from."""

    data_uri: str
    caption: str
    title: str


def contact_sheet(manifest: Manifest, layout: Layout, *, per_kind: int = 8) -> dict[str, list[Picture]]:
    """Up to `per_kind` pictures of the kept images and of each drop reason; {} for stages without images.

    Chosen by hash of the id from the first parts, so the same stage shows the same pictures. Reads a few dozen images.
    """
    chosen: dict[str, list[dict[str, Any]]] = {}
    for path in manifest.paths(".parquet")[:_PARTS_LOOKED_AT]:
        for row in _image_rows(path):
            chosen.setdefault(row["drop"] or "kept", []).append(row)
    sheet = {
        kind: list(islice(_pictures(sorted(rows, key=_order), layout), per_kind))
        for kind, rows in sorted(chosen.items())
    }
    return {kind: pictures for kind, pictures in sheet.items() if pictures}


def _image_rows(path: str) -> list[dict[str, Any]]:
    table = read_table(path)
    if not set(IMAGE_COLUMNS) <= set(table.column_names):
        return []
    columns = [*IMAGE_COLUMNS, "drop", "detail", "value", "other"]
    return [row for row in table.select(columns).to_pylist() if row["image_file"]]


def _order(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(row["id"].encode()).hexdigest()


def _pictures(rows: Sequence[Mapping[str, Any]], layout: Layout) -> chain[Picture]:
    return chain.from_iterable(picture_of(row, layout) for row in rows)


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
