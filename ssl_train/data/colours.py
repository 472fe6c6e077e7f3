"""What happens to a crop's colours: drawn on the host as numbers, applied there crop by crop or on a device in batches.

The draws decide everything, so both ways give the same pixels, up to the rounding of sums.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ssl_train.data import pixels
from ssl_train.data.pixels import Images

FLIP = 0.5
JITTER = 0.8
GRAY = 0.2
STRENGTHS = (0.4, 0.4, 0.2, 0.1)
BLUR_SIGMA = (0.1, 2.0)
_CENTRES = np.array([1, 1, 1, 0])
"""Of the factors of brightness, contrast and saturation, and of the hue's turn: uniform in centre ± strength."""
JITTERS: Final = (pixels.scale_brightness, pixels.scale_contrast, pixels.scale_saturation, pixels.shift_hue)
DRAWS = np.dtype(
    [
        ("flip", np.bool_),
        ("jitter", np.bool_),
        ("order", np.uint8, len(JITTERS)),  # numbers in JITTERS, first to last
        ("amounts", np.float32, len(JITTERS)),  # by number in JITTERS
        ("gray", np.bool_),
        ("blur", np.bool_),
        ("sigma", np.float32),  # of the blur, in pixels
        ("solarize", np.bool_),
    ]
)
"""One crop's draws, 30 bytes."""
Draws = NDArray[np.void]
Change = Callable[[Images, Tensor], Images]


def draw(
    rng: np.random.Generator,
    *,
    blur: Sequence[float],
    solarize: Sequence[float],
    jitter: float = JITTER,
    strengths: Sequence[float] = STRENGTHS,
    gray: float = GRAY,
    flip: float = FLIP,
) -> Draws:
    """The draws of crops with these chances of a blur and of being solarised; always as many numbers for a crop.

    `jitter`, `gray` and `flip` are the chances of those changes, alike for all crops; `strengths` are by number in
    JITTERS.
    """
    size = len(blur)
    rows = np.empty(size, DRAWS)
    chances = rng.random((5, size))
    rows["flip"], rows["jitter"], rows["gray"] = chances[0] < flip, chances[1] < jitter, chances[2] < gray
    rows["blur"], rows["solarize"] = chances[3] < blur, chances[4] < solarize
    rows["order"] = rng.random((size, len(JITTERS))).argsort(axis=1)
    rows["amounts"] = _CENTRES + np.array(strengths) * rng.uniform(-1, 1, (size, len(JITTERS)))
    rows["sigma"] = rng.uniform(*BLUR_SIGMA, size)
    return rows


def coloured(crop: UInt8[Tensor, "3 side side"], row: np.void) -> Float[Tensor, "3 side side"]:
    """One crop by its draws: flipped, jittered, grayed, blurred, solarised, normalised."""
    image = pixels.to_unit(crop)
    if row["flip"]:
        image = image.flip(-1)
    if row["jitter"]:
        for number in row["order"]:
            image = JITTERS[number](image, float(row["amounts"][number]))
    if row["gray"]:
        image = pixels.to_gray(image)
    if row["blur"]:
        image = pixels.gaussian_blur(image, float(row["sigma"]))
    if row["solarize"]:
        image = pixels.solarize(image)
    return pixels.normalise(image)


class Step(NamedTuple):
    """A change of some crops of a batch."""

    change: Change
    crops: NDArray[np.intp]
    amounts: NDArray[np.float32]


@torch.no_grad()
def coloured_batch(crops: UInt8[Tensor, "n 3 side side"], draws: Draws) -> Float[Tensor, "n 3 side side"]:
    """`coloured` for every crop with its row of `draws`, kind by kind, where `crops` lie.

    Which crops change is known on the host: the device is never waited for.
    """
    images = pixels.to_unit(crops)
    steps = [step for step in _steps(draws) if len(step.crops)]
    if steps:
        sizes = [len(step.crops) for step in steps]
        rows = _sent(np.concatenate([step.crops for step in steps]), images).split(sizes)
        amounts = _sent(np.concatenate([step.amounts for step in steps]), images).split(sizes)
        for step, row, amount in zip(steps, rows, amounts, strict=True):
            images[row] = step.change(images[row], amount)
    return pixels.normalise(images)


def _steps(draws: Draws) -> Iterator[Step]:
    """The changes in the order in which every crop undergoes its own."""
    none = np.zeros(len(draws), np.float32)
    yield _step(_flip, draws["flip"], none)
    for turn in range(len(JITTERS)):
        for number, change in enumerate(JITTERS):
            yield _step(change, draws["jitter"] & (draws["order"][:, turn] == number), draws["amounts"][:, number])
    yield _step(_gray, draws["gray"], none)
    yield _step(pixels.gaussian_blur, draws["blur"], draws["sigma"])
    yield _step(_solarize, draws["solarize"], none)


def _step(change: Change, chosen: NDArray[np.bool_], amounts: NDArray[np.float32]) -> Step:
    return Step(change, np.flatnonzero(chosen), amounts[chosen])


def _flip(images: Images, _: Tensor) -> Images:
    return images.flip(-1)


def _gray(images: Images, _: Tensor) -> Images:
    return pixels.to_gray(images)


def _solarize(images: Images, _: Tensor) -> Images:
    return pixels.solarize(images)


def _sent(numbers: NDArray[np.generic], images: Tensor) -> Tensor:
    """A host's array beside `images`, without waiting for a GPU."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(images.device, non_blocking=True) if images.is_cuda else tensor
