"""Thumbnails for the inspection pages: rows of a stage looked up by number, their images decoded small."""

import base64
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from storage.errors import StorageError
from storage.filesystem import read_bytes
from storage.images import ImageError, decode_rgb, encode_thumbnail
from storage.layout import Layout
from storage.manifest import Manifest
from storage.records import IMAGE_COLUMNS
from storage.tables import kept, read_table
from tasks.inspection.html import Thumbnail
from tasks.inspection.views import Key

_THREADS = 4
_AT_A_TIME = 64
GONE = "no longer readable"
OVER_LIMIT = "left out: the page has reached its limit of bytes"


def kept_starts(manifest: Manifest) -> list[int]:
    """First kept row of each part, and the number of kept rows last. Read off the manifest where it has vectors."""
    vectors = {entry.path.removesuffix(".npy"): entry.rows for entry in manifest.files if entry.path.endswith(".npy")}
    starts = [0]
    for entry in manifest.files:
        if entry.path.startswith("part-") and entry.path.endswith(".parquet"):
            count = vectors.get(entry.path.removesuffix(".parquet"))
            if count is None:
                count = read_table(manifest.file(entry.path), ["drop"])["drop"].null_count
            starts.append(starts[-1] + count)
    return starts


def rows_at(manifest: Manifest, rows: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Columns of the kept rows with these numbers (counted over all parts). Reads only the parts that hold one.

    Raises IndexError for a row that the stage has not.
    """
    starts, paths = kept_starts(manifest), manifest.paths(".parquet")
    found: dict[int, dict[str, Any]] = {}
    by_part: dict[int, list[int]] = {}
    for row in sorted(set(rows)):
        if not 0 <= row < starts[-1]:
            raise IndexError(f"row {row} of {manifest.directory}, which keeps {starts[-1]}")
        by_part.setdefault(bisect_right(starts, row) - 1, []).append(row)
    for part, wanted in by_part.items():
        table = kept(read_table(paths[part], sorted({"drop", *columns})))
        taken = table.take([row - starts[part] for row in wanted]).select(list(columns))
        found |= dict(zip(wanted, taken.to_pylist(), strict=True))
    return found


@dataclass(frozen=True)
class Pictures:
    """The images of the stages that the pages show, by the names that `Key` gives these stages."""

    stages: Mapping[str, Manifest]
    layout: Layout
    side_pixels: int

    def album(self, keys: Sequence[Key], *, limit_bytes: int) -> dict[Key, Thumbnail]:
        """A thumbnail for every key; those whose data would take the page over `limit_bytes` come without a picture.

        Pictures are taken in the order of the keys until one does not fit; a key that stands twice costs twice.
        Memory: `limit_bytes`, a kilobyte per key, and one decoded image per thread.
        """
        times = Counter(keys)
        rows = {
            stage: rows_at(self.stages[stage], [key.row for key in times if key.stage == stage], IMAGE_COLUMNS)
            for stage in sorted({key.stage for key in times})
        }
        album = {key: _thumbnail(rows[key.stage][key.row], None, OVER_LIMIT) for key in times}
        left = limit_bytes
        for key, small in self._decoded((key, rows[key.stage][key.row]) for key in times):
            left -= 0 if small.uri is None else times[key] * len(small.uri)
            if left < 0:
                break
            album[key] = small
        return album

    def _decoded(self, wanted: Iterator[tuple[Key, dict[str, Any]]]) -> Iterator[tuple[Key, Thumbnail]]:
        with ThreadPoolExecutor(_THREADS) as threads:
            while batch := list(islice(wanted, _AT_A_TIME)):
                yield from zip(
                    [key for key, _ in batch], threads.map(self._read, [row for _, row in batch]), strict=True
                )

    def _read(self, row: dict[str, Any]) -> Thumbnail:
        try:
            place = self.layout.resolve(row["image_file"])
            data = read_bytes(place, row["image_offset"], row["image_bytes"])
            pixels = decode_rgb(data, min_side=self.side_pixels)
        except (StorageError, ImageError):
            return _thumbnail(row, None, GONE)
        small = encode_thumbnail(pixels, side=self.side_pixels)
        return _thumbnail(row, small, "", shape=pixels.shape[:2], side=self.side_pixels)


def _thumbnail(
    row: Mapping[str, Any], small: bytes | None, why: str, *, shape: tuple[int, ...] = (1, 1), side: int = 1
) -> Thumbnail:
    scale = min(1.0, side / max(shape))
    height, width = (max(1, round(size * scale)) for size in shape)
    uri = None if small is None else f"data:image/jpeg;base64,{base64.b64encode(small).decode()}"
    return Thumbnail(str(row["id"]), str(row["url"] or row["id"]), width, height, uri, why)
