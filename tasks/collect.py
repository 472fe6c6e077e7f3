"""Curated sources, benchmarks and labelled sets: folders of images or WebDataset tars → one image table, in place.

Nothing is copied: a row says in which file (or tar, at which offset) the image lies.
"""

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from storage.errors import UnreachableStorage
from storage.filesystem import content_key, list_files, open_read, read_bytes
from storage.images import ImageError, verify
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import image_schema
from storage.tables import count_drops, table_from_rows, write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
SCHEMA = image_schema(pa.field("source", pa.string()), pa.field("split", pa.string()), pa.field("path", pa.string()))
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff"})


class Collection(StageConfig):
    """A named set of images that already exists: a curated source, or one split of a benchmark."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name in reports and verdicts."""
    path: str
    """Folder (searched with its subfolders), a .tar or a glob of WebDataset tars; local or a URL."""
    split: str = ""
    """Split of a benchmark: train, val, test."""


class Collect(StageConfig):
    """How collections are read."""

    images_per_part: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Images of one part."""
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
    stage = Stage(name, version=VERSION, config=config, inputs={}, layout=layout, also={"files": identity})
    if stage.finished:
        return stage.reuse()
    parts = [
        {"source": c.name, "split": c.split, "root": c.path, "files": chunk}
        for c in collections
        for chunk in _chunks(members[c.name + "/" + c.split], config.images_per_part)
    ]
    return stage.publish(stage.map(collect_part, parts, max_pixels=config.max_pixels))


def list_members(collection: Collection) -> list[str]:
    """Files that hold the collection's images: the images themselves, or tars. Sorted."""
    pattern = collection.path
    if pattern.endswith(".tar") or "*" in pattern:
        found = list_files(pattern)
    else:
        found = [path for path in list_files(posixpath.join(pattern, "**")) if _extension(path) in IMAGE_EXTENSIONS]
        found = found or list_files(posixpath.join(pattern, "**", "*.tar"))
    if not found:
        raise EmptyCollection(
            f"collection {collection.name!r}: no images in {collection.path!r} (looked for "
            f"{', '.join(sorted(IMAGE_EXTENSIONS))} and .tar, in subfolders too). "
            "Correct the path or leave the source out."
        )
    return found


def collect_part(part: dict[str, Any], out: str, *, max_pixels: int) -> Outcome:
    """Rows of some files of one collection. Raises EmptyCollection only through `list_members`; bad files are drops."""
    rows = [_row(part, path, *member, max_pixels=max_pixels) for path in part["files"] for member in _images_of(path)]
    table = table_from_rows(rows, SCHEMA)
    drops = count_drops(table)
    entry = write_table(f"{out}.parquet", table)
    return Outcome(len(rows), len(rows) - sum(drops.values()), drops, [entry])


def _images_of(path: str) -> Iterator[tuple[str, int, bytes]]:
    """(member name or "", offset, bytes) of each image of a file or tar."""
    if not path.endswith(".tar"):
        yield "", 0, read_bytes(path)
        return
    try:
        with open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if _extension(member.name) in IMAGE_EXTENSIONS else None
                if content is not None:
                    yield member.name, member.offset_data, content.read()
    except tarfile.TarError as error:
        raise UnreachableStorage(f"{path} is not a whole tar: {error}. Fetch it again or leave it out.") from error


def _row(part: dict[str, Any], path: str, member: str, offset: int, data: bytes, *, max_pixels: int) -> dict[str, Any]:
    inner = posixpath.relpath(path, part["root"]) if not member else f"{posixpath.basename(path)}/{member}"
    name = f"{part['source']}/{part['split']}/{inner}"
    row = {
        "id": hashlib.sha256(name.encode()).hexdigest()[:24],
        "url": f"collection://{name}",
        "sha256": hashlib.sha256(data).hexdigest(),
        "image_file": path,
        "image_offset": offset,
        "image_bytes": len(data),
        "source": part["source"],
        "split": part["split"],
        "path": inner,
    }
    try:
        info = verify(data, max_pixels=max_pixels)
    except ImageError as error:
        return row | {"drop": error.reason, "detail": error.detail}
    return row | {"width": info.width, "height": info.height, "format": info.format}


def _chunks(items: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def _extension(path: str) -> str:
    return path.rsplit(".", 1)[-1].lower() if "." in posixpath.basename(path) else ""
