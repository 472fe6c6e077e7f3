"""Which ViT a published state dict belongs to."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ssl_train.errors import CheckpointError
from ssl_train.models.vit import WIDTHS, Size, Vit

# DeiT III's own files; timm's of the same networks have LayerScale under our names already.
_DEIT3_SCALE = re.compile(r"^(blocks\.\d+)\.gamma_([12])$")


def infer_vit(state: Mapping[str, Tensor], path: str = "the state dict") -> Vit:
    """The architecture that a published state dict belongs to, by its tensors' names and shapes."""
    if "pos_embed" not in state or "cls_token" not in state:
        raise CheckpointError(
            f"{path} has a patch projection, but no pos_embed and cls_token: no ViT of DINO's or DINOv2's kind."
        )
    dim, positions = state["cls_token"].shape[-1], state["pos_embed"].shape[1]
    stem = [t for name, t in state.items() if name.startswith("patch_embed.proj") and t.ndim == 4]
    is_conv = len(stem) > 1
    patch = 2 ** (len(stem) - 1) if is_conv else stem[0].shape[-1]  # one halving each, then a 1x1 projection
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")}) + is_conv
    sizes = [size for size, width in WIDTHS.items() if (width.dim, width.depth) == (dim, depth)]
    if not sizes:
        raise CheckpointError(
            f"{path} is {dim} wide and {depth} deep, which is none of {', '.join(WIDTHS)}; pass `model` explicitly."
        )
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    return Vit(
        size=sizes[0],
        patch_size=patch,
        image_size=round((positions - 1) ** 0.5) * patch,
        ffn="swiglu" if "blocks.0.mlp.w12.weight" in state else "mlp",
        num_registers=registers,
        layer_scale=1e-5 if "blocks.0.ls1.gamma" in state else None,
        interpolation="antialias" if registers else "offset",
        stem_kind="conv" if is_conv else "patch",
        mask_token="mask_token" in state,
    )


def as_mocov3(model: Vit) -> Vit:
    """What MoCo v3's files mean by the same shapes: fixed positions, and 12 heads in a ViT-S, which no shape tells."""
    size: Size = "small12" if model.size == "small" else model.size
    return replace(model, size=size, positions="sincos", init="mocov3")


def from_deit3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under DeiT III's names and shapes (arXiv 2204.07118) as ours; others are left as they are.

    Its LayerScale is `blocks.N.gamma_1` and `gamma_2`, and its class token has no position: patches alone have, so that
    `pos_embed` has a square number of rows. A position of zeros is the same network. Its queries, keys and values are
    one `attn.qkv`, as here. Not checked against a published file: none was at hand. Names and shapes are those of the
    published code (facebookresearch/deit, models_v2.py, for deit_3_{small,medium,base,large,huge}_{224,384}_{1k,21k}).
    """
    named = {_DEIT3_SCALE.sub(r"\1.ls\2.gamma", name): tensor for name, tensor in state.items()}
    positions = named.get("pos_embed")
    if positions is not None and positions.ndim == 3 and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        named["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return named
