"""Rows of an image table, decoded some dozens at a time: each image once, at the resolution that its readers need.

Memory: one batch of decoded images (64 megapixels, or one larger image).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from storage.filesystem import read_bytes
from storage.images import ImageError, Pixels, decode_rgb
from storage.layout import Layout
from tasks.filters.base import Finding, Picture

_BATCH_IMAGES = 32
_BATCH_PIXELS = 64_000_000

Row = dict[str, Any]


@dataclass
class Item:
    """One image on its way through the filters: its row, its encoded bytes, and the picture as it is now."""

    row: Row
    data: bytes = b""
    picture: Picture | None = None
    came: Pixels | None = None
    """The pixels as they came, whatever a filter has changed since."""
    changed: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, finding: Finding) -> None:
        """Write one filter's finding into the row; the first filter with a number gives `value`."""
        row = self.row
        row |= {**finding.columns, "drop": finding.drop, "detail": finding.detail or row.get("detail")}
        if finding.drop is not None or row.get("value") is None:
            row["value"] = finding.value
        self.counts.update(finding.counts)
        if finding.changed is not None and self.picture is not None:
            self.picture, self.changed = replace(self.picture, pixels=finding.changed), True

    @property
    def kept(self) -> bool:
        """Decoded, and dropped by no filter so far."""
        return self.picture is not None and self.row["drop"] is None

    def anew(self, columns: Iterable[str]) -> "Item":
        """The image as it came, with these columns of its row and no verdict: for filters of another stage."""
        row = {name: self.row[name] for name in columns} | {"drop": None}
        picture = None if self.picture is None or self.came is None else replace(self.picture, pixels=self.came)
        return Item(row, self.data, picture, self.came)

    def shrink(self, min_side: int) -> None:
        """Go on with the picture reduced about as a JPEG is when it is decoded for `min_side`."""
        if self.picture is not None:
            self.came = _shrunk(self.picture.pixels, min_side)
            self.picture = replace(self.picture, pixels=self.came)


def _shrunk(pixels: Pixels, min_side: int) -> Pixels:
    """An RGB image by the largest of 8, 4, 2 that leaves `min_side`, each pixel the mean of those it stands for."""
    side = min(pixels.shape[:2])
    factor = next((factor for factor in (8, 4, 2) if math.ceil(side / factor) >= min_side), 1)
    return pixels if factor == 1 else block_means(pixels, factor)


def block_means(pixels: Pixels, factor: int) -> Pixels:
    """Means of factor x factor pixels, of those that there are at the lower and the right edge: [h, w, 3] ->
    [ceil(h / factor), ceil(w / factor), 3]."""
    height, width = pixels.shape[:2]
    means = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top, bottom in _whole_and_rest(height, factor):
        for left, right in _whole_and_rest(width, factor):
            rows, columns = (
                slice(start // factor, -(-stop // factor)) for start, stop in ((top, bottom), (left, right))
            )
            place = means[rows, columns]
            size = (place.shape[1], place.shape[0])
            # A whole number of pixels in each: OpenCV's vector code, a fifth of Pillow's time.
            place[:] = cv2.resize(pixels[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
    return means


def _whole_and_rest(size: int, factor: int) -> list[tuple[int, int]]:
    """Where the blocks of an axis lie that are whole, and the one that is not; without those that have no pixels."""
    whole = size - size % factor
    return [(start, stop) for start, stop in ((0, whole), (whole, size)) if stop > start]


def widest(sides: Iterable[int | None]) -> int | None:
    """The resolution that serves all readers: whole (None) if one needs it whole, else the largest of their sides."""
    known = list(sides)
    return None if None in known else max((side for side in known if side is not None), default=1)


def batches(rows: Sequence[Row], layout: Layout, min_side: int | None) -> Iterator[list[Item]]:
    """The rows with their images decoded, some dozens at a time; an undecodable one has its verdict and no picture."""
    batch: list[Item] = []
    pixels = 0
    for row in rows:
        item = _decoded(row, layout, min_side)
        size = item.picture.pixels[..., 0].size if item.picture else 0
        if batch and (len(batch) == _BATCH_IMAGES or pixels + size > _BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(item)
        pixels += size
    if batch:
        yield batch


def _decoded(row: Row, layout: Layout, min_side: int | None) -> Item:
    row["drop"] = None
    data = read_bytes(layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
    try:
        pixels = decode_rgb(data, min_side=min_side)
    except ImageError as error:
        row |= {"drop": error.reason, "detail": error.detail}
        return Item(row)
    if data.endswith(b"\0"):  # no file's own end: tasks.originals has put a changed image here
        row["sha256"] = hashlib.sha256(data).hexdigest()
    return Item(row, data, Picture(pixels, row["width"], row["height"]), pixels)
