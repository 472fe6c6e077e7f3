"""NudeNet's detector (v3, 320n.onnx from the AGPL-3.0 package `nudenet`), run on decoded arrays and in batches.

The package's own call takes one image and loops over 2,100 rows in Python; here both sides of the network are arrays.
Detections are the package's own (tests/tasks/filters/test_nsfw.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.images import Pixels
from tasks.filters.base import FilterUnavailable
from tasks.filters.boxes import suppress
from tasks.filters.sessions import load_session

# In the order of the network's output channels.
Label = Literal[
    "FEMALE_GENITALIA_COVERED", "FACE_FEMALE", "BUTTOCKS_EXPOSED", "FEMALE_BREAST_EXPOSED", "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED", "ANUS_EXPOSED", "FEET_EXPOSED", "BELLY_COVERED", "FEET_COVERED", "ARMPITS_COVERED",
    "ARMPITS_EXPOSED", "FACE_MALE", "BELLY_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_COVERED",
    "FEMALE_BREAST_COVERED", "BUTTOCKS_COVERED",
]  # fmt: skip
LABELS: tuple[Label, ...] = get_args(Label)

SIDE = 320
MIN_SCORE = 0.25
MAX_OVERLAP = 0.45
_BATCH = 8


@dataclass(frozen=True)
class Detection:
    """One thing seen: corners (left, top, right, bottom) in the picture's pixels, score in 0..1."""

    label: Label
    score: float
    box: tuple[float, float, float, float]


class Nudenet:
    """The network behind `detect`. Raises FilterUnavailable when the package that carries it is not installed."""

    def __init__(self, *, threads: int = 1) -> None:
        self._session = load_session(_model_path(), threads)
        self._input = self._session.get_inputs()[0].name

    def detect(self, images: Sequence[Pixels]) -> list[list[Detection]]:
        """Detections per image (RGB uint8 [height, width, 3]), best first, scores above 0.25."""
        found: list[list[Detection]] = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            (rows,) = self._session.run(None, {self._input: np.stack([letterbox(image) for image in batch])})
            found += [_detections(row.T, image.shape[:2]) for row, image in zip(rows, batch, strict=True)]
        return found


def _model_path() -> str:
    package = find_spec("nudenet")  # found, not imported: importing it builds a session of its own
    folders = package.submodule_search_locations if package else None
    path = Path(folders[0], "320n.onnx") if folders else None
    if path is None or not path.is_file():
        raise FilterUnavailable(
            "the NudeNet filter needs the model of the package `nudenet`, which is not installed because its licence "
            "is AGPL-3.0. Install it with: pip install '.[nsfw]' -- or take the filter out of the stage's config."
        )
    return str(path)


def letterbox(image: Pixels) -> NDArray[np.float32]:
    """As it was trained: black on the right or below to a square, bilinear to 320x320, 0..1. -> [3, 320, 320]"""
    height, width = image.shape[:2]
    side = max(height, width)
    square = cv2.copyMakeBorder(image, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT)
    small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(small.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def _detections(rows: NDArray[np.float32], size: tuple[int, ...]) -> list[Detection]:
    """Rows [2100, 4 + 18] of (centre, sides, class scores) on the 320 grid -> detections on the image's own."""
    scores = rows[:, 4:].max(axis=1)
    rows = rows[scores > MIN_SCORE]
    scores, labels = scores[scores > MIN_SCORE], rows[:, 4:].argmax(axis=1)
    height, width = size
    corner = (rows[:, :2] - rows[:, 2:4] / 2) * (max(size) / SIDE)
    sides = rows[:, 2:4] * (max(size) / SIDE)
    limit = np.array([width, height], np.float32)
    corner = np.clip(corner, 0, limit)
    corners = np.concatenate([corner, corner + np.minimum(sides, limit - corner)], axis=1)
    return [
        Detection(LABELS[labels[at]], float(scores[at]), tuple(float(side) for side in corners[at]))  # type: ignore[arg-type]
        for at in suppress(corners, scores, max_overlap=MAX_OVERLAP)
    ]
