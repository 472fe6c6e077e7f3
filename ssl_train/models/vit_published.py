"""Which ViT a published state dict belongs to."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ssl_train.errors import CheckpointError
from ssl_train.models.vit import WIDTHS, Size, Vit


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
