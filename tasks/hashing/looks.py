"""What hash deduplication looks at, made from a decoded image: 32 x 32 gray pixels, and PDQ's hash where it is wanted.

Made wherever an image is decoded anyway (`screen`), so that hash deduplication decodes none; always of the picture as
it came, before a face in it is blurred: two copies are one picture even where a face was seen in one of them alone.
"""

import hashlib
import io
import posixpath
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.filesystem import open_read, read_bytes, write_bytes
from storage.images import Pixels
from storage.manifest import FileEntry
from tasks.algorithms.area_mean import area_mean
from tasks.algorithms.pdq import HASH_BYTES, pdq_hash

Kind = Literal["thumbnails", "pdq"]
"""Thumbnails alone, or PDQ's hashes beside them."""
SIDE: Final = 32
PIXELS: Final = SIDE**2
DECODED_SIDE: Final[dict[Kind, int]] = {"thumbnails": 4 * SIDE, "pdq": 512}
"""A JPEG is decoded no smaller: with less, a resized copy differs more than its hash forgives. PDQ sees more detail."""
PREFIX: Final = "thumbnails"
"""A part's files are `thumbnails-00000.npy`: uint8 [images, 1024], in the order of the part's kept images, and
`thumbnails-00000-pdq.npy`: uint8 [images, 33], PDQ's hash and its quality. A removal knows them by this name."""
PDQ_SUFFIX: Final = "-pdq.npy"
_FEW: Final = 20  # one row in so many is read alone: a seek costs about as much as 20 KB of reading on


@dataclass
class Looks:
    """The looks of one part's images, in order. Memory: 1 KB an image."""

    kind: Kind
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    def add(self, gray: Pixels) -> None:
        """The next image, by its luma [height, width]."""
        self.thumbnails.append(thumbnail_of(gray))
        if self.kind == "pdq":
            digest, quality = pdq_hash(gray)
            self.digests.append(digest + bytes([quality]))

    def write(self, out: str) -> list[FileEntry]:
        """The files `out`.npy and, with PDQ, `out`-pdq.npy."""
        files = [write_array(f"{out}.npy", np.array(self.thumbnails, np.uint8).reshape(-1, PIXELS))]
        if self.kind == "pdq":
            digests = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, HASH_BYTES + 1)
            files.append(write_array(f"{out}{PDQ_SUFFIX}", digests))
        return files


def luma(pixels: Pixels) -> Pixels:
    """An RGB image [height, width, 3] as luma (ITU-R BT.601) [height, width].

    Of an image that was not coded as luma and colour (PNG, GIF, ...) this is what its gray decode gives, to the bit; of
    a JPEG it is off by the rounding of the colours, less than a level on the mean.
    """
    return np.asarray(Image.fromarray(pixels).convert("L"))


def thumbnail_of(gray: Pixels) -> NDArray[np.uint8]:
    """Luma [height, width], of 128 pixels or more on a side, as 32 x 32 pixels, each the mean of what it covers,
    whatever the image's shape: [1024]."""
    return area_mean(gray, SIDE)


def write_array(path: str, array: NDArray[Any]) -> FileEntry:
    """An array as .npy, whole or not at all; its entry."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data)
    return FileEntry(posixpath.basename(path), len(array), len(data), hashlib.sha256(data).hexdigest())


def load_array(path: str) -> NDArray[Any]:
    """One .npy file."""
    return np.asarray(np.load(io.BytesIO(read_bytes(path)), allow_pickle=False))


def load_rows(path: str, places: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows of a .npy file of a matrix, [places, columns], in their order; few of many are read one by one."""
    with open_read(path) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        (num_rows, columns), _, dtype = read_header(file)
        if len(places) * _FEW > num_rows:
            return np.asarray(np.frombuffer(file.read(), dtype).reshape(num_rows, columns)[places])
        start, size = file.tell(), columns * dtype.itemsize
        rows = np.empty((len(places), columns), dtype)
        for number in np.argsort(places, kind="stable").tolist():
            file.seek(start + int(places[number]) * size)
            rows[number] = np.frombuffer(file.read(size), dtype)
        return rows


def beside(out: str, prefix: str) -> str:
    """The path prefix of a part's files of another kind: .../part-00007 -> .../thumbnails-00007."""
    folder, name = posixpath.split(out)
    return posixpath.join(folder, f"{prefix}-{name.rpartition('-')[2]}")
