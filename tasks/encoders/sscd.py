"""SSCD, the copy descriptor that DINOv2 deduplicated with (Pizzi et al., CVPR 2022), from its published TorchScript.

The files lie under https://dl.fbaipublicfiles.com/sscd-copy-detection/; `sscd_disc_mixup.torchscript.pt` (ResNet-50,
512 numbers) is the authors' default. See `torchscript` for what such a file may do, and why its checksum is required.
"""

from typing import Literal

from tasks.encoders.base import BuiltEncoder
from tasks.encoders.network import Preparation, TorchConfig
from tasks.encoders.torchscript import build_torchscript


class Sscd(TorchConfig):
    """SSCD: the descriptor for finding copies, trained for it."""

    kind: Literal["sscd"] = "sscd"
    resize: Literal["square_320", "short_side_288"] = "square_320"
    """Squeezed to 320x320 (batches well; the authors' choice for speed), or the shorter side to 288 pixels, which
    batches only pictures of one shape."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        square = self.resize == "square_320"
        return build_torchscript(self, Preparation(320, "square") if square else Preparation(288, "short_side"))
