"""A copy descriptor in one file: a backbone and the layers after it."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.errors import CheckpointError
from ssl_train.models.backbone import Backbone
from ssl_train.models.gem import DescriptorHead
from ssl_train.models.load import read_backbone, read_tensors
from ssl_train.models.model import Model

HEAD = "descriptor_head"
"""What the layers after the backbone are called: in a run, in its heads.safetensors, and in a descriptor's file."""


class DescriptorNet(nn.Module):
    """Images [batch, 3, height, width], normalised as in training, to unit descriptors [batch, dim]."""

    def __init__(self, backbone: Backbone, head: DescriptorHead) -> None:
        super().__init__()
        self.backbone, self.descriptor_head = backbone, head

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        descriptors: Tensor = self.descriptor_head(self.backbone.tokens(images).patches)
        return descriptors


class Descriptor(NamedTuple):
    """A descriptor from a file, and the architecture of its backbone."""

    network: DescriptorNet
    model: Model


def load_descriptor(path: str, sha256: str | None = None) -> Descriptor:
    """The descriptor in a file of `ssl_train.descriptor` (a local path, or a URL with its `sha256`), in eval mode.

    Raises CheckpointError when the file is missing or holds no descriptor, and storage's ChecksumMismatch when its
    bytes are others.
    """
    tensors, _ = read_tensors(path, sha256)
    loaded, head = read_backbone(path, sha256), head_in(tensors, path)
    return Descriptor(DescriptorNet(loaded.network, head).eval(), loaded.model)


def head_in(tensors: Mapping[str, Tensor], path: str) -> DescriptorHead:
    """The layers after the backbone, rebuilt from their tensors: these say how wide they are, and how they pool."""
    own = {name.removeprefix(f"{HEAD}."): tensor.float() for name, tensor in tensors.items() if name.startswith(HEAD)}
    if "projection.weight" not in own or "pool.power" not in own:
        raise CheckpointError(
            f"{path} holds no descriptor: there is no {HEAD} among its tensors ({', '.join(list(tensors)[:3])}, ...). "
            "Give a file that python -m ssl_train.descriptor wrote from an export of a run of `method: {kind: sscd}`."
        )
    out_dim, in_dim = own["projection.weight"].shape
    head = DescriptorHead(in_dim, out_dim)
    head.load_state_dict(own, strict=True)
    return head
