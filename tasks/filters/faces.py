"""FILTER faces: finds faces and blurs them; nothing is dropped."""

import json
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from pydantic import Field

from storage.images import Pixels
from tasks.config import StageConfig
from tasks.filters.base import Boxes, Finding, Picture
from tasks.filters.blur import blur_boxes
from tasks.filters.nudenet import Detection, Nudenet
from tasks.filters.retinaface import RetinaFace


class FaceDetector(Protocol):
    """A built detector plug."""

    def detect_all(self, pictures: Sequence[Pixels]) -> list[Boxes]:
        """Per RGB image [height, width, 3] its faces: [faces, 5], corners in its pixels and score, best first."""
        ...


class NudenetFaces(StageConfig):
    """NudeNet's two face classes as a coarse detector: cheap beside the NudeNet filter, blind to small faces."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"threads"})

    kind: Literal["nudenet_faces"] = "nudenet_faces"
    min_score: Annotated[float, Field(ge=0.25, le=1)] = 0.3
    """Faces scored at least this are taken."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of one session."""

    def build(self) -> "NudenetFaceDetector":
        return NudenetFaceDetector(self)


class NudenetFaceDetector:
    """Shares the NudeNet filter's session."""

    def __init__(self, config: NudenetFaces) -> None:
        self.config = config
        self._network = Nudenet(threads=config.threads)

    def detect_all(self, pictures: Sequence[Pixels]) -> list[Boxes]:
        """Faces per RGB image."""
        return [self._faces(found) for found in self._network.detect(pictures)]

    def _faces(self, found: Sequence[Detection]) -> Boxes:
        faces = [seen for seen in found if seen.label.startswith("FACE_") and seen.score >= self.config.min_score]
        return np.array([[*seen.box, seen.score] for seen in faces], np.float32).reshape(-1, 5)


class Faces(StageConfig):
    """Blurs the faces that a detector finds, after Yang et al. 2021 (arXiv 2103.06191); their boxes are stored."""

    kind: Literal["faces"] = "faces"
    detector: RetinaFace | NudenetFaces = RetinaFace()
    """What finds the faces."""
    expand: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Each box grows on every side by this share of its longer side."""
    blur: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Sigma of the blur as a share of the longest side among the image's face boxes."""
    max_rounds: Annotated[int, Field(ge=1, le=10)] = 3
    """A blurred image is looked at again, and what is still found is blurred once more, at most this many times."""

    def build(self) -> "FacesFilter":
        return FacesFilter(self)


class FacesFilter:
    """Every face found is blurred in the array; the stage writes a new file for those images alone."""

    fields: Sequence[pa.Field] = (pa.field("faces", pa.string()),)  # JSON: [[left, top, right, bottom, score], ...]
    changes_images: bool = True
    min_side: int | None = None

    def __init__(self, config: Faces) -> None:
        self.config = config
        self._detector: FaceDetector = config.detector.build()

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        rounds, blurred = self._blur_all([picture.pixels for picture in pictures])
        return [_finding(boxes, pixels) for boxes, pixels in zip(rounds, blurred, strict=True)]

    def _blur_all(self, pictures: list[Pixels]) -> tuple[list[list[Boxes]], list[Pixels]]:
        """Per picture the boxes blurred in each round (the faces are the first's), and the pixels, blurred until none
        is found; the detector is given all pictures of a round together."""
        pixels, rounds = list(pictures), list[list[Boxes]]([] for _ in pictures)
        looked_at = list(range(len(pictures)))
        for _ in range(self.config.max_rounds):
            found = self._detector.detect_all([pixels[place] for place in looked_at])
            seen = [(place, boxes) for place, boxes in zip(looked_at, found, strict=True) if len(boxes)]
            for place, boxes in seen:
                pixels[place] = blur_boxes(pixels[place], boxes, expand=self.config.expand, strength=self.config.blur)
                rounds[place].append(boxes)
            looked_at = [place for place, _ in seen]
        return rounds, pixels


def _finding(rounds: list[Boxes], pixels: Pixels) -> Finding:
    if not rounds:
        return Finding(columns={"faces": "[]"})
    boxes = np.concatenate(rounds)
    stored = [[*(round(float(side), 1) for side in box[:4]), round(float(box[4]), 3)] for box in boxes]
    num_faces = len(rounds[0])
    return Finding(
        detail=f"{num_faces} face{'s' if num_faces > 1 else ''} blurred",
        columns={"faces": json.dumps(stored)},
        counts={"faces": num_faces, "images_with_faces": 1},
        changed=pixels,
    )
