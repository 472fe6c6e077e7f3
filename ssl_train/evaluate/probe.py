"""Nearest-neighbour accuracy of the teacher while it trains: all processes look at their share of the images."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data.source import is_image
from ssl_train.data.tar_labels import labelled_members
from ssl_train.distributed import World
from ssl_train.errors import DataError
from ssl_train.evaluate.features import central_crop, read_split
from ssl_train.evaluate.frozen import MAX_PIXELS
from ssl_train.evaluate.knn import knn_accuracy
from ssl_train.models import Backbone
from storage.filesystem import join, list_files, read_bytes
from storage.images import ImageError, decode_rgb

ASK_EVERY = 4
"""Of a set that is not split, every fourth image of a class is asked about; the others vote."""
READING_THREADS = 8


@dataclass(frozen=True)
class KnnProbe:
    """Weighted k-nearest-neighbour accuracy of the teacher on labelled images. Give `folder` or `shards`."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    folder: str | None = None
    """Images in <label>/ (every fourth is asked about, the others vote), or in train/<label>/ and test/<label>/."""
    shards: str | tuple[str, ...] = ()
    """WebDataset tars whose samples have an image and a label, `.cls`: a list of paths or URLs, or a glob."""
    every_steps: Annotated[int, Field(ge=1)] = 2500
    """Steps between two looks."""
    k: Annotated[int, Field(ge=1)] = 20
    """Neighbours that vote."""
    pixels: Annotated[int, Field(ge=1)] | None = None
    """Side of the images shown to the network; null for its own, 224 at most."""
    batch_images: Annotated[int, Field(ge=1)] = 64
    """Images at a time on each process."""

    def is_due(self, step: int) -> bool:
        """Whether the teacher is looked at after `step` finished steps."""
        return step % self.every_steps == 0

    def open(self) -> "LabelledImages":
        """The images, found and not yet read. Raises DataError when there are none to ask about, or none to vote."""
        if self.folder is not None:
            found = _split_folder(self.folder) or _whole(list(_of_folder(self.folder)))
        else:
            found = _whole([sample for path in _tars(self.shards) for sample in _of_tar(path)])
        if not found.asked.any() or found.asked.all():
            raise DataError(
                f"metrics.knn has no labelled images to compare in {self.folder or self.shards} ({len(found.places)} "
                "found). It wants images in <label>/ or in train/<label>/ and test/<label>/, or tars with .cls labels, "
                f"and {ASK_EVERY} or more images of a class."
            )
        return found


class Place(NamedTuple):
    """Where an encoded image lies: a whole file when it has no size."""

    path: str
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class LabelledImages:
    """Images with the number of their class, and which of them are asked about."""

    places: tuple[Place, ...]
    labels: Int[Tensor, " images"]
    asked: Bool[Tensor, " images"]


@torch.no_grad()
def knn_top1(network: Backbone, images: LabelledImages, config: KnnProbe, world: World) -> tuple[float, int]:
    """Percent of the asked images whose class gets most votes, and how many images could not be decoded.

    Every process must call it: a sharded network is gathered by all, and each has looked at its share of the images.
    The network stays in the mode it is in; nothing is drawn by chance. Memory: images x dim floats on the device.
    """
    table = _gathered(_own_features(network, images, config, world), world)[: len(images.places)]
    features, is_readable = table[:, :-1], table[:, -1] > 0
    labels, asked = images.labels.to(table.device), images.asked.to(table.device)
    votes, asks = is_readable & ~asked, is_readable & asked
    num_broken = len(table) - int(is_readable.sum())
    if not votes.any() or not asks.any():
        return float("nan"), num_broken
    scores = knn_accuracy(features[votes], labels[votes], features[asks], labels[asks], ks=[config.k])
    return next(iter(scores.values()))[1], num_broken


def _own_features(
    network: Backbone, images: LabelledImages, config: KnnProbe, world: World
) -> Float[Tensor, "share dim_and_one"]:
    """Class tokens of this process's images and, last, whether each could be decoded.

    All processes make equally many batches of one size (a compiled network sees one shape); the last image fills up.
    """
    share = -(-len(images.places) // world.size)
    batch = min(config.batch_images, share)
    pixels = config.pixels or min(network.image_size, MAX_PIXELS)
    last, rows = len(images.places) - 1, list[Tensor]()
    with ThreadPoolExecutor(READING_THREADS) as pool:
        for start in range(0, share, batch):
            numbers = [min(world.rank * share + row, last) for row in range(start, start + batch)]
            seen = list(pool.map(lambda number: _pixels(images.places[number], pixels), numbers))
            crops = torch.stack([torch.zeros(3, pixels, pixels) if crop is None else crop for crop in seen])
            tokens = network.tokens(crops.to(world.device)).cls.float()
            is_readable = tokens.new_tensor([[crop is not None] for crop in seen])
            rows.append(torch.cat([tokens, is_readable], dim=1))
    return torch.cat(rows)[:share]


def _gathered(own: Float[Tensor, "share dim"], world: World) -> Float[Tensor, "all dim"]:
    if world.size == 1:
        return own
    everyone = own.new_empty(world.size * len(own), own.shape[1])
    dist.all_gather_into_tensor(everyone, own.contiguous())
    return everyone


def _pixels(place: Place, pixels: int) -> Float[Tensor, "3 pixels pixels"] | None:
    data = read_bytes(place.path) if place.size is None else read_bytes(place.path, place.offset, place.size)
    try:
        return central_crop(decode_rgb(data), pixels)
    except ImageError:
        return None


def _split_folder(folder: str) -> LabelledImages | None:
    """A folder that is split into train/ and test/; None for another."""
    if not any(is_image(path) for path in list_files(join(folder, "train", "*", "*"), only_files=True)):
        return None
    voters, classes = read_split(folder, "train")
    asked, _ = read_split(folder, "test", classes)
    is_asked = torch.cat([torch.zeros_like(voters.labels), torch.ones_like(asked.labels)]).bool()
    paths = (*voters.paths, *asked.paths)
    return LabelledImages(tuple(map(Place, paths)), torch.cat([voters.labels, asked.labels]), is_asked)


def _whole(samples: Sequence[tuple[Place, str]]) -> LabelledImages:
    """A set that is not split: of every class, in the order of the samples, each fourth is asked about."""
    classes = {name: number for number, name in enumerate(sorted({name for _, name in samples}))}
    seen = dict.fromkeys(classes, 0)
    asked = []
    for _, name in samples:
        seen[name] += 1
        asked.append(seen[name] % ASK_EVERY == 0)
    labels = torch.tensor([classes[name] for _, name in samples], dtype=torch.long)
    return LabelledImages(tuple(place for place, _ in samples), labels, torch.tensor(asked, dtype=torch.bool))


def _of_folder(folder: str) -> Iterator[tuple[Place, str]]:
    for path in list_files(join(folder, "*", "*"), only_files=True):
        if is_image(path):
            yield Place(path), PurePosixPath(path).parent.name


def _tars(shards: str | Sequence[str]) -> list[str]:
    return list_files(shards) if isinstance(shards, str) else list(shards)


def _of_tar(path: str) -> Iterator[tuple[Place, str]]:
    """The samples of a tar that have both an image and a `.cls`, in its order."""
    for member, label in labelled_members(path):
        if label:
            yield Place(path, member.offset, member.size), label
