"""Masks over the patch grid of global crops: which patches the student must guess."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, Tag

from ssl_train.settings import by_kind

Share = Annotated[float, Field(ge=0, le=1)]
MIN_BLOCK_PATCHES = 4
MIN_ASPECT = 0.3
TRIES_PER_BLOCK = 10


@dataclass(frozen=True)
class BlockMasks:
    """Masks of random rectangles (BEiT, arXiv 2106.08254, algorithm 1), as dealt out by DINOv2."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["blocks"] = "blocks"
    """Tag of these masks."""
    masked_crops: Share = 0.5
    """Share of the global crops that get a mask."""
    ratio: tuple[Share, Share] = (0.1, 0.5)
    """Least and largest share of a masked crop's patches that are masked."""
    exact: bool = False
    """Complete each mask with random patches to the number that was drawn (as DINOv3 does, arXiv 2508.10104), and draw
    the largest of its range: a step then has the same number of masked patches as any other. DINOv2's fall short."""

    hides: ClassVar[bool] = True
    """The student does not see what is masked."""

    @property
    def share(self) -> float:
        """Mean share of all patches that the loss is on."""
        return self.masked_crops * sum(self.ratio) / 2

    def draw(self, num_crops: int, grid: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Masks [crops, grid * grid] of a group of global crops.

        int(num_crops * masked_crops) crops are masked. The range of ratios is cut into as many equal parts, one for
        each masked crop, so that a group's masked patches hardly vary in number; then crops are shuffled.
        """
        num_masked = int(num_crops * self.masked_crops)
        bounds = np.linspace(*self.ratio, num_masked + 1)
        patches = grid * grid
        masks = np.zeros((num_crops, grid, grid), dtype=np.bool_)
        for crop in range(num_masked):
            ratio = bounds[crop + 1] if self.exact else rng.uniform(bounds[crop], bounds[crop + 1])
            fill_with_blocks(masks[crop], int(patches * ratio), max_block=grid // 2 * grid, rng=rng)
            if self.exact:
                fill_at_random(masks[crop], int(patches * ratio), rng)
        rng.shuffle(masks)
        return masks.reshape(num_crops, patches)


@dataclass(frozen=True)
class NoMasks:
    """The student sees every patch and is asked about every patch, as in distillation (arXiv 2304.07193, section 5)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["none"] = "none"
    """Tag of these masks."""

    hides: ClassVar[bool] = False
    """Nothing is hidden: what `draw` marks is what the loss is on."""

    @property
    def share(self) -> float:
        """Mean share of all patches that the loss is on: all of them."""
        return 1.0

    def draw(self, num_crops: int, grid: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Every patch of every crop [crops, grid * grid]."""
        return np.ones((num_crops, grid * grid), dtype=np.bool_)


@dataclass(frozen=True)
class ChoiceMasks:
    """Masks as iBOT draws them (arXiv 2111.07832, section 3.3): for every crop one of several ratios, then rectangles.

    The paper draws a ratio for an image; its code, for each crop, and so do we.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["choice"] = "choice"
    """Tag of these masks."""
    ratios: tuple[Share, ...] = (0.0, 0.3)
    """Shares of a crop's patches that are masked; each crop takes one of them."""
    spreads: tuple[Share, ...] = (0.0, 0.2)
    """By how much each of them may be less or more: it is drawn evenly from that stretch."""

    hides: ClassVar[bool] = True
    """The student does not see what is masked."""

    def __post_init__(self) -> None:
        if not self.ratios or len(self.ratios) != len(self.spreads):
            raise ValueError(
                f"masks.ratios = {self.ratios}, masks.spreads = {self.spreads}: one or more, and one for each"
            )
        if any(spread > ratio for ratio, spread in zip(self.ratios, self.spreads, strict=True)):
            raise ValueError(f"masks.spreads = {self.spreads} reach below zero from masks.ratios = {self.ratios}")

    @property
    def share(self) -> float:
        """Mean share of all patches that the loss is on."""
        return sum(self.ratios) / len(self.ratios)

    def draw(self, num_crops: int, grid: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """Masks [crops, grid * grid]. A block is as large as the rest that is wanted, and a third of the side at least.

        They fall short of their ratio, as the published ones do: what is missing in the end is too small for a block.
        """
        masks = np.zeros((num_crops, grid, grid), dtype=np.bool_)
        patches, smallest = grid * grid, (grid // 3) ** 2
        for mask in masks:
            which = int(rng.integers(len(self.ratios)))
            ratio = self.ratios[which] + self.spreads[which] * rng.uniform(-1, 1)
            fill_with_blocks(mask, patches * ratio, max_block=patches, rng=rng, min_block=smallest)
        return masks.reshape(num_crops, patches)


@dataclass(frozen=True)
class NoPatches:
    """No loss on patches: nothing is hidden, and nothing is asked about. Of methods that look at whole crops."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["no_patches"] = "no_patches"
    """Tag of these masks."""

    hides: ClassVar[bool] = False
    """Nothing is hidden."""

    @property
    def share(self) -> float:
        """Mean share of all patches that the loss is on: none."""
        return 0.0

    def draw(self, num_crops: int, grid: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """No patch of any crop [crops, grid * grid]."""
        return np.zeros((num_crops, grid * grid), dtype=np.bool_)


Masks: TypeAlias = Annotated[
    Annotated[BlockMasks, Tag("blocks")]
    | Annotated[ChoiceMasks, Tag("choice")]
    | Annotated[NoMasks, Tag("none")]
    | Annotated[NoPatches, Tag("no_patches")],
    by_kind("blocks"),
]


def fill_at_random(mask: NDArray[np.bool_], target: int, rng: np.random.Generator) -> None:
    """Set free patches of `mask` [rows, columns], drawn one by one, until `target` are set."""
    free = np.flatnonzero(~mask)
    missing = target - (mask.size - len(free))
    if missing > 0:
        mask.reshape(-1)[rng.choice(free, missing, replace=False)] = True


def fill_with_blocks(
    mask: NDArray[np.bool_],
    target: float,
    *,
    max_block: int,
    rng: np.random.Generator,
    min_block: int = MIN_BLOCK_PATCHES,
) -> None:
    """Set rectangles in `mask` [rows, columns] until `target` patches are set, or no rectangle fits any more.

    A rectangle's area is drawn between `min_block` and what is still wanted, `max_block` at most.
    """
    count = 0
    while count < target:
        limit = min(target - count, max_block)
        added = _add_block(mask, min_block, limit, rng)
        if added == 0:
            return
        count += added


def _add_block(mask: NDArray[np.bool_], least: int, limit: float, rng: np.random.Generator) -> int:
    rows, columns = mask.shape
    for _ in range(TRIES_PER_BLOCK):
        area = least + (limit - least) * rng.random()
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, left = int(rng.integers(0, rows - height + 1)), int(rng.integers(0, columns - width + 1))
        block = mask[top : top + height, left : left + width]
        added = height * width - int(np.count_nonzero(block))
        if 0 < added <= limit:
            block[...] = True
            return added
    return 0
