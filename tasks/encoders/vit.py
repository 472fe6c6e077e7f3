"""A vision transformer as encoder: teachers that this project trained, and published DINO and DINOv2 weights.

Weights are read as tensors; no code of the file is run.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssl_train.errors import CheckpointError
from ssl_train.models import load_backbone
from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import NetworkEncoder, Preparation
from tasks.encoders.torchscript import Sha256


class VitEncoder(StageConfig):
    """A ViT: our own checkpoints (.safetensors) or published ones (.pth), recognised by the names of their tensors."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"weights", "batch_images", "num_threads"})

    kind: Literal["vit"] = "vit"
    weights: str
    """Path or URL of the checkpoint."""
    sha256: Sha256
    """Its SHA-256; the file is refused when it differs."""
    side: Annotated[int, Field(ge=14, le=2048)] = 224
    """Pixels of the square that the network sees, the middle of the picture; a multiple of the patch size."""
    tokens: Literal["class", "class_and_mean_patch"] = "class"
    """The class token, or it and the mean of the patch tokens."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures in one pass."""
    num_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one worker."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        try:
            backbone = load_backbone(self.weights, self.sha256)
        except CheckpointError as error:
            raise EncoderUnavailable(str(error)) from error
        if self.side % backbone.patch_size:
            raise EncoderUnavailable(
                f"side is {self.side}, but {self.weights} has patches of {backbone.patch_size} pixels. "
                f"Take {self.side // backbone.patch_size * backbone.patch_size} or another multiple."
            )

        def network(images: Tensor) -> Tensor:
            found = backbone.tokens(images)
            if self.tokens == "class":
                return found.cls
            return torch.cat([found.cls, found.patches.mean(dim=1)], dim=1)

        return NetworkEncoder(
            network,
            Preparation(self.side, "centre_crop", method="bicubic"),
            batch_images=self.batch_images,
            num_threads=self.num_threads,
            name=self.weights,
        )
