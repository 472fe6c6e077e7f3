"""Filters over the batches of one part: every row with its verdict, and a tar of the images that a filter changed."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import pyarrow as pa

from storage.images import FILE_EXTENSIONS, ImageError, encode_like
from storage.layout import Layout
from storage.manifest import FileEntry
from storage.records import image_schema
from storage.samples import SampleWriter
from storage.tables import table_from_rows
from tasks.filters.base import BuiltFilter
from tasks.filters.pictures import Item, Row


class Judge:
    """The verdicts of some filters on one part. As a context it holds the tar `out`.tar open, where a filter may change
    images. Memory: the rows."""

    def __init__(self, built: Sequence[BuiltFilter], out: str, layout: Layout) -> None:
        self.built, self.counts = built, Counter[str]()
        self._items: list[tuple[Row, Counter[str]]] = []
        self._image_file = layout.relative(f"{out}.tar")
        self._tar = SampleWriter(f"{out}.tar") if any(one.changes_images for one in built) else None

    def __enter__(self) -> Self:
        if self._tar is not None:
            self._tar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.__exit__(kind, error, trace)

    @property
    def files(self) -> list[FileEntry]:
        """The finished tar's entry, if there is one; only after the block."""
        return [] if self._tar is None else [self._tar.entry]

    def judge(self, batch: Sequence[Item]) -> None:
        """Every filter on every image that none before it has dropped; those changed and kept get a new file."""
        examine(batch, self.built)
        for item in batch:
            self.counts.update(item.counts)
            self._items.append((item.row, item.counts))
            if self._tar is not None and item.changed and item.kept:
                item.row |= _store(self._tar, item, self._image_file)

    def table(self, carried: Sequence[pa.Field]) -> pa.Table:
        """The rows, in order: the image's columns, those carried, those of the filters."""
        fields = (column for one in self.built for column in one.fields)
        return table_from_rows([row for row, _ in self._items], image_schema(*carried, *fields))

    @property
    def counts_of_rows(self) -> list[Counter[str]]:
        """What each row adds to the stage's facts."""
        return [counts for _, counts in self._items]


def examine(batch: Sequence[Item], built: Sequence[BuiltFilter]) -> None:
    """Every filter on every image that none before it has dropped; a changed image goes on as changed."""
    for one in built:
        left = [(item, item.picture) for item in batch if item.row["drop"] is None and item.picture is not None]
        findings = one.examine([picture for _, picture in left])
        for (item, _), finding in zip(left, findings, strict=True):
            item.take(finding)


def _store(tar: SampleWriter, item: Item, image_file: str) -> Row:
    """Encode a changed image like the file it came from; where it lies now, and its new checksum and size. One that
    cannot be written so is dropped: as it came it must not stay."""
    if item.picture is None:
        raise ValueError(f"image {item.row['id']} was changed but never decoded")
    try:
        data = encode_like(item.data, item.picture.pixels)
    except ImageError as error:
        return {"drop": error.reason, "detail": f"changed, and not to be written again: {error.detail}"}
    extension = FILE_EXTENSIONS[item.row["format"]]
    offset, size = tar.add(item.row["id"], {extension: data})[extension]
    place = {"image_file": image_file, "image_offset": offset, "image_bytes": size}
    return {"sha256": hashlib.sha256(data).hexdigest(), **place}
