"""Multi-crop augmentation as DINOv2 trains with it: which boxes are cut, and the chances of each change of colour."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data.collate import Crops
from ssl_train.data.colours import FLIP, GRAY, JITTER, STRENGTHS, Draws, coloured, draw
from ssl_train.data.pixels import Box, crop_and_resize, random_box

Share = Annotated[float, Field(ge=0, le=1)]
Turn = Annotated[float, Field(ge=0, le=0.5)]
# Chance of a blur on the first global crop, the second, and the local ones. The papers state the first row; the
# released code of DINOv2 and DINOv3 applies its complement, and the released weights were trained so (dinov3 issue
# 286: the maintainers' word).
BLUR = {"paper": (1.0, 0.1, 0.5), "released": (0.0, 0.9, 0.5)}
NUM_GLOBAL = 2
REDUCTIONS = (8, 4, 2)
"""By how much a JPEG may be decoded smaller, the most first; libjpeg is fast at these."""


@dataclass(frozen=True)
class MultiCrop:
    """Two large crops and several small ones of every image (DINO, arXiv 2104.14294; DINOv2's settings)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["multi_crop"] = "multi_crop"
    """Tag of this augmentation."""
    global_pixels: Annotated[int, Field(ge=1)] = 224
    """Side of a global crop."""
    global_scale: tuple[Share, Share] = (0.32, 1.0)
    """Share of the image's area that a global crop covers."""
    num_local: Annotated[int, Field(ge=0)] = 8
    """Local crops of an image."""
    local_pixels: Annotated[int, Field(ge=1)] = 96
    """Side of a local crop."""
    local_scale: tuple[Share, Share] = (0.05, 0.32)
    """Share of the image's area that a local crop covers."""
    blur: Literal["released", "paper"] | tuple[Share, Share, Share] = "released"
    """Chances of a blur: `released` (0, 0.9, 0.5 on global 1, global 2, local) as the published weights were trained,
    `paper` (1, 0.1, 0.5) as the papers state (BYOL's and MoCo v3's too), or three numbers."""
    solarize: tuple[Share, Share, Share] = (0.0, 0.2, 0.0)
    """Chances of being solarised on global 1, global 2, local."""
    jitter: Share = JITTER
    """Chance that a crop's colours are jittered."""
    jitter_strengths: tuple[Share, Share, Share, Turn] = STRENGTHS
    """By how much brightness, contrast and saturation are scaled at most, and by how much of a circle the hue turns."""
    gray: Share = GRAY
    """Chance that a crop loses its colours."""
    flip: Share = FLIP
    """Chance that a crop is mirrored; 0 for pictures in which left and right differ, such as digits."""
    device: Literal["host", "device"] = "host"
    """Where colours change, by the same draws: `host`, in the loader's processes, or `device`, in batches where the
    networks are, which leaves the host to decode, cut and resize."""

    num_views: ClassVar[int] = 2
    """Large crops of an image."""

    def plan(self, height: int, width: int, rng: np.random.Generator) -> "Plan":
        """Which boxes of an image of this size in pixels become crops, and how; all chance comes from `rng`."""
        views = self.views()
        boxes = [random_box(height, width, view.scale, rng) for view in views]
        draws = draw(
            rng,
            blur=[view.blur for view in views],
            solarize=[view.solarize for view in views],
            jitter=self.jitter,
            strengths=self.jitter_strengths,
            gray=self.gray,
            flip=self.flip,
        )
        return Plan(tuple(boxes), tuple(view.pixels for view in views), draws)

    def crops(self, image: NDArray[np.uint8], plan: "Plan") -> Crops:
        """The crops of an RGB image [height, width, 3] by its plan: finished, or cut only if a device finishes them."""
        cuts = plan.cut(image)
        if self.device == "device":
            return Crops(cuts[:NUM_GLOBAL], cuts[NUM_GLOBAL:], plan.draws)
        finished = [coloured(cut, row) for cut, row in zip(cuts, plan.draws, strict=True)]
        return Crops(finished[:NUM_GLOBAL], finished[NUM_GLOBAL:])

    def views(self) -> tuple["View", ...]:
        """How every crop of an image is made: the two global ones, then the local ones."""
        blurs = BLUR[self.blur] if isinstance(self.blur, str) else self.blur
        first, second, local = zip(blurs, self.solarize, strict=True)
        return (
            View(self.global_pixels, self.global_scale, *first),
            View(self.global_pixels, self.global_scale, *second),
            *[View(self.local_pixels, self.local_scale, *local)] * self.num_local,
        )


class View(NamedTuple):
    """How one crop is made."""

    pixels: int
    scale: tuple[float, float]
    blur: float
    solarize: float


class Plan(NamedTuple):
    """All chance of one image's crops."""

    boxes: tuple[Box, ...]
    pixels: tuple[int, ...]
    """Side of each crop."""
    draws: Draws
    """What happens to the colours of each."""

    def reduction(self) -> int:
        """By how much the image may be decoded smaller: every box keeps at least the pixels of its crop's side."""
        least = min(min(box.height, box.width) / side for box, side in zip(self.boxes, self.pixels, strict=True))
        return next((factor for factor in REDUCTIONS if least >= factor), 1)

    def on_grid(self, factor: int, height: int, width: int) -> "Plan":
        """The plan with its boxes' edges moved, by factor / 2 pixels at most, to where pixels decoded smaller meet."""
        return self._replace(boxes=tuple(_on_grid(box, factor, height, width) for box in self.boxes))

    def reduced(self, factor: int) -> "Plan":
        """A plan on the grid for the image decoded `factor` times smaller."""
        return self._replace(
            boxes=tuple(
                Box(box.top // factor, box.left // factor, -(-box.height // factor), -(-box.width // factor))
                for box in self.boxes
            )
        )

    def cut(self, image: NDArray[np.uint8]) -> list[UInt8[Tensor, "3 side side"]]:
        """Each box of the image, resized to its crop's side."""
        return [crop_and_resize(image, box, side) for box, side in zip(self.boxes, self.pixels, strict=True)]


def _on_grid(box: Box, factor: int, height: int, width: int) -> Box:
    top, left = round(box.top / factor) * factor, round(box.left / factor) * factor
    bottom = min(round((box.top + box.height) / factor) * factor, height)
    right = min(round((box.left + box.width) / factor) * factor, width)
    return Box(top, left, bottom - top, right - left)
