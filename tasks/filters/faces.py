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
from tasks.filters.nudenet import Nudenet
from tasks.filters.retinaface import RetinaFace


class FaceDetector(Protocol):
    """A built detector plug."""

    def detect(self, pixels: Pixels) -> Boxes:
        """Faces of an RGB image [height, width, 3]: [faces, 5], corners in its pixels and score, best first."""
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

    def detect(self, pixels: Pixels) -> Boxes:
        (found,) = self._network.detect([pixels])
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
        return [self._examine(picture) for picture in pictures]

    def _examine(self, picture: Picture) -> Finding:
        rounds, pixels = self._blur_all(picture.pixels)
        if not rounds:
            return Finding(columns={"faces": "[]"})
        stored = [
            [*(round(float(side), 1) for side in box[:4]), round(float(box[4]), 3)] for box in np.concatenate(rounds)
        ]
        num_faces = len(rounds[0])
        return Finding(
            detail=f"{num_faces} face{'s' if num_faces > 1 else ''} blurred",
            columns={"faces": json.dumps(stored)},
            counts={"faces": num_faces, "images_with_faces": 1},
            changed=pixels,
        )

    def _blur_all(self, pixels: Pixels) -> tuple[list[Boxes], Pixels]:
        """The boxes blurred in each round (the faces are the first's), and the pixels, blurred until none is found."""
        rounds: list[Boxes] = []
        while len(rounds) < self.config.max_rounds:
            boxes = self._detector.detect(pixels)
            if not len(boxes):
                break
            pixels = blur_boxes(pixels, boxes, expand=self.config.expand, strength=self.config.blur)
            rounds.append(boxes)
        return rounds, pixels
