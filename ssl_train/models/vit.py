"""Vision transformers as DINO and DINOv2 publish them: their parameter names, their numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.models.backbone import Backbone, Tokens, Unit, freeze_stem
from ssl_train.models.layers import LAYER_NORM_EPS, Block, Mlp, PatchEmbed, SwiGlu, swiglu_hidden
from ssl_train.models.vit_stem import (
    ConvPatchEmbed,
    conv_stem_weights,
    initialise_mocov3,
    sincos_positions,
)
from ssl_train.ops.attention import Kernel
from ssl_train.ops.packed import pack, unpack

Size = Literal["tiny", "small", "small12", "medium", "base", "large", "huge", "giant"]
Interpolation = Literal["offset", "antialias"]
INIT_STD = 0.02
# Added to the patch count before dividing, by the published models without registers. It moves every sample point.
LEGACY_OFFSET = 0.1


class Width(NamedTuple):
    dim: int
    depth: int
    num_heads: int


WIDTHS: dict[Size, Width] = {
    "tiny": Width(128, 4, 4),
    "small": Width(384, 12, 6),
    "small12": Width(384, 12, 12),
    "medium": Width(512, 12, 8),
    "base": Width(768, 12, 12),
    "large": Width(1024, 24, 16),
    "huge": Width(1280, 32, 16),
    "giant": Width(1536, 40, 24),
}


@dataclass(frozen=True)
class Vit:
    """A vision transformer."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["vit"] = "vit"
    """Tag of this backbone."""
    size: Size = "large"
    """Width, depth and heads; `tiny` (128 wide, 4 deep) is for trials on a CPU, `small12` is `small` with MoCo v3's 12
    heads, `medium` is DeiT III's."""
    patch_size: Annotated[int, Field(ge=1, le=64)] = 14
    """Side of a patch in pixels; 14 or 16 in the published models."""
    image_size: Annotated[int, Field(ge=1)] = 224
    """Side in pixels of the images whose patch grid the position embedding fits; others are interpolated."""
    ffn: Literal["mlp", "swiglu"] = "mlp"
    """Feed-forward net of a block."""
    num_registers: Annotated[int, Field(ge=0, le=64)] = 0
    """Register tokens: scratch space that keeps the patch tokens clean (arXiv 2309.16588)."""
    layer_scale: Annotated[float, Field(gt=0)] | None = 1e-5
    """Initial weight of every residual branch; null for none, as in DINO."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of crops that skip a residual branch while training."""
    drop_path_rule: Literal["uniform", "linear"] = "uniform"
    """The same share in every block (DINOv2), or one that grows from 0 in the first to that share in the last (DINO,
    iBOT, DeiT III)."""
    interpolation: Interpolation = "offset"
    """How positions are interpolated: `offset` (models without registers), `antialias` (models with registers)."""
    positions: Literal["learned", "sincos"] = "learned"
    """Position embedding: learned, or the fixed sines and cosines of MoCo v3 (arXiv 2104.02057)."""
    stem_kind: Literal["patch", "conv"] = "patch"
    """What turns pixels into tokens: one linear projection of a patch, or convolutions in its place and in that of one
    block (MoCo v3, table 4)."""
    init: Literal["dinov2", "mocov3"] = "dinov2"
    """Whose initial weights are drawn."""
    mask_token: bool = True
    """Whether masked patches have a token; DINO's models have none."""
    frozen_stem: bool = False
    """Leave the random patch projection as it was drawn: MoCo v3's cure for unstable training, for any method."""

    @property
    def dim(self) -> int:
        """Width of its tokens."""
        return WIDTHS[self.size].dim

    @property
    def depth(self) -> int:
        """Its blocks; a convolutional stem stands in the place of one."""
        return WIDTHS[self.size].depth - (self.stem_kind == "conv")

    @property
    def drop_paths(self) -> tuple[float, ...]:
        """The share of each block."""
        last = max(self.depth - 1, 1)
        is_linear = self.drop_path_rule == "linear"
        return tuple(self.drop_path * (block / last if is_linear else 1.0) for block in range(self.depth))

    def build(self) -> "VisionTransformer":
        """The network, freshly initialised from torch's global random state."""
        network = VisionTransformer(
            self.dim,
            self.depth,
            WIDTHS[self.size].num_heads,
            patch_size=self.patch_size,
            grid=self.image_size // self.patch_size,
            ffn=self.ffn,
            num_registers=self.num_registers,
            layer_scale=self.layer_scale,
            drop_paths=self.drop_paths,
            interpolation=self.interpolation,
            mask_token=self.mask_token,
            positions=self.positions,
            stem_kind=self.stem_kind,
        )
        if self.init == "mocov3":
            initialise_mocov3(network)
        if self.frozen_stem:
            freeze_stem(network)
        return network

    def forward_flops(self, side_pixels: int, *, drop_path: float = 0.0) -> float:
        """Operations for one crop of side_pixels x side_pixels; a share `drop_path` of the crops skips a branch."""
        dim, depth = self.dim, self.depth
        patches = (side_pixels // self.patch_size) ** 2
        tokens = patches + 1 + self.num_registers
        weights = 4 * dim**2 + (8 * dim**2 if self.ffn == "mlp" else 3 * dim * swiglu_hidden(4 * dim))
        block = 2 * tokens * weights + 4 * tokens**2 * dim
        weights_of_patch = 3 * self.patch_size**2 * dim
        if self.stem_kind == "conv":
            weights_of_patch = sum(side**2 * weights for side, weights in conv_stem_weights(self.patch_size, dim))
        skipped = drop_path / 2 if self.drop_path_rule == "linear" else drop_path
        return 2 * patches * weights_of_patch + depth * block * (1 - skipped)


class VisionTransformer(Backbone):
    """A pre-norm ViT; takes crops of several sizes in one pass (see `ops.packed`)."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        *,
        patch_size: int,
        grid: int,
        ffn: Literal["mlp", "swiglu"] = "mlp",
        num_registers: int = 0,
        layer_scale: float | None = 1e-5,
        drop_paths: Sequence[float] = (),
        interpolation: Interpolation = "offset",
        mask_token: bool = True,
        positions: Literal["learned", "sincos"] = "learned",
        stem_kind: Literal["patch", "conv"] = "patch",
    ) -> None:
        super().__init__()
        self.dim, self.grid, self.patch_size, self.interpolation = dim, grid, patch_size, interpolation
        self.image_size, self.num_layers, self.takes_masks = grid * patch_size, depth, mask_token
        self.num_registers = num_registers
        self.patch_embed = PatchEmbed(patch_size, dim) if stem_kind == "patch" else ConvPatchEmbed(patch_size, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid**2, dim))
        self.register_tokens = nn.Parameter(torch.empty(1, num_registers, dim)) if num_registers else None
        self.mask_token = nn.Parameter(torch.empty(1, dim)) if mask_token else None
        self.blocks = nn.ModuleList(
            Block(dim, num_heads=num_heads, ffn=build_ffn(ffn, dim), layer_scale=layer_scale, drop_path=drop_path)
            for drop_path in drop_paths or [0.0] * depth
        )
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.initialise()
        if positions == "sincos":  # no buffer: published files hold it, and a start from one may learn it further
            self.pos_embed = nn.Parameter(sincos_positions(grid, grid, dim), requires_grad=False)

    @torch.no_grad()
    def initialise(self) -> None:
        """DINOv2's initial weights; the patch projection keeps torch's own."""
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        if self.mask_token is not None:
            nn.init.zeros_(self.mask_token)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        crops: Sequence[Float[Tensor, "_batch 3 _height _width"]],
        masks: Sequence[Bool[Tensor, "_batch _patches"] | None] | None = None,
    ) -> list[Tokens]:
        """The tokens of each group of crops; True in a mask puts the mask token in the patch's place."""
        masks = [None] * len(crops) if masks is None else masks
        packed, shapes = pack([self.embed(crop, mask) for crop, mask in zip(crops, masks, strict=True)])
        for block in self.blocks:
            packed = block(packed, shapes)
        groups = unpack(self.norm(packed), shapes)
        return [self._split(group, self.grid_of(crop)) for group, crop in zip(groups, crops, strict=True)]

    def grid_of(self, images: Float[Tensor, "_batch 3 _height _width"]) -> tuple[int, int]:
        """Rows and columns of the patches of images."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def embed(
        self, images: Float[Tensor, "batch 3 height width"], mask: Bool[Tensor, "batch patches"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Patches (masked ones replaced) with their positions, after the class token and the registers."""
        grid = self.patch_embed(images)  # [batch, rows, columns, dim]
        x = grid.flatten(1, 2)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("this network has no mask token; build it with mask_token=true to mask patches")
            x = torch.where(mask.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        positions = self.positions(grid.shape[1], grid.shape[2]).to(x.dtype)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1) + positions
        if self.register_tokens is None:
            return x
        registers = self.register_tokens.expand(x.shape[0], -1, -1).to(x.dtype)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 tokens dim"]:
        """The position embedding, interpolated to a grid of patches of another size where it must be."""
        if rows == columns == self.grid:
            return self.pos_embed
        table = self.pos_embed[:, 1:].float().unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        if self.interpolation == "offset":
            scale = ((rows + LEGACY_OFFSET) / self.grid, (columns + LEGACY_OFFSET) / self.grid)
            table = F.interpolate(table, scale_factor=scale, mode="bicubic")
        else:
            table = F.interpolate(table, size=(rows, columns), mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :1].float(), table.flatten(2).transpose(1, 2)], dim=1)

    def intermediate(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Iterable[int] | int
    ) -> list[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim rows columns"]]]:
        """Class token and patch map of the given blocks (or of the last so many), each through the final norm."""
        wanted = set(range(len(self.blocks) - blocks, len(self.blocks)) if isinstance(blocks, int) else blocks)
        x, shapes = pack([self.embed(images)])
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x, shapes)
            if index in wanted:
                tokens = self._split(unpack(self.norm(x), shapes)[0], self.grid_of(images))
                outputs.append((tokens.cls, tokens.map))
        return outputs

    def last_self_attention(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch heads tokens tokens"]:
        """The attention matrix of the last block, as DINO's figures show it."""
        x, shapes = pack([self.embed(images)])
        for block in self.blocks[:-1]:
            x = block(x, shapes)
        last = cast(Block, self.blocks[-1])
        return last.attn.weights(unpack(last.norm1(x), shapes)[0])

    def layer_of(self, parameter: str) -> int:
        """Depth of a parameter, for layer-wise learning rates: 0 for embeddings, i + 1 for block i, then the norm."""
        first, *rest = parameter.split(".")
        if first == "blocks":
            return int(rest[0]) + 1
        return len(self.blocks) + 1 if first == "norm" else 0

    def units(self) -> list[Unit]:
        """The blocks."""
        return [cast(Block, block) for block in self.blocks]

    def stem(self) -> nn.Module:
        """The patch projection."""
        return self.patch_embed

    def use_kernel(self, kernel: Kernel) -> None:
        """Compute attention by this kernel in all blocks."""
        for block in self.blocks:
            cast(Block, block).attn.kernel = kernel

    def fitted(self, loaded: Backbone) -> Mapping[str, Tensor]:
        """The tensors of another ViT, its positions interpolated to this one's grid."""
        state: dict[str, Tensor] = loaded.state_dict()
        if isinstance(loaded, VisionTransformer) and loaded.grid != self.grid:
            state["pos_embed"] = loaded.positions(self.grid, self.grid)
        return state

    def _split(self, x: Float[Tensor, "batch tokens dim"], grid: tuple[int, int]) -> Tokens:
        first_patch = 1 + self.num_registers
        return Tokens(x[:, 0], x[:, 1:first_patch], x[:, first_patch:], grid)


def build_ffn(kind: Literal["mlp", "swiglu"], dim: int) -> Mlp | SwiGlu:
    """The feed-forward net of a block `dim` wide, four times as wide inside (or as many weights as that)."""
    return Mlp(dim, 4 * dim) if kind == "mlp" else SwiGlu(dim, swiglu_hidden(4 * dim))
