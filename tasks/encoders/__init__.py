"""PLUG image encoders: one file each; this union is the registry, the schema and the form in the UI."""

from tasks.encoders.base import BuiltEncoder, EncoderUnavailable, bounded_threads, built
from tasks.encoders.descriptor import SslDescriptor
from tasks.encoders.onnx import Onnx
from tasks.encoders.pixels import Pixels
from tasks.encoders.sscd import Sscd
from tasks.encoders.sscd_small import SscdSmall
from tasks.encoders.textures import Textures
from tasks.encoders.torchscript import TorchScript
from tasks.encoders.vit import VitEncoder

Encoder = Pixels | Textures | Sscd | SscdSmall | SslDescriptor | VitEncoder | TorchScript | Onnx

__all__ = [
    "BuiltEncoder", "Encoder", "EncoderUnavailable", "Onnx", "Pixels", "Sscd", "SscdSmall", "SslDescriptor",
    "Textures", "TorchScript", "VitEncoder", "bounded_threads", "built",
]  # fmt: skip
