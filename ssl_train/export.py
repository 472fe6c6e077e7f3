"""A trained backbone in others' formats: Hugging Face's Dinov2Model, ONNX, the published PyTorch state dict.

python -m ssl_train.export teacher.safetensors hf out/           # config.json, model.safetensors
python -m ssl_train.export teacher.safetensors onnx out.onnx     # images -> class token, patch tokens
python -m ssl_train.export teacher.safetensors published out.pth # names as in the released DINOv2 checkpoints
"""

import argparse
import io
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.errors import ExportError, TrainError
from ssl_train.models.backbone import Backbone
from ssl_train.models.layers import LAYER_NORM_EPS
from ssl_train.models.load import Loaded, read_backbone
from ssl_train.models.vit import WIDTHS, VisionTransformer, Vit
from storage.errors import StorageError
from storage.filesystem import join, write_bytes

ONNX_OPSET = 18
_TOP_LEVEL = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_IN_BLOCK = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ssl_train.export", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("weights", help="teacher.safetensors of a run, or a published DINO or DINOv2 checkpoint")
    parser.add_argument("kind", choices=sorted(EXPORTERS))
    parser.add_argument("target", help="folder (hf) or file to write")
    parser.add_argument("--sha256", help="checksum of the weights; a URL must have one")
    options = parser.parse_args(arguments)
    try:
        EXPORTERS[options.kind](read_backbone(options.weights, options.sha256), options.target)
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {options.target}")
    return 0


def export_hf(loaded: Loaded, folder: str) -> None:
    """config.json and model.safetensors that transformers' `AutoModel.from_pretrained(folder)` loads.

    Without registers a Dinov2Model, with them a Dinov2WithRegistersModel. The last hidden state is the same at the
    model's own image size; at others transformers interpolates positions without DINOv2's offset of 0.1 patches.
    Raises ExportError for a network without layer scale or mask token (DINO): those models always have them.
    """
    model, network = loaded.model, loaded.network
    if not isinstance(model, Vit) or not isinstance(network, VisionTransformer):
        raise ExportError(
            f"Dinov2Model is a ViT, this network is a {model.kind}. Export it with `onnx` or `published`."
        )
    if model.layer_scale is None or not model.mask_token:
        raise ExportError(
            "Dinov2Model has layer scale and a mask token, this network has not. Export it with `onnx` or `published`."
        )
    tensors = {name: tensor.contiguous() for name, tensor in hf_state_dict(network).items()}
    write_bytes(join(folder, "model.safetensors"), safetensors.torch.save(tensors, metadata={"format": "pt"}))
    write_bytes(join(folder, "config.json"), json.dumps(hf_config(model), indent=2).encode())


def hf_config(model: Vit) -> dict[str, Any]:
    """The content of config.json."""
    width = WIDTHS[model.size]
    registers = {"num_register_tokens": model.num_registers} if model.num_registers else {}
    return {
        "architectures": ["Dinov2WithRegistersModel" if model.num_registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if model.num_registers else "dinov2",
        "hidden_size": width.dim,
        "num_hidden_layers": width.depth,
        "num_attention_heads": width.num_heads,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "drop_path_rate": 0.0,
        "use_swiglu_ffn": model.ffn == "swiglu",
        **registers,
    }


def hf_state_dict(network: VisionTransformer) -> dict[str, Tensor]:
    """The network's tensors under the names of the published Hugging Face checkpoints."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if not name.startswith("blocks."):
            renamed[_TOP_LEVEL[name]] = tensor
            continue
        _, index, inner = name.split(".", 2)
        block = f"encoder.layer.{index}"
        if inner.startswith("attn.qkv."):
            kind = inner.rpartition(".")[2]
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                renamed[f"{block}.attention.attention.{part}.{kind}"] = chunk
            continue
        prefix = next((prefix for prefix in _IN_BLOCK if inner.startswith(prefix)), "")
        renamed[f"{block}.{_IN_BLOCK.get(prefix, '')}{inner.removeprefix(prefix)}"] = tensor
    return renamed


def export_published(loaded: Loaded, path: str) -> None:
    """A .pth with the names of the released checkpoints: what torch.hub's DINOv2 and most of its users load."""
    buffer = io.BytesIO()
    torch.save(loaded.network.state_dict(), buffer)
    write_bytes(path, buffer.getvalue())


class _Outputs(nn.Module):
    """What an ONNX file gives: plain tensors with names."""

    def __init__(self, network: Backbone) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch patches dim"]]:
        tokens = self.network.tokens(images)
        return tokens.cls, tokens.patches


def export_onnx(loaded: Loaded, path: str) -> None:
    """One .onnx file: `images` [batch, 3, side, side], ImageNet-normalised, to `cls` and `patches`; any batch size.

    The side is the model's image size: positions are interpolated before the export, where they must be. Raises
    ExportError when the packages for it are missing.
    """
    try:
        import onnxscript  # noqa: F401  (torch.onnx needs it, and says so less clearly)
    except ImportError as error:
        raise ExportError(f"ONNX export needs {error.name}: pip install 'curate-lvd[export]'") from error
    side = loaded.model.image_size
    images = torch.zeros(2, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own internals
        program = torch.onnx.export(
            _Outputs(loaded.network.eval()),
            (images,),
            input_names=["images"],
            output_names=["cls", "patches"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
            opset_version=ONNX_OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no program for this network")
    write_bytes(path, program.model_proto.SerializeToString())


EXPORTERS: dict[str, Callable[[Loaded, str], None]] = {
    "hf": export_hf,
    "onnx": export_onnx,
    "published": export_published,
}

if __name__ == "__main__":
    sys.exit(main())
