"""A copy descriptor that this project trained (`method: {kind: sscd}`), as one file: no download, no TorchScript.

`python -m ssl_train.descriptor RUN/teacher.safetensors FILE` writes the file. It holds tensors and the names of sizes,
no program.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ssl_train.errors import CheckpointError
from ssl_train.models.descriptor import load_descriptor
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import NetworkEncoder, Preparation, TorchConfig


class SslDescriptor(TorchConfig):
    """A copy descriptor trained here, on any of our backbones."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = TorchConfig.NOT_IN_FINGERPRINT | {"compiled"}

    kind: Literal["ssl_descriptor"] = "ssl_descriptor"
    side: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Pixels of the square that pictures are squeezed to, the whole picture; null for the side that the file's network
    was built for. SSCD looks at 1.3 to 1.4 times the side that it was trained with."""
    compiled: bool = False
    """Compile the network at a worker's first batch: it takes about a minute, and pays where a worker describes tens of
    thousands of images on a GPU."""

    def build(self) -> BuiltEncoder:
        """Fetches and checks the file. Raises ChecksumMismatch, UnreachableStorage, EncoderUnavailable."""
        try:
            network, model = load_descriptor(self.weights, self.sha256)
        except CheckpointError as error:
            raise EncoderUnavailable(str(error)) from error
        return NetworkEncoder(
            network,
            Preparation(self.side or model.image_size, "square", method="bicubic"),
            self,
            precision=self.precision,
            compiled=self.compiled,
        )
