"""Frozen features of labelled images: train/<label>/*, test/<label>/* in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ssl_train.data.pixels import Box, crop_and_resize, normalise, to_unit
from ssl_train.data.source import is_image
from ssl_train.errors import DataError
from ssl_train.models import Backbone
from storage.filesystem import join, list_files, read_bytes
from storage.images import ImageError, decode_rgb

RESIZE_OVER_CROP = 256 / 224
"""The shorter side is resized to this times the crop, as is the custom on ImageNet."""


@dataclass(frozen=True)
class Labelled:
    """Images of one split, and the number of each one's class."""

    paths: tuple[str, ...]
    labels: Int[Tensor, " images"]


def read_split(folder: str, split: str, classes: Sequence[str] | None = None) -> tuple[Labelled, tuple[str, ...]]:
    """The images under `folder`/`split`/<label>, and the classes (those given, else the split's own, by name).

    Raises DataError when there is no image, or one of a class that is not among those given.
    """
    root = join(folder, split)
    paths = [path for path in list_files(join(root, "*", "*"), only_files=True) if is_image(path)]
    if not paths:
        raise DataError(f"no images under {root}/<label>/. Labelled images lie in train/<label>/ and test/<label>/.")
    names = [PurePosixPath(path).parent.name for path in paths]
    known = tuple(classes or sorted(set(names)))
    strangers = sorted(set(names) - set(known))
    if strangers:
        raise DataError(f"{root} has classes that the other split has not: {', '.join(strangers[:5])}.")
    return Labelled(tuple(paths), torch.tensor([known.index(name) for name in names])), known


def read_image(path: str) -> NDArray[np.uint8]:
    """An image that is scored. Raises DataError for one that is broken: scores without it would not be comparable."""
    try:
        return decode_rgb(read_bytes(path))
    except ImageError as error:
        raise DataError(f"{path} cannot be decoded: {error}. Mend it, or take it out of the set.") from error


@torch.no_grad()
def class_tokens(
    network: Backbone, paths: Sequence[str], *, pixels: int, batch_images: int
) -> Float[Tensor, "images dim"]:
    """Class tokens after the last norm, on the host. The network is used where it lies, in eval mode."""
    device = next(network.parameters()).device
    network.eval()
    features = []
    for start in range(0, len(paths), batch_images):
        images = [central_crop(read_image(path), pixels) for path in paths[start : start + batch_images]]
        features.append(network.tokens(torch.stack(images).to(device)).cls.float().cpu())
    return torch.cat(features)


def central_crop(image: NDArray[np.uint8], pixels: int) -> Float[Tensor, "3 pixels pixels"]:
    """The central square, such that its side was 224 had the shorter side been resized to 256; normalised.

    Cropping first and resizing once gives the same picture as resizing and cropping, but for the border's filter.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) / RESIZE_OVER_CROP))
    box = Box((height - side) // 2, (width - side) // 2, side, side)
    return normalise(to_unit(crop_and_resize(image, box, pixels)))
