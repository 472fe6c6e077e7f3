"""Which image of a group of copies stays, by what its record says of it."""

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.tables import kept, read_table
from tasks.algorithms.groups import effective_pixels
from tasks.graph.rows import Span
from tasks.graph.scratch import Array

Keeper = Literal["largest", "earliest", "best_quality", "smallest_id"]

ENOUGH_BITS: Final = {"JPEG": 2.0, "WEBP": 1.4, "AVIF": 1.0}
"""Bits per pixel at which a photograph is hardly worse than its original (JPEG: about quality 90, 4:2:0); formats that
are not named lose nothing."""
_COLUMNS = ("id", "width", "height", "image_bytes", "format", "crawl_date")


def read_records(span: Span, rows: npt.NDArray[np.int64]) -> Array:
    """Of the rows `rows` (increasing) of a span of whole parts what a keeper is chosen by: id, pixels, quality, bytes,
    date."""
    records = [
        _records(kept(read_table(f"{name}.parquet", ["drop", *_COLUMNS])), rows, start)
        for name, start in zip(span.parts, span.starts, strict=True)
    ]
    return np.concatenate(records)


def _records(table: pa.Table, rows: npt.NDArray[np.int64], start: int) -> Array:
    low, high = np.searchsorted(rows, [start, start + len(table)])
    table = table.take(pa.array(rows[low:high] - start))
    pixels = _numbers(table, "width") * _numbers(table, "height")
    num_bytes = _numbers(table, "image_bytes")
    enough = np.array([ENOUGH_BITS.get(name, 0.0) for name in _texts(table, "format")], dtype=np.float32)
    columns: dict[str, npt.NDArray[Any]] = {
        "id": np.asarray(_texts(table, "id"), dtype=np.bytes_),
        "pixels": pixels,
        "quality": effective_pixels(pixels, num_bytes, enough),
        "bytes": num_bytes,
        "date": np.asarray([text or "~" for text in _texts(table, "crawl_date")], dtype=np.bytes_),
    }
    records = np.empty(len(table), dtype=[(name, column.dtype) for name, column in columns.items()])
    for name, column in columns.items():
        records[name] = column
    return records


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(table[name].fill_null(0).to_numpy(), dtype=np.int64)


def _texts(table: pa.Table, name: str) -> list[str]:
    """A column's texts, empty where there is none; no row or column at all is no text either."""
    return [text or "" for text in table[name].to_pylist()] if name in table.column_names else [""] * len(table)


def preference(records: Array, keeper: Keeper) -> list[npt.NDArray[Any]]:
    """Columns whose smallest values say which image of a group stays, the most important first.

    Dates are as the crawl gives them (ISO 8601 sorts as text); an image without one comes last, and of equal dates the
    first of the pool counts as the earliest.
    """
    if keeper == "largest":
        return [-records["pixels"], records["id"]]
    if keeper == "best_quality":
        return [-records["quality"], -records["bytes"], records["id"]]
    return [records["date"]] if keeper == "earliest" else [records["id"]]
