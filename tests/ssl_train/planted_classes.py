"""Small labelled pictures whose class can be seen: bars that lie in one of some directions, in any place and colour."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.images import encode_jpeg

NAMES = ("across", "down", "falling", "rising")


def bars(number: int, direction: int, side: int = 40) -> NDArray[np.uint8]:
    """A picture of stripes in a direction (multiples of 45 degrees), with noise as strong as a third of them."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:side, 0:side]
    along = {0: rows, 1: columns, 2: rows - columns, 3: rows + columns}[direction]
    wave = np.sin(along * 2 * np.pi / 10 + rng.uniform(0, 2 * np.pi))[..., None]
    picture = 128 + 70 * wave * rng.uniform(0.5, 1, 3) + rng.normal(0, 20, (side, side, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_classes(folder: Path, count: int, *, first: int = 0) -> str:
    """`count` pictures of each class, as <folder>/<class>/<number>.jpg; other `first` numbers are other pictures."""
    for direction, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            data = encode_jpeg(bars(first + 4 * number + direction, direction), quality=92)
            (folder / name / f"{number:03d}.jpg").write_bytes(data)
    return str(folder)
