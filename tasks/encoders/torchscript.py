"""Any published TorchScript file as an encoder.

A TorchScript file is a program. `torch.jit.load` unpickles no Python objects (its unpickler knows tensors and plain
containers) and the program cannot call Python. But it calls torch's operators with the process's rights, and among them
are some that read and write files (`aten::from_file`, `aten::save`), allocate at will or never end. What is trusted is
therefore the checksum, and it is required: give that of a file whose maker you trust.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field

from storage.filesystem import fetch_verified
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Fit,
    NetworkEncoder,
    Preparation,
    TorchConfig,
    Triple,
)


class TorchScript(TorchConfig):
    """A TorchScript module that turns [batch, 3, height, width] into [batch, dim]."""

    kind: Literal["torchscript"] = "torchscript"
    side: Annotated[int, Field(ge=16, le=4096)] = 224
    """Pixels of the side that `fit` speaks of."""
    fit: Fit = "square"
    """square squeezes the picture, short_side keeps its aspect, centre_crop takes the middle."""
    mean: Triple = IMAGENET_MEAN
    """Taken from each channel (of 0..1)."""
    std: Triple = IMAGENET_STD
    """Each channel is divided by this, then."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        return build_torchscript(self, Preparation(self.side, self.fit, mean=self.mean, std=self.std))


def build_torchscript(config: TorchConfig, preparation: Preparation) -> NetworkEncoder:
    """A TorchScript file, verified and loaded on the CPU, in eval mode."""
    path = fetch_verified(config.weights, config.sha256)
    try:
        network = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise EncoderUnavailable(f"{config.weights} is not a TorchScript file: {error}") from error
    return NetworkEncoder(network, preparation, config, precision=config.precision)
