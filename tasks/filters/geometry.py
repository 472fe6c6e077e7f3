"""FILTER geometry: too small, too long and thin, or nearly blank."""

from collections.abc import Sequence
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from tasks.algorithms.content_share import content_share
from tasks.config import StageConfig
from tasks.filters.base import Finding, Picture

_COPY_SIDE = 128


class Geometry(StageConfig):
    """Drops images too small to learn from (`too_small`), banners (`extreme_aspect`) and empty ones (`near_blank`)."""

    kind: Literal["geometry"] = "geometry"
    min_side_pixels: Annotated[int, Field(ge=1)] = 64
    """Shorter side, at least."""
    max_aspect: Annotated[float, Field(ge=1)] = 4.0
    """Longer side / shorter side, at most."""
    min_content_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of pixels that differ from the image's median colour, at least; below it the image is nearly blank."""
    blank_levels: Annotated[int, Field(ge=0, le=255)] = 12
    """A pixel differs when one of its channels is more than this many levels (of 255) off the median."""

    def build(self) -> "GeometryFilter":
        return GeometryFilter(self)


class GeometryFilter:
    """Sizes by the header; blankness by a copy whose longer side is 128 pixels, where coding noise has averaged out."""

    fields: Sequence[pa.Field] = ()
    changes_images: bool = False
    min_side: int | None = _COPY_SIDE

    def __init__(self, config: Geometry) -> None:
        self.config = config

    def examine(self, pictures: Sequence[Picture]) -> list[Finding]:
        return [self._examine(picture) for picture in pictures]

    def _examine(self, picture: Picture) -> Finding:
        size = f"{picture.width}x{picture.height}"
        shorter, longer = sorted((picture.width, picture.height))
        if shorter < self.config.min_side_pixels:
            return Finding("too_small", size, float(shorter))
        if longer > self.config.max_aspect * shorter:
            return Finding("extreme_aspect", size, longer / shorter)
        share = content_share(picture.pixels, levels=self.config.blank_levels, side=_COPY_SIDE)
        if share < self.config.min_content_share:
            return Finding("near_blank", f"{share:.2%} of it is not background", share)
        return Finding(value=share)
