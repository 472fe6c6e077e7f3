"""Curated sources, benchmarks and labelled sets → one image table: folders, WebDataset tars, Parquet as on the Hub.

Images stay where they are: a row says in which file (or tar, at which offset) one lies. Only those inside of Parquet,
whose bytes have no place of their own, are written into a tar beside the part's table. A changed file makes a new
result; of files that a Parquet's rows only name, it is the Parquet that counts.
"""

import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import pyarrow as pa
from fsspec.core import url_to_fs
from pydantic import Field

from storage.filesystem import content_key, is_url, list_files
from storage.images import FILE_EXTENSIONS, ImageError, verify
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import count_drops, table_from_rows, write_table
from tasks.collection_files import CONTAINERS, IMAGE_EXTENSIONS, Found, extension_of, images_of
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
SCHEMA = image_schema(
    pa.field("source", pa.string()),
    pa.field("split", pa.string()),
    pa.field("path", pa.string()),  # below the collection's folder, then inside of the tar or Parquet
    pa.field("labels", pa.string()),  # the other columns of a Parquet's row, as JSON
)


class Collection(StageConfig):
    """A named set of images that already exists: a curated source, or one split of a benchmark."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name in reports and verdicts."""
    path: str
    """Folder (searched with its subfolders), a .tar or .parquet, or a glob of such; local or a URL."""
    split: str = ""
    """Split of a benchmark: train, val, test."""
    image_column: str | None = None
    """Column of the images, where files are Parquet; null takes `image`, or the only one that can be it."""


class Collect(StageConfig):
    """How collections are read."""

    images_per_part: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Images of one part; a tar or Parquet file is always one part."""
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    """Images with more pixels are not decoded."""


class EmptyCollection(ValueError):
    """A collection without a single image."""


@stage_task(name="collect", task_run_name="{name}")
def collect(name: str, collections: Sequence[Collection], config: Collect, layout: Layout) -> Manifest:
    """The images of the collections as an image table. Raises EmptyCollection when one of them has none."""
    members = {collection.name + "/" + collection.split: list_members(collection) for collection in collections}
    if len(members) != len(collections):
        raise ValueError(
            f"{name}: two collections share a name and split: {[c.name for c in collections]}. Rename one."
        )
    identity = {key: [[path, content_key(path)] for path in paths] for key, paths in members.items()}
    columns = {f"{c.name}/{c.split}": c.image_column for c in collections if c.image_column is not None}
    also = {"files": identity} | ({"image_columns": columns} if columns else {})
    stage = Stage(name, version=VERSION, config=config, inputs={}, layout=layout, also=also)
    if stage.finished:
        return stage.reuse()
    parts = [
        {"source": c.name, "split": c.split, "root": folder_of(c.path), "files": chunk, "image_column": c.image_column}
        for c in collections
        for chunk in _chunks(members[c.name + "/" + c.split], config.images_per_part)
    ]
    return stage.publish(stage.map(collect_part, parts, max_pixels=config.max_pixels, root=layout.root))


def list_members(collection: Collection) -> list[str]:
    """Files that hold the collection's images, sorted: in a folder the images themselves, else tars, else Parquet."""
    pattern = collection.path
    if extension_of(pattern) in CONTAINERS or "*" in pattern:
        found = list_files(pattern, only_files=True)
    else:
        inside = list_files(posixpath.join(pattern, "**"), only_files=True)
        found = [path for path in inside if extension_of(path) in IMAGE_EXTENSIONS]
        for kind in CONTAINERS:
            found = found or [path for path in inside if extension_of(path) == kind]
    if not found:
        raise EmptyCollection(
            f"collection {collection.name!r}: no images in {collection.path!r} (looked for "
            f"{', '.join(sorted(IMAGE_EXTENSIONS))}, .tar and .parquet, in subfolders too). "
            "Correct the path or leave the source out."
        )
    return found


def folder_of(path: str) -> str:
    """The folder that a collection's files lie below: the path itself, or what stands before a file or wildcard."""
    fixed = path.split("*", 1)[0]
    return posixpath.dirname(fixed) if fixed != path or extension_of(path) in CONTAINERS else path


def collect_part(part: dict[str, Any], out: str, *, max_pixels: int, root: str) -> Outcome:
    """Rows of some files of one collection; what is no whole image is a drop.

    Raises UnreachableStorage for a tar or Parquet that cannot be read to its end, NoImageColumn.
    """
    rows = []
    with ExitStack() as stack:
        tar = None
        for path in part["files"]:
            for found in images_of(path, root=part["root"], image_column=part["image_column"]):
                row = _row(part, path, found, max_pixels=max_pixels)
                if found.file is None and "drop" not in row:
                    tar = tar or stack.enter_context(SampleWriter(f"{out}.tar"))
                    place = tar.add(row["id"], {FILE_EXTENSIONS[row["format"]]: found.data})
                    ((row["image_offset"], _),) = place.values()
                    row["image_file"] = Layout(root).relative(f"{out}.tar")
                rows.append(row)
    table = table_from_rows(rows, SCHEMA)
    drops = count_drops(table)
    files: list[FileEntry] = [write_table(f"{out}.parquet", table), *([tar.entry] if tar is not None else [])]
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, files)


def _row(part: dict[str, Any], path: str, found: Found, *, max_pixels: int) -> dict[str, Any]:
    inner = _below(path, part["root"]) + (f"/{found.inside}" if found.inside else "")
    name = f"{part['source']}/{part['split']}/{inner}"
    row = {
        "id": hashlib.sha256(name.encode()).hexdigest()[:24],
        "url": f"collection://{name}",
        "sha256": hashlib.sha256(found.data).hexdigest(),
        "image_file": found.file,
        "image_offset": found.offset,
        "image_bytes": len(found.data),
        "source": part["source"],
        "split": part["split"],
        "path": inner,
        "labels": found.labels,
    }
    if found.missing is not None:
        return row | {"drop": "missing_image", "detail": found.missing, "sha256": None}
    try:
        info = verify(found.data, max_pixels=max_pixels)
    except ImageError as error:
        return row | {"drop": error.reason, "detail": error.detail}
    return row | {"width": info.width, "height": info.height, "format": info.format}


def _below(path: str, folder: str) -> str:
    """A file's path from its collection's folder on, however the filesystem writes it."""
    places = [url_to_fs(place)[1] if is_url(place) else place for place in (path, folder)]
    return posixpath.relpath(*places)


def _chunks(paths: Sequence[str], size: int) -> Iterator[list[str]]:
    """Images in lots of `size`, tars and Parquet files one by one."""
    images = [path for path in paths if extension_of(path) not in CONTAINERS]
    yield from (images[start : start + size] for start in range(0, len(images), size))
    yield from ([path] for path in paths if extension_of(path) in CONTAINERS)
