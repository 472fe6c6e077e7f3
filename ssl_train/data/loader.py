"""Batches by step: what a process trains on at a step depends on the seed, the step and its place, and nothing else."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ssl_train.data.collate import Batch, Crops, collate
from ssl_train.data.labelled import Labelled
from ssl_train.data.labels import ImageLabels
from ssl_train.data.masking import Masks
from ssl_train.data.mix import Mixes
from ssl_train.data.order import Order, positions_of
from ssl_train.data.settings import Data
from ssl_train.data.source import EncodedImage, Images
from ssl_train.distributed import World
from ssl_train.errors import DataError
from storage.images import ImageError, decode_rgb, probe

__all__ = ["Batches", "Data", "Loader", "build_loader"]

MAX_UNDECODABLE_IN_A_ROW = 32
# Separate streams of chance from one seed.
CROPS_STREAM, MASKS_STREAM, MIXES_STREAM = 1, 2, 3
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT_BYTES = -1, -3, 1 << 28


class Plan(Protocol):
    """All chance of one image's crops."""

    def reduction(self) -> int:
        """By how much the image may be decoded smaller."""
        ...

    def on_grid(self, factor: int, height: int, width: int) -> Self:
        """The plan with edges where pixels decoded `factor` times smaller meet."""
        ...

    def reduced(self, factor: int) -> Self:
        """The plan for the image decoded `factor` times smaller."""
        ...


class Augment(Protocol):
    """What makes crops of an image: planned by its size first, then cut by the plan."""

    def plan(self, height: int, width: int, rng: np.random.Generator) -> Plan:
        """What becomes of an image of this size in pixels; all chance comes from `rng`."""
        ...

    def crops(self, image: NDArray[np.uint8], plan: Any) -> Crops:
        """The crops of an RGB image [height, width, 3] by its own plan; as many of each image."""
        ...


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """The batches of one process, by step."""

    images: Images
    data: Data
    augment: Augment
    masks: Masks
    grid: int
    """Patches along a side of a global crop."""
    group_images: int | None
    seed: int
    rank: int
    world_size: int
    labels: ImageLabels | None = None
    """The images' classes, where the training needs them."""

    @cached_property
    def order(self) -> Order:
        """Which image stands where."""
        return self.data.order_of(self.images, self.seed)

    def __getitem__(self, step: int) -> Batch:
        positions = positions_of(step, batch_images=self.data.batch_images, rank=self.rank, world_size=self.world_size)
        numbers = [self.order.image_at(position // self.data.repeats) for position in positions]
        keys, crops, seen, undecodable = [], list[Crops](), list[int](), 0
        for position, number, encoded in zip(positions, numbers, self.images.read(numbers), strict=True):
            rng = np.random.default_rng((CROPS_STREAM, self.seed, position))
            key, made, tries = self._crops(number, encoded, rng)
            keys.append(key)
            crops.append(made)
            seen.append((number + tries) % len(self.images))
            undecodable += tries
        return collate(
            keys,
            crops,
            self._masks(step, len(positions), num_views=len(crops[0].global_crops)),
            hidden=self.masks.hides,
            num_undecodable=undecodable,
            labels=None if self.labels is None else self.labels.numbers[seen].tolist(),
            mixes=self._mixes(step, len(positions)),
        )

    def _crops(self, number: int, encoded: EncodedImage, rng: np.random.Generator) -> tuple[str, Crops, int]:
        """Key and crops of an image, or of the first after it that can be decoded, and how many were passed over."""
        for tries in range(MAX_UNDECODABLE_IN_A_ROW):
            if tries:
                (encoded,) = self.images.read([(number + tries) % len(self.images)])
            try:
                return encoded.key, self._decoded_crops(encoded.data, rng), tries
            except ImageError as error:
                last = error
        raise DataError(
            f"{MAX_UNDECODABLE_IN_A_ROW} images in a row cannot be decoded, the last is {encoded.key}: {last}. "
            f"Check what data.{' or data.'.join(self.data.sources)} points to."
        ) from last

    def _decoded_crops(self, data: bytes, rng: np.random.Generator) -> Crops:
        """An image's crops; they are planned by its header, so that no more pixels are decoded than they need."""
        size = probe(data)
        plan = self.augment.plan(size.height, size.width, rng)
        factor = plan.reduction() if size.format == "JPEG" else 1
        plan = plan.on_grid(factor, size.height, size.width)
        if factor == 1 or self.data.decode == "exact":
            return self.augment.crops(decode_rgb(data), plan)
        smaller = decode_rgb(data, min_side=-(-min(size.height, size.width) // factor))
        return self.augment.crops(smaller, plan.reduced(factor))

    def _masks(self, step: int, num_images: int, *, num_views: int) -> NDArray[np.bool_]:
        """Masks [views x images, patches], crop-major, dealt out within groups of images."""
        size = self.group_images or num_images
        groups = [
            self.masks.draw(num_views * size, self.grid, rng) for rng in self._by_group(MASKS_STREAM, step, num_images)
        ]
        by_group = np.stack(groups).reshape(len(groups), num_views, size, -1)
        return by_group.swapaxes(0, 1).reshape(num_views * num_images, -1)

    def _mixes(self, step: int, num_images: int) -> Mixes | None:
        """How the images are mixed among each other within groups; None where they are not."""
        if not isinstance(self.augment, Labelled) or self.augment.mix is None:
            return None
        size, mixes = self.group_images or num_images, list[Mixes]()
        for number, rng in enumerate(self._by_group(MIXES_STREAM, step, num_images)):
            mixes.append(self.augment.mix.draw(size, self.augment.pixels, rng))
            mixes[-1]["partner"] += number * size
        return np.concatenate(mixes)

    def _by_group(self, stream: int, step: int, num_images: int) -> Iterator[np.random.Generator]:
        """The chance of each group of images at a step: the same however groups are spread over processes."""
        size = self.group_images or num_images
        first = self.rank * num_images // size
        for number in range(num_images // size):
            yield np.random.default_rng((stream, self.seed, step, first + number))


@dataclass(frozen=True)
class Loader:
    """Batches made ahead by worker processes, in the order of the steps, finished on the device that trains."""

    batches: Batches
    num_steps: int
    num_workers: int
    prefetch_batches: int
    device: torch.device

    def from_(self, start: int) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from step `start` to the last; on a GPU the next batch comes while it computes."""
        ahead: dict[str, Any] = {"prefetch_factor": self.prefetch_batches} if self.num_workers else {}
        steps = range(start, self.num_steps)
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=keep_freed_memory,
            **ahead,
        )
        yield from zip(steps, arrived(loader, self.device), strict=True)


def build_loader(batches: Batches, *, num_steps: int, num_workers: int, prefetch_batches: int, world: World) -> Loader:
    """The loader of one process; batches go to page-locked memory where a GPU fetches them."""
    return Loader(batches, num_steps, num_workers, prefetch_batches, world.device)


def arrived(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Each batch on the device, its colours changed there if they are not yet.

    A GPU does this on a stream of its own, while the training's stream still computes the step before.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device).finished()
        return
    own = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(own):
            there = batch.to(device).finished()
        training = torch.cuda.current_stream(device)
        training.wait_stream(own)
        there.used_by(training)
        yield there


def keep_freed_memory(_worker: int) -> None:
    """Have glibc keep what a worker frees: crops come and go, and new pages cost as much as the work on them."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
