"""One crop of every labelled image, for classification: how it is cut, flipped, changed and erased."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data import pixels as px
from ssl_train.data.augment import Plan
from ssl_train.data.collate import Crops
from ssl_train.data.colours import DRAWS
from ssl_train.data.mix import Mix
from ssl_train.data.pixels import Box, random_box
from ssl_train.data.rand_augment import Change, RandAugment, draw_erased, erase

Share = Annotated[float, Field(ge=0, le=1)]
BLUR_SIGMA = (0.1, 2.0)
PADDING = 4
_THREE: tuple[Literal["gray", "solarize", "blur"], ...] = ("gray", "solarize", "blur")
_JITTERS = (px.scale_brightness, px.scale_contrast, px.scale_saturation)


@dataclass(frozen=True)
class ThreeAugment:
    """One of gray, solarised and blurred, then a jitter of colours (DeiT III, arXiv 2204.07118, section 4)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["three_augment"] = "three_augment"
    """Tag of these changes."""
    jitter: Share = 0.3
    """Strength of the jitter: factors of brightness, contrast and saturation are uniform in 1 ± jitter."""

    def draw(self, rng: np.random.Generator) -> "ThreeDraw":
        """What happens to one image."""
        choice = _THREE[rng.integers(0, len(_THREE))]
        factors = rng.uniform(1 - self.jitter, 1 + self.jitter, len(_JITTERS))
        order = rng.permutation(len(_JITTERS))
        return ThreeDraw(
            choice, float(rng.uniform(*BLUR_SIGMA)), tuple(zip(order.tolist(), factors[order], strict=True))
        )


class ThreeDraw(NamedTuple):
    """What 3-Augment does to one image."""

    choice: Literal["gray", "solarize", "blur"]
    sigma: float
    """Of the blur, in pixels."""
    jitters: tuple[tuple[int, float], ...]
    """Number in _JITTERS and factor, first to last."""

    def of(self, image: Float[Tensor, "3 side side"]) -> Float[Tensor, "3 side side"]:
        """The changed image, in [0, 1]."""
        if self.choice == "gray":
            image = px.to_gray(image)
        elif self.choice == "solarize":
            image = px.solarize(image)
        else:
            image = px.gaussian_blur(image, self.sigma)
        for number, factor in self.jitters:
            image = _JITTERS[number](image, float(factor))
        return image


Colours: TypeAlias = RandAugment | ThreeAugment


@dataclass(frozen=True)
class Labelled:
    """One crop of every image, for training with labels; the defaults are DeiT's and InternImage's."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["labelled"] = "labelled"
    """Tag of this augmentation."""
    pixels: Annotated[int, Field(ge=2)] = 224
    """Side of the crop."""
    cut: Literal["resized", "simple"] = "resized"
    """`resized`: a rectangle of random area and aspect. `simple`: the shorter side as long as the crop's, four pixels
    mirrored around, a random square of it (DeiT III on larger sets)."""
    scale: tuple[Share, Share] = (0.08, 1.0)
    """Share of the image's area that a `resized` cut covers."""
    flip: Share = 0.5
    """How often a crop is mirrored; 0 for pictures in which left and right differ, such as digits."""
    colours: Colours | None = field(default_factory=RandAugment)
    """The changes of its colours and shape; null for none."""
    erase: Share = 0.25
    """How often a rectangle is replaced with noise (random erasing, arXiv 1708.04896)."""
    mix: Mix | None = field(default_factory=Mix)
    """Mixing with other images of the batch; null for none."""

    num_views: ClassVar[int] = 1
    """Large crops of an image."""
    num_local: ClassVar[int] = 0
    """There are no small crops."""

    @property
    def global_pixels(self) -> int:
        """Side of the crop, under the name that it has where there are several."""
        return self.pixels

    @property
    def local_pixels(self) -> int:
        """The same: there are no smaller ones."""
        return self.pixels

    def plan(self, height: int, width: int, rng: np.random.Generator) -> "LabelledPlan":
        """What becomes of an image of this size in pixels; all chance comes from `rng`."""
        shift = (0, 0)
        if self.cut == "resized":
            box = random_box(height, width, self.scale, rng)
        else:
            box, shift = _random_square(height, width, self.pixels, rng)
        is_flipped, is_erased = rng.random(2) < (self.flip, self.erase)
        changes = self.colours.draw(rng) if self.colours is not None else ()
        erased = draw_erased(self.pixels, rng) if is_erased else None
        boxes = Plan((box,), (self.pixels,), np.zeros(1, DRAWS))
        return LabelledPlan(boxes, shift, bool(is_flipped), changes, erased, int(rng.integers(0, 2**63)))

    def crops(self, image: NDArray[np.uint8], plan: "LabelledPlan") -> Crops:
        """The crop of an RGB image [height, width, 3] by its plan."""
        (cut,) = plan.boxes.cut(image)
        cut = _shifted(cut, plan.shift)
        if plan.is_flipped:
            cut = cut.flip(-1)
        if isinstance(plan.changes, ThreeDraw):
            finished = px.normalise(plan.changes.of(px.to_unit(cut)))
        else:
            finished = px.normalise(px.to_unit(_changed(cut, plan.changes)))
        if plan.erased is not None:
            finished = erase(finished, plan.erased, np.random.default_rng(plan.noise_seed))
        return Crops([finished], [])


class LabelledPlan(NamedTuple):
    """All chance of one image's crop."""

    boxes: Plan
    """The rectangle that is cut."""
    shift: tuple[int, int]
    """Pixels, down and right, by which the crop moves into its mirrored margin."""
    is_flipped: bool
    changes: tuple[Change, ...] | ThreeDraw
    erased: Box | None
    noise_seed: int
    """Decides what stands in the erased rectangle."""

    def reduction(self) -> int:
        """By how much the image may be decoded smaller."""
        return self.boxes.reduction()

    def on_grid(self, factor: int, height: int, width: int) -> Self:
        """The plan with its rectangle's edges where pixels decoded smaller meet."""
        return self._replace(boxes=self.boxes.on_grid(factor, height, width))

    def reduced(self, factor: int) -> Self:
        """A plan on the grid for the image decoded `factor` times smaller."""
        return self._replace(boxes=self.boxes.reduced(factor))


def _random_square(height: int, width: int, pixels: int, rng: np.random.Generator) -> tuple[Box, tuple[int, int]]:
    """A square as large as the shorter side, and how far the crop reaches into the mirrored margin beside it."""
    side = min(height, width)
    starts, shifts = [], []
    for length in (height, width):
        last = round(length * pixels / side) - pixels  # of the crop's places along the resized image
        place = int(rng.integers(-PADDING, last + PADDING + 1))
        inside = min(max(place, 0), last)
        starts.append(min(round(inside * side / pixels), length - side))
        shifts.append(place - inside)
    return Box(starts[0], starts[1], side, side), (shifts[0], shifts[1])


def _shifted(cut: UInt8[Tensor, "3 side side"], shift: tuple[int, int]) -> UInt8[Tensor, "3 side side"]:
    """The crop's window moved by `shift` pixels (down, right) over the crop and its mirror image around it."""
    if shift == (0, 0):
        return cut
    side = cut.shape[-1]
    padded = F.pad(cut.float(), [PADDING] * 4, mode="reflect").to(torch.uint8)
    down, right = PADDING + shift[0], PADDING + shift[1]
    return padded[:, down : down + side, right : right + side]


def _changed(cut: UInt8[Tensor, "3 side side"], changes: tuple[Change, ...]) -> UInt8[Tensor, "3 side side"]:
    if not changes:
        return cut
    picture = np.ascontiguousarray(cut.permute(1, 2, 0).numpy())
    for change in changes:
        picture = change.of(picture)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
