"""Encoded images as a finished stage leaves them: a tar, a table, a manifest."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from storage.images import probe
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import count_drops, read_table, table_from_rows, write_table

SCHEMA = image_schema(pa.field("crawl_date", pa.string()))


def downloaded(
    layout: Layout, images: Mapping[str, bytes], *, parts: int = 1, extra: Mapping[str, Mapping[str, Any]] | None = None
) -> Manifest:
    """A `download` stage with these images by id, in order, cut into parts; `extra` columns by id."""
    key = fingerprint(
        "download", 1, {"images": {name: hashlib.sha256(data).hexdigest() for name, data in images.items()}}, {}
    )
    folder = layout.stage("download", key)
    files = []
    for number, chunk in enumerate(np.array_split(np.array(list(images), dtype=object), parts)):
        rows = []
        with SampleWriter(f"{folder}/part-{number:05d}.tar") as tar:
            for name in chunk.tolist():
                data = images[name]
                offset, size = tar.add(name, {"bin": data})["bin"]
                info = probe(data)
                rows.append(
                    {
                        "id": name,
                        "url": f"http://a.test/{name}",
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "width": info.width,
                        "height": info.height,
                        "format": info.format,
                        "image_file": layout.relative(f"{folder}/part-{number:05d}.tar"),
                        "image_offset": offset,
                        "image_bytes": size,
                        **((extra or {}).get(name, {})),
                    }
                )
        files += [write_table(f"{folder}/part-{number:05d}.parquet", table_from_rows(rows, SCHEMA)), tar.entry]
    drops = sum(
        sum(count_drops(read_table(f"{folder}/{entry.path}")).values()) for entry in files if entry.path.endswith("t")
    )
    manifest = Manifest("download", 1, key, folder, {}, {}, tuple(files), len(images), len(images) - drops, {})
    save_manifest(manifest)
    return manifest


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    """All rows of a stage, in order."""
    return [row for path in manifest.paths(".parquet") for row in read_table(path).to_pylist()]


def verdicts(manifest: Manifest) -> dict[str, str | None]:
    """id -> drop."""
    return {row["id"]: row["drop"] for row in rows_of(manifest)}
