"""The images that the files of a collection hold: files themselves, WebDataset tars, Parquet as Hugging Face writes it.

Files come from strangers: what is no whole tar or Parquet, or has no column of images, is one error that names it; a
path in a table that leaves the collection's folder is not followed.
"""

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import UnreachableStorage
from storage.filesystem import is_url, join, open_read, read_bytes

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff"})
CONTAINERS = ("tar", "parquet")
_ROWS_AT_A_TIME = 64
_COLUMN_NAMES = ("image", "img", "jpg", "png", "webp")


class NoImageColumn(ValueError):
    """A Parquet file without a column that holds images."""


@dataclass(frozen=True)
class Found:
    """One image of a collection. `inside`: its place in the file ("" for a file that is the image itself).

    file and offset say where the bytes lie as they are; no file: they lie in pages of Parquet and must be written
    elsewhere. missing: why there are no bytes. labels: the row's other columns, as JSON.
    """

    inside: str
    data: bytes
    file: str | None
    offset: int = 0
    missing: str | None = None
    labels: str | None = None


def extension_of(path: str) -> str:
    """ "jpg" of "a/b.JPG"; "" without one."""
    return path.rsplit(".", 1)[-1].lower() if "." in posixpath.basename(path) else ""


def images_of(path: str, *, root: str, image_column: str | None = None) -> Iterator[Found]:
    """The images of one file of the collection whose folder is `root`. Memory: an image; of Parquet, a row group.

    Raises UnreachableStorage for what cannot be read to its end, NoImageColumn for Parquet without images.
    """
    if extension_of(path) == "tar":
        yield from _of_tar(path)
    elif extension_of(path) == "parquet":
        yield from _of_parquet(path, root, image_column)
    else:
        yield Found("", read_bytes(path), path)


def _of_tar(path: str) -> Iterator[Found]:
    try:
        with open_read(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if extension_of(member.name) in IMAGE_EXTENSIONS else None
                if content is not None:
                    yield Found(member.name, content.read(), path, member.offset_data)
    except tarfile.TarError as error:
        raise UnreachableStorage(f"{path} is not a whole tar: {error}. Fetch it again or leave it out.") from error


def _of_parquet(path: str, root: str, wanted: str | None) -> Iterator[Found]:
    try:
        with open_read(path) as file:
            content = pq.ParquetFile(file)
            image = _image_column(path, content.schema_arrow, wanted)
            labels = [field.name for field in content.schema_arrow if field.name != image and _is_label(field.type)]
            names = _class_names(content.schema_arrow)
            row = 0
            for batch in content.iter_batches(_ROWS_AT_A_TIME, columns=[image, *labels], use_threads=False):
                for values in batch.to_pylist():
                    yield _of_row(values.pop(image), _named(values, names), f"{row:08d}", path, root)
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UnreachableStorage(
            f"{path} is not a whole Parquet file: {error}. Fetch it again or leave it out."
        ) from error


def _of_row(image: Any, others: Mapping[str, Any], inside: str, path: str, root: str) -> Found:
    content = image if isinstance(image, Mapping) else {"bytes": image}
    data, place = content.get("bytes"), content.get("path")
    known = {name: None if value != value else value for name, value in others.items()}  # JSON knows no NaN
    labels = json.dumps(({"path": place} if place else {}) | known)
    if data is not None:
        return Found(inside, bytes(data), None, labels=labels)
    if not place:
        return Found(inside, b"", None, missing="neither bytes nor a path", labels=labels)
    for folder in (posixpath.dirname(path), root):
        target = _below(folder, place)
        if target is not None:
            try:
                return Found(inside, read_bytes(target), target, labels=labels)
            except UnreachableStorage:
                continue
    return Found(inside, b"", None, missing=f"no such file in the collection: {place[:200]}", labels=labels)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """What the numbers of label columns mean, where the `datasets` library has noted it in the file."""
    try:
        note = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = note["info"]["features"].items()
        return {name: list(map(str, one["names"])) for name, one in features if one.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _named(values: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The values, and beside each number of a class its name."""
    known = {
        f"{column}_name": of_class[values[column]]
        for column, of_class in names.items()
        if isinstance(values.get(column), int) and 0 <= values[column] < len(of_class)
    }
    return {**values, **known}


def _below(folder: str, place: str) -> str | None:
    """The file that a relative path names, None when it leads out of the folder."""
    if is_url(place) or place.startswith(("/", "~")) or "\\" in place or "\0" in place:
        return None
    inner = posixpath.normpath(place)
    return None if inner.split("/")[0] in ("..", ".") else join(folder, inner)


def _image_column(path: str, schema: pa.Schema, wanted: str | None) -> str:
    """The column asked for, else the one named as images are, else the only one that can hold them."""
    holding = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted in holding:
            return wanted
    else:
        named = [name for name in _COLUMN_NAMES if name in holding]
        if named or len(holding) == 1:
            return (named or holding)[0]
    asked = f"column {wanted!r}" if wanted is not None else "one column"
    raise NoImageColumn(
        f"{path}: {asked} of images (binary, or a struct with `bytes` and `path`) is wanted; the columns are "
        f"{', '.join(f'{field.name} ({field.type})' for field in schema)[:500]}. Name it as image_column."
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        return "bytes" in names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind: pa.DataType) -> bool:
    plain = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_large_string,
    )
    return any(is_kind(kind) for is_kind in plain)
