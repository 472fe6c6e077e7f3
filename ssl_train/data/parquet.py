"""Images in Parquet files as Hugging Face's datasets keep them: a column of struct{bytes, path}, or of plain bytes."""

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from posixpath import basename, dirname
from sys import intern
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ssl_train.data.labels import Labels, LabelTexts
from ssl_train.data.source import EncodedImage
from ssl_train.errors import DataError
from storage.filesystem import join, list_files, open_read, read_bytes

FOOTER_THREADS = 16


class RowGroup(NamedTuple):
    """Rows of a file that are read together."""

    path: str
    number: int
    first_row: int
    rows: int


class ParquetImages:
    """The images of Parquet files, in the order of the files.

    One image costs its whole row group, so the last few groups are kept: memory, in every worker, the bytes of
    `keep_blocks` groups (100 to 1,000 images each in what Hugging Face writes).
    """

    reads_blocks = True

    def __init__(self, files: str | Sequence[str], *, column: str) -> None:
        paths = list_files(files) if isinstance(files, str) else list(files)
        if not paths:
            raise DataError(f"no files match data.parquet = {files!r}. Give a list, or a glob that matches some.")
        self._column = column
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            self._groups = [group for groups in pool.map(self._groups_of, paths) for group in groups]
        self._ends = list(accumulate(group.rows for group in self._groups))
        if not self._groups:
            raise DataError(f"the {len(paths)} files of data.parquet hold no rows.")
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._keep = 1

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, numbers: Sequence[int]) -> Iterator[EncodedImage]:
        """The images with these numbers; an image's key is its path in the column, else file#row."""
        for number in numbers:
            place = bisect_right(self._ends, number)
            group = self._groups[place]
            row = number - (self._ends[place - 1] if place else 0)
            yield self._encoded(self._rows(place)[row].as_py(), group, row)

    def block_images(self) -> list[int]:
        """The row groups."""
        return [group.rows for group in self._groups]

    def keep_blocks(self, number: int) -> None:
        """Keep so many row groups in memory."""
        self._keep = number

    def label_texts(self, labels: Labels) -> LabelTexts:
        """The column of classes; names by number where the files say of which ClassLabel it is."""
        paths = list(dict.fromkeys(group.path for group in self._groups))
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            columns = list(pool.map(lambda path: _label_column(path, labels.column), paths))
        values = (value for column, _ in columns for value in column.to_pylist())
        texts = ["" if value is None else intern(str(value).strip()) for value in values]
        return LabelTexts(texts, f"the {len(paths)} file(s) of data.parquet", columns[0][1])

    def _groups_of(self, path: str) -> list[RowGroup]:
        with open_read(path) as file:
            table = _opened(file, path)
            if self._column not in table.schema_arrow.names:
                raise DataError(
                    f"{path} has no column {self._column!r}, only {', '.join(table.schema_arrow.names)}. "
                    "Name the images' column with data.parquet_column."
                )
            kind = table.schema_arrow.field(self._column).type
            if not _may_hold_images(kind):
                raise DataError(
                    f"column {self._column!r} of {path} holds {kind}, no images (bytes, or a struct of bytes and "
                    "path). Name the images' column with data.parquet_column."
                )
            rows = [table.metadata.row_group(number).num_rows for number in range(table.metadata.num_row_groups)]
        firsts = [0, *accumulate(rows)]
        return [RowGroup(path, number, firsts[number], count) for number, count in enumerate(rows) if count]

    def _rows(self, place: int) -> pa.ChunkedArray:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        group = self._groups[place]
        with open_read(group.path) as file:
            column = _opened(file, group.path).read_row_group(group.number, [self._column])[self._column]
        self._kept[place] = column
        while len(self._kept) > self._keep:
            self._kept.popitem(last=False)
        return column

    def _encoded(self, value: Any, group: RowGroup, row: int) -> EncodedImage:
        name = f"{basename(group.path)}#{group.first_row + row}"
        if not isinstance(value, dict):
            return EncodedImage(name, value or b"")
        path, data = value.get("path"), value.get("bytes")
        if data is None and path:
            data = read_bytes(join(dirname(group.path), path))
        return EncodedImage(path or name, data or b"")


def _opened(file: IO[bytes], path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path} is no whole Parquet file: {error} Write or fetch it again, or leave it out of data.parquet."
        ) from error


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(number).name in ("bytes", "path") for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(path: str, name: str) -> tuple[pa.ChunkedArray, tuple[str, ...] | None]:
    """A file's column of classes, and their names where its Hugging Face features have them."""
    with open_read(path) as file:
        table = _opened(file, path)
        schema = table.schema_arrow
        if name not in schema.names:
            raise DataError(
                f"{path} has no column {name!r} of classes, only {', '.join(schema.names)}. Name theirs with "
                "data.labels.column."
            )
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"column {name!r} of {path} holds {kind}, no numbers or names of classes: data.labels.column."
            )
        return table.read([name])[name], _class_names(schema.metadata or {}, name)


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...] | None:
    """The names of a ClassLabel feature in the metadata that Hugging Face's datasets write."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature = features.get(column)
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    return tuple(names) if names else None
