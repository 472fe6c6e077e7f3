"""Thumbnails for hash deduplication, made from the array that the filters have seen: 32 x 32 gray pixels an image."""

import hashlib
import io
import posixpath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.filesystem import write_bytes
from storage.images import Pixels
from storage.manifest import FileEntry

THUMBNAILS = ".thumbnails.npy"
"""What a part's file of thumbnails ends in: uint8 [kept images, 1024], in the table's order."""
THUMBNAIL_SIDE = 32
THUMBNAIL_PIXELS = THUMBNAIL_SIDE**2
THUMBNAIL_DECODED_SIDE = 4 * THUMBNAIL_SIDE
"""A JPEG is decoded no smaller: with less, a resized copy's thumbnail differs more than its hash forgives."""


def thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    """An RGB image [height, width, 3] as luma (ITU-R BT.601), each pixel the mean of what it covers: [1024].

    Of an image that was not coded as luma and colour (PNG, GIF, ...) this is what its gray decode gives, to the bit; of
    a JPEG it is off by the rounding of the colours, less than a level on the mean.
    """
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    small = cv2.resize(gray, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8).reshape(-1)


def write_array(path: str, array: NDArray[Any]) -> FileEntry:
    """An array as .npy, whole or not at all; its entry."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    write_bytes(path, data)
    return FileEntry(posixpath.basename(path), len(array), len(data), hashlib.sha256(data).hexdigest())
