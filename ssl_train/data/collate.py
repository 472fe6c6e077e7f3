"""A batch of training: crops stacked crop by crop, where patches are masked, and the classes of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from ssl_train.data.colours import Draws, coloured_batch
from ssl_train.data.mix import Mixes, mix_images


class Crops(NamedTuple):
    """The crops of one image: finished, or bytes and what is to be done with their colours, crop by crop."""

    global_crops: Sequence[Float[Tensor, "3 side side"] | UInt8[Tensor, "3 side side"]]
    local_crops: Sequence[Float[Tensor, "3 small small"] | UInt8[Tensor, "3 small small"]]
    draws: Draws | None = None


@dataclass(frozen=True)
class Batch:
    """What one process trains on in one step; B images, crop 0 of all images first, then crop 1, and so on."""

    keys: tuple[str, ...]
    global_crops: Float[Tensor, "crops_x_batch 3 side side"]
    local_crops: Float[Tensor, "crops_x_batch 3 small small"]
    masks: Bool[Tensor, "crops_x_batch patches"]
    """True where the student does not see a patch of a global crop."""
    masked: Int[Tensor, " masked"]
    """Places, among all patches of all global crops, of the patches that the loss is on; ascending."""
    mask_weights: Float[Tensor, " masked"]
    """For every one of them, 1 / (how many its crop has)."""
    num_undecodable: int = 0
    """Images that could not be decoded and were replaced by the next."""
    global_draws: Draws | None = None
    """What is still to be done with the global crops, which are bytes then; None when they are finished."""
    local_draws: Draws | None = None
    """The same of the local crops."""
    labels: Int[Tensor, " images"] | None = None
    """The number of each image's class; None where the data's classes were not asked for."""
    mixed_labels: Int[Tensor, " images"] | None = None
    """The class of the image that each one is mixed with; None where nothing is mixed."""
    label_shares: Float[Tensor, " images"] | None = None
    """The share that an image's own class keeps."""
    mixes: Mixes | None = None
    """How the images are still to be mixed; None when they are finished."""

    @property
    def num_images(self) -> int:
        """Images in this process's part of the batch."""
        return len(self.keys)

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`, copied while the host goes on."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory; torch's DataLoader calls this by name."""
        return self._with_tensors(Tensor.pin_memory)

    def finished(self) -> "Batch":
        """The batch with its colours changed and its images mixed, where it lies."""
        batch = self
        if batch.global_draws is not None and batch.local_draws is not None:
            batch = replace(
                batch,
                global_crops=coloured_batch(batch.global_crops, batch.global_draws),
                local_crops=coloured_batch(batch.local_crops, batch.local_draws),
                global_draws=None,
                local_draws=None,
            )
        if batch.mixes is not None:
            batch = replace(batch, global_crops=mix_images(batch.global_crops, batch.mixes), mixes=None)
        return batch

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Keep the batch's memory on the GPU until `stream` is done with it."""
        self._with_tensors(lambda tensor: _recorded(tensor, stream))

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = change(value) if isinstance(value, Tensor) else value
        return Batch(**changed)


def collate(
    keys: Sequence[str],
    images: Sequence[Crops],
    masks: NDArray[np.bool_],
    *,
    hidden: bool = True,
    num_undecodable: int = 0,
    labels: Sequence[int] | None = None,
    mixes: Mixes | None = None,
) -> Batch:
    """The batch of these images; `masks` is [global crops x images, patches], crop-major.

    The loss is on the masked patches; unless they are `hidden`, the student sees them. `mixes` says how images are to
    be mixed, which takes one global crop of each, and labels.
    """
    classes = None if labels is None else torch.tensor(labels, dtype=torch.long)
    if mixes is not None and (classes is None or len(images[0].global_crops) != 1):
        raise ValueError("images are mixed where each has one crop and a label")
    mask = torch.from_numpy(masks)
    global_draws, local_draws = _crop_major(images)
    return Batch(
        keys=tuple(keys),
        global_crops=_stack([image.global_crops for image in images]),
        local_crops=_stack([image.local_crops for image in images]),
        masks=mask if hidden else torch.zeros_like(mask),
        masked=mask.flatten().nonzero().flatten(),
        mask_weights=(1 / mask.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(mask)[mask],
        num_undecodable=num_undecodable,
        global_draws=global_draws,
        local_draws=local_draws,
        labels=classes,
        mixed_labels=None if mixes is None or classes is None else classes[torch.from_numpy(mixes["partner"]).long()],
        label_shares=None if mixes is None else torch.from_numpy(mixes["share"].copy()),
        mixes=mixes,
    )


def _stack(crops: Sequence[Sequence[Tensor]]) -> Tensor:
    """[crops x images, 3, side, side], crop-major."""
    crop_major = [crop for same_crop in zip(*crops, strict=True) for crop in same_crop]
    return torch.stack(crop_major) if crop_major else torch.empty(0, 3, 0, 0)


def _crop_major(images: Sequence[Crops]) -> tuple[Draws | None, Draws | None]:
    """The draws of all global and of all local crops, in the order of `_stack`."""
    rows = [image.draws for image in images if image.draws is not None]
    if not rows:
        return None, None
    num_global = len(images[0].global_crops)
    by_crop = np.stack(rows, axis=1)  # [crops, images]
    return by_crop[:num_global].reshape(-1), by_crop[num_global:].reshape(-1)


def _recorded(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor
