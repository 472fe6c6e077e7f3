"""A backbone as encoder: any that this project trained (ViT, ResNet, InternImage, ...), and published weights.

Weights are read as tensors; no code of the file is run: .safetensors hold none, and a .pth (a pickle) goes, after its
checksum, through torch's restricted unpickler, which refuses every class but tensors and plain containers.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_train.errors import CheckpointError
from ssl_train.models import Backbone, load_backbone
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import NetworkEncoder, Preparation, TorchConfig

TokenChoice = Literal["class", "class_and_mean_patch"]


class VitEncoder(TorchConfig):
    """A ViT or another backbone: our own checkpoints (.safetensors), which say what they are, or published ones (.pth),
    recognised by the names and shapes of their tensors: DINO's and DINOv2's ViTs, ResNets.
    """

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = TorchConfig.NOT_IN_FINGERPRINT | {"compiled"}

    kind: Literal["vit"] = "vit"
    side: Annotated[int, Field(ge=14, le=2048)] = 224
    """Pixels of the square that the network sees, the middle of the picture; a multiple of the patch size (of what one
    place of the last stage stands for: 32 in a ResNet)."""
    tokens: TokenChoice = "class"
    """The class token, or it and the mean of the patch tokens; a backbone without a class token gives its pooled one,
    which is that mean."""
    compiled: bool = False
    """Compile the network at a worker's first batch: it takes about a minute, and pays where a worker encodes tens of
    thousands of images on a GPU."""

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
        return NetworkEncoder(
            _Tokens(backbone, self.tokens).eval(),
            Preparation(self.side, "centre_crop", method="bicubic"),
            self,
            precision=self.precision,
            compiled=self.compiled,
        )


class _Tokens(nn.Module):
    """The tokens that stand for a picture: [batch, 3, side, side] -> [batch, dim] or [batch, 2 * dim]."""

    def __init__(self, backbone: Backbone, tokens: TokenChoice) -> None:
        super().__init__()
        self.backbone, self.tokens = backbone, tokens

    def forward(self, images: Tensor) -> Tensor:
        found = self.backbone.tokens(images)
        return found.cls if self.tokens == "class" else torch.cat([found.cls, found.patches.mean(dim=1)], dim=1)
