"""Frozen features for linear classifiers: class tokens of the last blocks, and the mean patch token."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ssl_train.data.pixels import crop_and_resize, normalise, random_box, to_unit
from ssl_train.evaluate.features import central_crop, read_image
from ssl_train.models import Backbone

CROP_SCALE = (0.08, 1.0)
"""Share of an image's area that a random crop covers, as is the custom on ImageNet."""


class Rows(NamedTuple):
    """Features, images x (the blocks' class tokens, first block first, then the mean patch token of the last)."""

    features: Float[Tensor, "views images all"]
    widths: tuple[int, ...]


@torch.no_grad()
def block_features(
    network: Backbone,
    paths: Sequence[str],
    *,
    num_blocks: int,
    pixels: int,
    batch_images: int,
    views: int = 0,
    seed: int = 0,
) -> Rows:
    """Features of the last `num_blocks` blocks (stages of a network without blocks), on the host.

    `views` 0 shows each image's central square; more, so many random crops of it, some mirrored, as a training set
    whose augmentation is drawn beforehand. Memory: 4 bytes x views x images x all widths.
    """
    device = next(network.parameters()).device
    network.eval()
    rows: list[Tensor] = []
    widths: tuple[int, ...] = ()
    for start in range(0, len(paths), batch_images):
        images = [read_image(path) for path in paths[start : start + batch_images]]
        seen = []
        for shown in _shown(images, pixels, views, np.random.default_rng((seed, start))):
            maps = network.intermediate(shown.to(device), num_blocks)
            parts = [cls for cls, _ in maps] + [maps[-1][1].flatten(2).mean(-1)]
            widths = tuple(part.shape[1] for part in parts)
            seen.append(torch.cat(parts, dim=1).float().cpu())
        rows.append(torch.stack(seen))
    return Rows(torch.cat(rows, dim=1), widths)


def _shown(
    images: Sequence[NDArray[np.uint8]], pixels: int, views: int, rng: np.random.Generator
) -> Iterator[Float[Tensor, "images 3 pixels pixels"]]:
    if not views:
        yield torch.stack([central_crop(image, pixels) for image in images])
    for _ in range(views):
        yield torch.stack([_random_crop(image, pixels, rng) for image in images])


def _random_crop(image: NDArray[np.uint8], pixels: int, rng: np.random.Generator) -> Float[Tensor, "3 pixels pixels"]:
    height, width = image.shape[:2]
    crop = crop_and_resize(image, random_box(height, width, CROP_SCALE, rng), pixels)
    return normalise(to_unit(crop.flip(-1) if rng.random() < 0.5 else crop))
