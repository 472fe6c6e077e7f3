"""SSCD, the copy descriptor that DINOv2 deduplicated with (Pizzi et al., CVPR 2022), from its published TorchScript.

The files lie under https://dl.fbaipublicfiles.com/sscd-copy-detection/; `sscd_disc_mixup.torchscript.pt` (ResNet-50,
512 numbers) is the authors' default. See `torchscript` for what such a file may do, and why its checksum is required.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.config import StageConfig
from tasks.encoders.base import BuiltEncoder
from tasks.encoders.network import Preparation
from tasks.encoders.torchscript import Sha256, build_torchscript


class Sscd(StageConfig):
    """SSCD: the descriptor for finding copies, trained for it."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"weights", "batch_images", "num_threads"})

    kind: Literal["sscd"] = "sscd"
    weights: str
    """Path or URL of the TorchScript file."""
    sha256: Sha256
    """Its SHA-256; the file is refused when it differs."""
    resize: Literal["square_320", "short_side_288"] = "square_320"
    """Squeezed to 320x320 (batches well; the authors' choice for speed), or the shorter side to 288 pixels."""
    batch_images: Annotated[int, Field(ge=1, le=4096)] = 32
    """Pictures in one pass."""
    num_threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of one worker."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        square = self.resize == "square_320"
        preparation = Preparation(320, "square") if square else Preparation(288, "short_side")
        return build_torchscript(
            self.weights, self.sha256, preparation, batch_images=self.batch_images, num_threads=self.num_threads
        )
