"""FILTER nudenet: drops images with exposed body parts, by class and threshold, and stores what was seen."""

import json
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from tasks.config import StageConfig
from tasks.filters.base import Finding, Picture
from tasks.filters.nudenet import SIDE, Detection, Label, Nudenet

_EXPLICIT: dict[Label, float] = {
    "FEMALE_GENITALIA_EXPOSED": 0.3,
    "MALE_GENITALIA_EXPOSED": 0.3,
    "FEMALE_BREAST_EXPOSED": 0.3,
    "ANUS_EXPOSED": 0.3,
    "BUTTOCKS_EXPOSED": 0.3,
}


class Nsfw(StageConfig):
    """Drops (`nsfw`) an image in which NudeNet sees one of these classes at its threshold or above."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"threads"})

    kind: Literal["nudenet"] = "nudenet"
    thresholds: dict[Label, Annotated[float, Field(ge=0.25, le=1)]] = _EXPLICIT
    """Class -> score from which an image is dropped. NudeNet's published recall is low (about 6 in 10 at 0.2): a lower
    threshold is safer, and 0.25 is the lowest at which detections are made."""
    min_area_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """What covers less of the picture than this share is stored and does not count."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of one session; parts run side by side, so one is right unless there are more cores than parts."""

    def build(self) -> "NsfwFilter":
        return NsfwFilter(self)


class NsfwFilter:
    """Stores every detection, dropped or not: another threshold needs no new inference."""

    fields: Sequence[pa.Field] = (
        pa.field("nsfw_detections", pa.string()),
    )  # JSON: [[label, score, [l, t, r, b]], ...]
    changes_images: bool = False
    min_side: int | None = SIDE

    def __init__(self, config: Nsfw) -> None:
        self.config = config
        self._network = Nudenet(threads=config.threads)

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        detected = self._network.detect([picture.pixels for picture in pictures])
        return [self._judge(picture, found) for picture, found in zip(pictures, detected, strict=True)]

    def _judge(self, picture: Picture, found: Sequence[Detection]) -> Finding:
        """`value` is the best score among the named classes, 0 without one; boxes are in the file's own pixels."""
        thresholds = self.config.thresholds
        height, width = picture.pixels.shape[:2]
        smallest = self.config.min_area_share * height * width
        named = [seen for seen in found if seen.label in thresholds and _area(seen) >= smallest]
        guilty = [seen for seen in named if seen.score >= thresholds[seen.label]]
        scale = picture.width / width
        seen_here = [[seen.label, round(seen.score, 3), [round(side * scale) for side in seen.box]] for seen in found]
        return Finding(
            drop="nsfw" if guilty else None,
            detail=f"{guilty[0].label} {guilty[0].score:.2f}" if guilty else None,
            value=max((seen.score for seen in guilty or named), default=0.0),
            columns={"nsfw_detections": json.dumps(seen_here)},
        )


def _area(seen: Detection) -> float:
    left, top, right, bottom = seen.box
    return (right - left) * (bottom - top)
