"""Small labelled sets of real images that need no download, as folders of train/<label>/* and test/<label>/*."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_train.errors import DataError
from storage.images import encode_jpeg

TEST_EVERY, TEST_FIRST = 4, 2
"""Every fourth image of a class is held out, from the second on (settings were tried on those from the fourth on)."""
SIDE_PIXELS = 64
QUALITY = 95


def write_digits(folder: Path) -> None:
    """The 1,797 handwritten digits that scikit-learn holds (8 x 8 pixels, UCI's optical digits), enlarged to 64 x 64.

    Raises DataError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits lie in scikit-learn: pip install scikit-learn (extra `sample`).") from error
    digits = load_digits()
    pictures = [_enlarged(np.clip(image / 16 * 255, 0, 255).astype(np.uint8)) for image in digits.images]
    write_split(folder, pictures, [str(label) for label in digits.target])


def write_split(folder: Path, pictures: list[NDArray[np.uint8]], labels: list[str]) -> None:
    """RGB pictures as JPEGs in train/<label>/ and, every fourth of a class, in test/<label>/."""
    seen: dict[str, int] = {}
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        seen[label] = seen.get(label, 0) + 1
        place = folder / ("test" if seen[label] % TEST_EVERY == TEST_FIRST else "train") / label / f"{number:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_jpeg(picture, quality=QUALITY))


def _enlarged(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (SIDE_PIXELS, SIDE_PIXELS)
    return np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC).convert("RGB"))


SETS: Mapping[str, Callable[[Path], None]] = MappingProxyType({"digits": write_digits})
