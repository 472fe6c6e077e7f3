"""Multi-crop augmentation as DINOv2 trains with it."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data.collate import Crops
from ssl_train.data.pixels import (
    Jitter,
    crop_and_resize,
    gaussian_blur,
    normalise,
    random_box,
    solarize,
    to_gray,
    to_unit,
)

Share = Annotated[float, Field(ge=0, le=1)]
FLIP = 0.5
JITTER = 0.8
GRAY = 0.2
SOLARIZE = 0.2
BLUR_SIGMA = (0.1, 2.0)
# Chance of a blur on the first global crop, the second, and the local ones. The papers state the first row; the
# released code of DINOv2 and DINOv3 applies its complement, and the released weights were trained so (dinov3 issue
# 286: the maintainers' word).
BLUR = {"paper": (1.0, 0.1, 0.5), "released": (0.0, 0.9, 0.5)}


@dataclass(frozen=True)
class MultiCrop:
    """Two large crops and several small ones of every image (DINO, arXiv 2104.14294; DINOv2's settings)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

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
    blur: Literal["released", "paper"] = "released"
    """Chances of a blur: `released` (0, 0.9, 0.5 on global 1, global 2, local) as the published weights were trained,
    `paper` (1, 0.1, 0.5) as the papers state."""

    def crops(self, image: NDArray[np.uint8], rng: np.random.Generator) -> Crops:
        """The crops of an RGB image [height, width, 3]; all chance comes from `rng`."""
        first, second, local = self.views()
        return Crops(
            [view.crop(image, rng) for view in (first, second)],
            [local.crop(image, rng) for _ in range(self.num_local)],
        )

    def views(self) -> tuple["View", "View", "View"]:
        """How the first global, the second global and the local crops are made."""
        blurs = BLUR[self.blur]
        return (
            View(self.global_pixels, self.global_scale, blur=blurs[0], solarize=0.0),
            View(self.global_pixels, self.global_scale, blur=blurs[1], solarize=SOLARIZE),
            View(self.local_pixels, self.local_scale, blur=blurs[2], solarize=0.0),
        )


class View(NamedTuple):
    """How one crop is made."""

    pixels: int
    scale: tuple[float, float]
    blur: float
    solarize: float

    def crop(self, image: NDArray[np.uint8], rng: np.random.Generator) -> Float[Tensor, "3 side side"]:
        """A random crop, flipped, its colours changed, blurred, solarised and normalised, each by its chance."""
        box = random_box(image.shape[0], image.shape[1], self.scale, rng)
        pixels = to_unit(crop_and_resize(image, box, self.pixels))
        if rng.random() < FLIP:
            pixels = pixels.flip(-1)
        if rng.random() < JITTER:
            pixels = Jitter().apply(pixels, rng)
        if rng.random() < GRAY:
            pixels = to_gray(pixels)
        if rng.random() < self.blur:
            pixels = gaussian_blur(pixels, rng.uniform(*BLUR_SIGMA))
        if rng.random() < self.solarize:
            pixels = solarize(pixels)
        return normalise(pixels)
