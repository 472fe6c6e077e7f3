"""Any published TorchScript file as an encoder.

A TorchScript file is a program: `torch.jit.load` unpickles no Python objects, but running the module executes the
operators it holds, with the process's rights. What is trusted is therefore the checksum, and it is required: give that
of a file whose maker you trust.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from storage.filesystem import fetch_verified
from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import IMAGENET_MEAN, IMAGENET_STD, NetworkEncoder, Preparation

Sha256 = Annotated[str, Field(pattern=r"^(sha256:)?[0-9a-fA-F]{64}$")]
Triple = tuple[float, float, float]


class TorchScript(StageConfig):
    """A TorchScript module that turns [batch, 3, height, width] into [batch, dim]."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"weights", "batch_images", "num_threads"})

    kind: Literal["torchscript"] = "torchscript"
    weights: str
    """Path or URL of the file."""
    sha256: Sha256
    """Its SHA-256; the file is refused when it differs."""
    side: Annotated[int, Field(ge=16, le=4096)] = 224
    """Pixels of the side that `fit` speaks of."""
    fit: Literal["square", "short_side", "centre_crop"] = "square"
    """square squeezes the picture, short_side keeps its aspect, centre_crop takes the middle."""
    mean: Triple = IMAGENET_MEAN
    """Taken from each channel (of 0..1)."""
    std: Triple = IMAGENET_STD
    """Each channel is divided by this, then."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures in one pass."""
    num_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one worker."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        return build_torchscript(
            self.weights,
            self.sha256,
            Preparation(self.side, self.fit, mean=self.mean, std=self.std),
            batch_images=self.batch_images,
            num_threads=self.num_threads,
        )


def build_torchscript(
    weights: str, sha256: str, preparation: Preparation, *, batch_images: int, num_threads: int
) -> NetworkEncoder:
    """A TorchScript file, verified and loaded on the CPU, in eval mode."""
    path = fetch_verified(weights, sha256)
    try:
        network = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        raise EncoderUnavailable(f"{weights} is not a TorchScript file: {error}") from error
    return NetworkEncoder(network, preparation, batch_images=batch_images, num_threads=num_threads, name=weights)
