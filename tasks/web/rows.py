"""The rows of a download: one per URL, with where its image lies or why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.records import image_schema
from tasks.web.fetch import Fetched

CARRIED = ("url", "page_url", "alt", "crawl_date")
"""Columns of the URLs that stand in the result too."""
TIMING_COLUMNS = ("attempts", "seconds", "fetched_at")
"""These differ from run to run; nothing may be computed from them."""
_COLUMNS = (
    "drop", "detail", "sha256", "md5", "image_offset", "image_bytes", "image_file", "width", "height", "format",
    "http_status", "final_url", "content_type", "attempts", "seconds", "fetched_at",
)  # fmt: skip
SCHEMA = image_schema(
    pa.field("page_url", pa.string()),
    pa.field("alt", pa.string()),
    pa.field("crawl_date", pa.string()),
    pa.field("http_status", pa.int16()),
    pa.field("final_url", pa.string()),  # after redirects
    pa.field("content_type", pa.string()),  # as the server says; `format` is what the bytes say
    pa.field("md5", pa.string()),  # for lists of known-bad files
    pa.field("attempts", pa.int16()),
    pa.field("seconds", pa.float32()),
    pa.field("fetched_at", pa.timestamp("ms", tz="UTC")),
)


@dataclass(slots=True)
class Stored:
    """An image's hashes, where they are known, and where its bytes lie: nowhere when they are not to be kept."""

    sha256: str | None = None
    md5: str | None = None
    offset: int | None = None
    size: int | None = None


class Rows:
    """Rows as they come in, in columns of plain values: of objects, the collector of garbage would look at each again
    and again, and turning rows of dicts into a table costs ten times as much."""

    def __init__(self, image_file: str) -> None:
        self._image_file = image_file
        self._columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self._appends = [column.append for column in self._columns.values()]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, fetched: Fetched, stored: Stored) -> None:
        """The next row; its hashes may come later."""
        info = fetched.info if stored.offset is not None else None
        size = (None, None, None, None) if info is None else (self._image_file, info.width, info.height, info.format)
        values = (
            fetched.reason, fetched.detail, stored.sha256, stored.md5, stored.offset, stored.size, *size,
            fetched.status, fetched.final_url, fetched.content_type, fetched.attempts, fetched.seconds,
            None if fetched.fetched_at is None else round(fetched.fetched_at * 1000),
        )  # fmt: skip
        for append, value in zip(self._appends, values, strict=True):
            append(value)
        self._length += 1

    def set_hashes(self, number: int, sha256: str, md5: str | None) -> None:
        """The hashes of a row that was added without."""
        self._columns["sha256"][number], self._columns["md5"][number] = sha256, md5

    def table(self, sources: pa.Table) -> pa.Table:
        """The rows, beside the `sources` (id and CARRIED) that they are of, in the same order."""
        times = pa.array(self._columns["fetched_at"], pa.timestamp("ms", tz="UTC"))
        arrays = {name: sources[name] for name in sources.column_names} | self._columns | {"fetched_at": times}
        nothing = pa.nulls(len(self))
        return pa.table([_array(arrays.get(field.name, nothing), field.type) for field in SCHEMA], schema=SCHEMA)


def _array(values: Any, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return values.cast(kind) if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, kind)


def merged(earlier: pa.Table, anew: pa.Table, numbers: Sequence[int]) -> pa.Table:
    """An earlier part's rows with those of these numbers replaced by new ones, in the part's order."""
    order = list(range(earlier.num_rows))
    for place, number in enumerate(numbers):
        order[number] = earlier.num_rows + place
    return pa.concat_tables([earlier.select(SCHEMA.names), anew]).take(pa.array(order, pa.int64())).combine_chunks()


def numbers_to_retry(earlier: pa.Table, reasons: Sequence[str]) -> list[int]:
    """Numbers of the rows that were dropped for one of these reasons."""
    again: list[int] = pc.indices_nonzero(
        pc.is_in(earlier["drop"], value_set=pa.array(reasons, pa.string()))
    ).to_pylist()
    return again
