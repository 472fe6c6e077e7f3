"""Copies of an image as people make them: the augmentation that copy-detection descriptors are trained with."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data import pixels
from ssl_train.data.augment import NUM_GLOBAL, REDUCTIONS
from ssl_train.data.collate import Crops
from ssl_train.data.copy_edits import (
    Drawing,
    Frame,
    Text,
    draw_drawing,
    draw_frame,
    draw_text,
    stored,
    turned,
    turned_size,
    with_drawing,
    with_frame,
    with_text,
)
from ssl_train.data.pixels import Box, crop_and_resize, random_box

Share = Annotated[float, Field(ge=0, le=1)]
JITTERS = (pixels.scale_brightness, pixels.scale_contrast, pixels.scale_saturation, pixels.shift_hue)


@dataclass(frozen=True)
class CopyCrops:
    """Two edited copies of every image; the defaults are SSCD's strongest set (arXiv 2202.10261, section 4.3 and its
    code), with drawn shapes for its emoji, whose files may not be passed on."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["copies"] = "copies"
    """Tag of this augmentation."""
    global_pixels: Annotated[int, Field(ge=1)] = 224
    """Side of a copy."""
    global_scale: tuple[Share, Share] = (0.08, 1.0)
    """Share of the image's area that a copy shows."""
    flip: Share = 0.5
    """Chance that it is mirrored."""
    quarter_turn: Share = 0.05
    """Chance that it is turned by 90, 180 or 270 degrees."""
    text: Share = 0.1
    """Chance of a line of text on it."""
    drawing: Share = 0.2
    """Chance of a drawing on it: a face, a heart, an arrow and the like, up to half the image's side."""
    turn: Share = 0.05
    """Chance that it is turned by any angle, with black corners."""
    frame: Share = 0.0
    """Chance of a rim of one colour around it (not in SSCD's set)."""
    jitter: Share = 0.8
    """Chance that its colours are changed."""
    jitter_strength: tuple[Share, Share, Share, Annotated[float, Field(ge=0, le=0.5)]] = (0.8, 0.8, 0.8, 0.2)
    """Of brightness, contrast and saturation (factors in 1 - s .. 1 + s), and of hue (part of a full turn)."""
    gray: Share = 0.2
    """Chance that it becomes gray."""
    blur: Share = 0.5
    """Chance that it is blurred."""
    blur_sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (1.0, 5.0)
    """Width of the blur in pixels of the copy."""
    jpeg: Share = 0.2
    """Chance that it is stored as JPEG once more."""
    jpeg_quality: tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]] = (1, 100)
    """At a quality between these."""

    num_views: ClassVar[int] = 2
    """Large crops of an image."""
    num_local: ClassVar[int] = 0
    device: ClassVar[str] = "host"

    @property
    def local_pixels(self) -> int:
        """There are no local crops; what would be their side is that of a copy."""
        return self.global_pixels

    def plan(self, height: int, width: int, rng: np.random.Generator) -> "CopyPlan":
        """How both copies of an image of this size in pixels are made; all chance comes from `rng`."""
        return CopyPlan(tuple(self._copy(height, width, rng) for _ in range(NUM_GLOBAL)), self.global_pixels)

    def crops(self, image: NDArray[np.uint8], plan: "CopyPlan") -> Crops:
        """The copies of an RGB image [height, width, 3] by its plan."""
        return Crops([copy.made(image, plan.side) for copy in plan.copies], [])

    def _copy(self, height: int, width: int, rng: np.random.Generator) -> "Copy":
        """One copy. Amounts are drawn whether they are used or not: one chance changes no other edit."""
        flip, quarter, text, drawing, turn, frame, jitter, gray, blur, jpeg = rng.random(10)
        degrees = 90 * int(rng.integers(1, 4)), float(rng.integers(0, 360))
        strength = np.array(self.jitter_strength)
        amounts = np.array([1, 1, 1, 0]) + strength * rng.uniform(-1, 1, 4)
        order = rng.permutation(len(JITTERS))
        overlays = draw_text(rng), draw_drawing(rng)
        rim = draw_frame(rng)
        sigma, quality = rng.uniform(*self.blur_sigma), int(rng.integers(*self.jpeg_quality, endpoint=True))
        quarter_degrees = degrees[0] if quarter < self.quarter_turn else 0
        any_degrees = degrees[1] if turn < self.turn else 0.0
        shown = turned_size(*turned_size(height, width, quarter_degrees), any_degrees)
        box = random_box(*shown, self.global_scale, rng)
        return Copy(
            flip=flip < self.flip,
            quarter_degrees=quarter_degrees,
            text=overlays[0] if text < self.text else None,
            drawing=overlays[1] if drawing < self.drawing else None,
            degrees=any_degrees,
            frame=rim if frame < self.frame else None,
            box=_as_shares(box, shown),
            shorter_pixels=min(box.height, box.width),
            jitter=tuple((int(number), float(amounts[number])) for number in order) if jitter < self.jitter else (),
            gray=gray < self.gray,
            sigma=sigma if blur < self.blur else None,
            quality=quality if jpeg < self.jpeg else None,
        )


class Shares(NamedTuple):
    """A rectangle as shares of a picture's height and width."""

    top: float
    left: float
    height: float
    width: float

    def of(self, height: int, width: int) -> Box:
        """In pixels of a picture of this size."""
        top, left = min(round(self.top * height), height - 1), min(round(self.left * width), width - 1)
        tall, wide = max(1, round(self.height * height)), max(1, round(self.width * width))
        return Box(top, left, min(tall, height - top), min(wide, width - left))


class Copy(NamedTuple):
    """How one copy is made, first to last."""

    flip: bool
    quarter_degrees: int
    text: Text | None
    drawing: Drawing | None
    degrees: float
    frame: Frame | None
    box: Shares
    """Of the picture turned and framed."""
    shorter_pixels: int
    """Shorter side of that in the image as it was planned for."""
    jitter: tuple[tuple[int, float], ...]
    """Changes of colour in their order: number in JITTERS, and amount."""
    gray: bool
    sigma: float | None
    quality: int | None

    def made(self, image: NDArray[np.uint8], side: int) -> Float[Tensor, "3 side side"]:
        """The copy [3, side, side] of an image [height, width, 3], normalised."""
        edited = self._edited(image)
        crop = crop_and_resize(edited, self.box.of(*edited.shape[:2]), side)
        colours = pixels.to_unit(crop)
        for number, amount in self.jitter:
            colours = JITTERS[number](colours, amount)
        if self.gray:
            colours = pixels.to_gray(colours)
        return pixels.normalise(self._degraded(colours))

    def _edited(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.flip:
            image = image[:, ::-1]
        image = turned(image, self.quarter_degrees)
        if self.text is not None:
            image = with_text(image, self.text)
        if self.drawing is not None:
            image = with_drawing(image, self.drawing)
        if self.degrees:
            image = turned(image, self.degrees)
        return image if self.frame is None else with_frame(image, self.frame)

    def _degraded(self, image: Float[Tensor, "3 side side"]) -> Float[Tensor, "3 side side"]:
        """Blurred and stored as JPEG: by way of bytes, where either happens."""
        if self.sigma is None and self.quality is None:
            return image
        data = np.ascontiguousarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
        if self.sigma is not None:
            data = np.array(Image.fromarray(data).filter(ImageFilter.GaussianBlur(self.sigma)))
        if self.quality is not None:
            data = stored(data, self.quality)
        return pixels.to_unit(torch.from_numpy(np.array(data)).permute(2, 0, 1))


class CopyPlan(NamedTuple):
    """All chance of one image's copies; it is in shares of the image, and so the same at every size."""

    copies: tuple[Copy, ...]
    side: int

    def reduction(self) -> int:
        """By how much the image may be decoded smaller: no copy is enlarged for it."""
        least = min(copy.shorter_pixels for copy in self.copies) / self.side
        return next((factor for factor in REDUCTIONS if least >= factor), 1)

    def on_grid(self, factor: int, height: int, width: int) -> "CopyPlan":
        """The plan: shares know no pixels."""
        return self

    def reduced(self, factor: int) -> "CopyPlan":
        """The plan for the image decoded `factor` times smaller: the same."""
        return self


def _as_shares(box: Box, shown: tuple[int, int]) -> Shares:
    height, width = shown
    return Shares(box.top / height, box.left / width, box.height / height, box.width / width)
