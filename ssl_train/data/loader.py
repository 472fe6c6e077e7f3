"""Batches by step: what a process trains on at a step depends on the seed, the step and its place, and nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from torch.utils.data import DataLoader, Dataset

from ssl_train.data.augment import MultiCrop
from ssl_train.data.collate import Batch, Crops, collate
from ssl_train.data.masking import Masks
from ssl_train.data.order import image_at, positions_of
from ssl_train.data.source import FolderImages, Images, TarImages
from ssl_train.distributed import World
from ssl_train.errors import DataError
from storage.images import ImageError, decode_rgb

NUM_VIEWS = 2
MAX_UNDECODABLE_IN_A_ROW = 32
# Separate streams of chance from one seed.
CROPS_STREAM, MASKS_STREAM = 1, 2


@dataclass(frozen=True)
class Data:
    """What is trained on, and how much of it at a time. Give `shards` or `folder`."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    shards: str | tuple[str, ...] = ()
    """WebDataset tars: a list of paths or URLs, or a glob."""
    folder: str | None = None
    """A folder of images, subfolders included."""
    batch_images: Annotated[int, Field(ge=1)] = 2048
    """Images of a step, over all processes."""
    decode_min_side: Annotated[int, Field(ge=1)] | None = None
    """Decode JPEGs at the least scale whose smaller side has so many pixels; null decodes them whole."""

    def open(self) -> Images:
        """The images. Raises DataError when there are none."""
        return FolderImages(self.folder) if self.folder is not None else TarImages(self.shards)


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batches of one process, by step."""

    images: Images
    data: Data
    augment: MultiCrop
    masks: Masks
    grid: int
    """Patches along a side of a global crop."""
    group_images: int | None
    seed: int
    rank: int
    world_size: int

    def __getitem__(self, step: int) -> Batch:
        positions = positions_of(step, batch_images=self.data.batch_images, rank=self.rank, world_size=self.world_size)
        keys, crops, undecodable = [], list[Crops](), 0
        for position in positions:
            key, pixels, tries = self._decode(position)
            rng = np.random.default_rng((CROPS_STREAM, self.seed, position))
            keys.append(key)
            crops.append(self.augment.crops(pixels, rng))
            undecodable += tries
        masks = self._masks(step, len(positions))
        return collate(keys, crops, masks, hidden=self.masks.hides, num_undecodable=undecodable)

    def _decode(self, position: int) -> tuple[str, NDArray[np.uint8], int]:
        """Key and pixels of the image at a place, and how many images before it could not be decoded."""
        first = image_at(position, num_images=len(self.images), seed=self.seed)
        for tries in range(MAX_UNDECODABLE_IN_A_ROW):
            key, data = self.images.read((first + tries) % len(self.images))
            try:
                return key, decode_rgb(data, min_side=self.data.decode_min_side), tries
            except ImageError as error:
                last = error
        raise DataError(
            f"{MAX_UNDECODABLE_IN_A_ROW} images in a row cannot be decoded, the last is {key}: {last}. "
            "Check what data.shards or data.folder points to."
        ) from last

    def _masks(self, step: int, num_images: int) -> NDArray[np.bool_]:
        """Masks [views x images, patches], crop-major, dealt out within groups of images."""
        size = self.group_images or num_images
        first_group = self.rank * num_images // size
        groups = [
            self.masks.draw(
                NUM_VIEWS * size,
                self.grid,
                np.random.default_rng((MASKS_STREAM, self.seed, step, first_group + number)),
            )
            for number in range(num_images // size)
        ]
        by_group = np.stack(groups).reshape(len(groups), NUM_VIEWS, size, -1)
        return by_group.swapaxes(0, 1).reshape(NUM_VIEWS * num_images, -1)


@dataclass(frozen=True)
class Loader:
    """Batches made ahead by worker processes, in the order of the steps."""

    batches: Batches
    num_steps: int
    num_workers: int
    prefetch_batches: int
    pin_memory: bool

    def from_(self, start: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from step `start` to the last."""
        ahead: dict[str, Any] = {"prefetch_factor": self.prefetch_batches} if self.num_workers else {}
        steps = range(start, self.num_steps)
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            **ahead,
        )
        yield from zip(steps, loader, strict=True)


def build_loader(batches: Batches, *, num_steps: int, num_workers: int, prefetch_batches: int, world: World) -> Loader:
    """The loader of one process; batches go to page-locked memory where a GPU fetches them."""
    return Loader(batches, num_steps, num_workers, prefetch_batches, pin_memory=world.device.type == "cuda")
