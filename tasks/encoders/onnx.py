"""Any ONNX file as an encoder, run by onnxruntime on the CPU or, where its CUDA build is installed, on a GPU.

An ONNX file is a graph of operators, no code: onnxruntime runs its own implementations. What could reach beyond the
file is refused before it is loaded (`onnx_file`): weights kept in other files, and operators that come as plug-ins.
"""

from typing import Annotated, Any, Literal

import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from pydantic import Field
from torch import Tensor, nn

from storage.filesystem import fetch_verified, read_bytes
from tasks.encoders.base import BuiltEncoder, EncoderUnavailable
from tasks.encoders.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Device,
    Fit,
    NetworkConfig,
    NetworkEncoder,
    Preparation,
    Triple,
)
from tasks.encoders.onnx_file import NotSelfContained, check_self_contained

# onnxruntime's errors have no base of their own.
_ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class Onnx(NetworkConfig):
    """An ONNX graph whose only input is [batch, 3, height, width] and whose first output is [batch, dim].

    The precision is the file's own.
    """

    kind: Literal["onnx"] = "onnx"
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
        network = OnnxNetwork(self)
        # Pictures are normalised on the CPU: onnxruntime moves them itself.
        on_cpu = self.model_copy(update={"device": "cpu"})
        return NetworkEncoder(network, Preparation(self.side, self.fit, mean=self.mean, std=self.std), on_cpu)


class OnnxNetwork(nn.Module):
    """A session as a module: [batch, 3, height, width] float32 -> [batch, dim] float32."""

    def __init__(self, config: Onnx) -> None:
        super().__init__()
        data = read_bytes(fetch_verified(config.weights, config.sha256))
        try:
            check_self_contained(data)
            self._session = _session(data, config.num_threads, config.device)
        except NotSelfContained as error:
            raise EncoderUnavailable(f"{config.weights}: {error}") from error
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise EncoderUnavailable(f"{config.weights} cannot be run by onnxruntime: {reason}") from error
        self._input, self._type, self._batch = _only_input(self._session, config.weights)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures -> vectors; a graph of a fixed batch gets batches of that size, the last filled with zeros."""
        size = self._batch or len(images)
        return torch.cat([self._run(images[first : first + size]) for first in range(0, len(images), size)])

    def _run(self, images: Tensor) -> Tensor:
        missing = (self._batch or len(images)) - len(images)
        filled = torch.cat([images, images.new_zeros((missing, *images.shape[1:]))]) if missing else images
        given = {self._input: filled.to(self._type).contiguous().numpy()}
        (found,) = self._session.run([self._session.get_outputs()[0].name], given)
        return torch.from_numpy(found)[: len(images)].float()


def _session(data: bytes, num_threads: int, device: Device) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = ["CPUExecutionProvider"]
    if device != "cpu" and "CUDAExecutionProvider" in available:
        providers = ["CUDAExecutionProvider", *providers]
    return onnxruntime.InferenceSession(data, options, providers=providers)


def _only_input(session: onnxruntime.InferenceSession, name: str) -> tuple[str, torch.dtype, int | None]:
    """(name, type, fixed batch or None) of the one input. Raises EncoderUnavailable when it takes no pictures."""
    inputs: list[Any] = session.get_inputs()
    said = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4 or inputs[0].shape[1] != 3:
        raise EncoderUnavailable(
            f"{name} takes {said}, but an encoder takes one float [batch, 3, height, width]. Export the image encoder "
            "alone, channels first."
        )
    batch = inputs[0].shape[0]
    return inputs[0].name, _TYPES[inputs[0].type], batch if isinstance(batch, int) else None
