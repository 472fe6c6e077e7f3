"""The parts of an InternImage, channels last, under the parameter names of the published checkpoints."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.models.backbone import Unit
from ssl_train.models.internimage_scaling import Norm, Variant
from ssl_train.ops.dcnv3 import dcnv3
from ssl_train.ops.drop_path import num_kept

LAYER_NORM_EPS = 1e-6
MLP_RATIO = 4
KERNEL = 3
"""Side of DCNv3's kernel."""
NUM_POINTS = KERNEL**2
Branch = Callable[[Tensor], Tensor]


class ChannelsFirst(nn.Module):
    """A view of maps with channels before rows and columns, as convolutions want them."""

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch dim rows columns"]:
        return x.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """A view of maps with channels after rows and columns, as LayerNorms and Linears want them."""

    def forward(self, x: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch rows columns dim"]:
        return x.permute(0, 2, 3, 1)


def layer_norm(dim: int) -> nn.Sequential:
    """A LayerNorm, one name deeper than it stands: published names have it so."""
    return nn.Sequential(nn.LayerNorm(dim, eps=LAYER_NORM_EPS))


def layer_norm_of_convolution(dim: int) -> nn.Sequential:
    """A LayerNorm of what a convolution gives, channels last."""
    return nn.Sequential(ChannelsLast(), nn.LayerNorm(dim, eps=LAYER_NORM_EPS))


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: a quarter of the side."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, dim // 2, 3, stride=2, padding=1)
        self.norm1 = layer_norm_of_convolution(dim // 2)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = layer_norm_of_convolution(dim)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns dim"]:
        x = F.gelu(self.norm1(self.conv1(images.contiguous(memory_format=torch.channels_last))))
        out: Tensor = self.norm2(self.conv2(x.permute(0, 3, 1, 2)))
        return out


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: half the side, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False)
        self.norm = layer_norm_of_convolution(2 * dim)

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch half_rows half_columns wide"]:
        out: Tensor = self.norm(self.conv(x.permute(0, 3, 1, 2)))
        return out


class Dcn(nn.Module):
    """DCNv3 with all that is learned around it: projections, and offsets and masks read off a depthwise convolution.

    Masks are a softmax over a group's points. Source: arXiv 2211.05778, section 3.1; offsets, masks and the gate see
    the input before its projection, as in the published code. `centre_gate` mixes each group's own pixel in.
    """

    def __init__(self, dim: int, *, groups: int, offset_scale: float, dw_kernel: int, centre_gate: bool) -> None:
        super().__init__()
        self.groups, self.offset_scale = groups, offset_scale
        self.dw_conv = nn.Sequential(
            nn.Conv2d(dim, dim, dw_kernel, padding=dw_kernel // 2, groups=dim),
            layer_norm_of_convolution(dim),
            nn.GELU(),
        )
        self.offset = nn.Linear(dim, groups * NUM_POINTS * 2)
        self.mask = nn.Linear(dim, groups * NUM_POINTS)
        self.input_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.center_feature_scale_proj_weight = nn.Parameter(torch.empty(groups, dim)) if centre_gate else None
        self.center_feature_scale_proj_bias = nn.Parameter(torch.empty(groups)) if centre_gate else None

    @torch.no_grad()
    def initialise(self) -> None:
        """Begin as a mean over the kernel's points: offsets, masks and gate of 0; projections by Xavier's rule."""
        for linear in (self.offset, self.mask):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if self.center_feature_scale_proj_weight is not None and self.center_feature_scale_proj_bias is not None:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        projected, seen = self.input_proj(x), self.dw_conv(x.permute(0, 3, 1, 2))
        mask = self.mask(seen).unflatten(-1, (self.groups, NUM_POINTS)).softmax(-1).flatten(-2)
        out = dcnv3(
            projected, self.offset(seen), mask, kernel=KERNEL, groups=self.groups, offset_scale=self.offset_scale
        )
        if self.center_feature_scale_proj_weight is not None:
            gate = F.linear(seen, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias).sigmoid()
            by_group = (-1, (self.groups, x.shape[-1] // self.groups))
            out = torch.lerp(out.unflatten(*by_group), projected.unflatten(*by_group), gate[..., None]).flatten(-2)
        result: Tensor = self.output_proj(out)
        return result


class MlpOfMaps(nn.Module):
    """Linear, GELU, Linear at every place."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class InternImageBlock(Unit):
    """Two residual branches, DCNv3 and an MLP, with LayerNorms before them, after them or both."""

    def __init__(self, dim: int, *, groups: int, variant: Variant, drop_path: float) -> None:
        super().__init__()
        self.drop_path, self.norm = drop_path, variant.norm
        self.norm1 = layer_norm(dim)
        self.dcn = Dcn(
            dim,
            groups=groups,
            offset_scale=variant.offset_scale,
            dw_kernel=variant.dw_kernel,
            centre_gate=variant.centre_gate,
        )
        self.norm2 = layer_norm(dim)
        self.mlp = MlpOfMaps(dim)
        scale = variant.layer_scale
        self.gamma1 = None if scale is None else nn.Parameter(torch.full((dim,), scale))
        self.gamma2 = None if scale is None else nn.Parameter(torch.full((dim,), scale))
        if variant.norm == "res_post":
            self.res_post_norm1, self.res_post_norm2 = layer_norm(dim), layer_norm(dim)

    def compute(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        """The block's two residual branches."""
        drop = self.drop_path if self.training else 0.0
        after = (self.res_post_norm1, self.res_post_norm2) if self.norm == "res_post" else (None, None)
        x = residual(x, self._branch(self.dcn, self.norm1, after[0], self.gamma1), drop=drop)
        return residual(x, self._branch(self.mlp, self.norm2, after[1], self.gamma2), drop=drop)

    def _branch(self, inner: nn.Module, norm: nn.Module, after: nn.Module | None, gamma: Tensor | None) -> Branch:
        def branch(x: Tensor) -> Tensor:
            y: Tensor = norm(inner(x)) if self.norm == "post" else inner(norm(x))
            y = y if after is None else after(y)
            return y if gamma is None else gamma * y

        return branch


class Level(nn.Module):
    """A stage: its blocks, its norms and, but for the last stage, the convolution to the next."""

    def __init__(self, variant: Variant, stage: int, *, drop_paths: list[float]) -> None:
        super().__init__()
        dim = variant.channels * 2**stage
        self.blocks = nn.ModuleList(
            InternImageBlock(dim, groups=variant.groups[stage], variant=variant, drop_path=drop) for drop in drop_paths
        )
        self.post_norm_blocks = variant.post_norm_blocks if stage == 2 else ()
        if self.post_norm_blocks:
            self.post_norms = nn.ModuleList(layer_norm(dim) for _ in self.post_norm_blocks)
        self.norm = layer_norm(dim) if has_stage_norm(variant.norm, variant.centre_gate) else None
        self.downsample = Downsample(dim) if stage < 3 else None

    def forward(self, x: Float[Tensor, "batch rows columns dim"]) -> Float[Tensor, "batch rows columns dim"]:
        """What the stage says, before it is handed on."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.post_norm_blocks:
                x = self.post_norms[self.post_norm_blocks.index(index)](x)
        return x if self.norm is None else cast(Tensor, self.norm(x))


def has_stage_norm(norm: Norm, centre_gate: bool) -> bool:
    """Whether a stage ends in a LayerNorm: where branches do not, and in the largest published ones."""
    return norm != "post" or centre_gate


def residual(
    x: Float[Tensor, "batch rows columns dim"], branch: Branch, *, drop: float
) -> Float[Tensor, "batch rows columns dim"]:
    """x + branch(x), where the branch runs on a random subset of the images and is scaled up.

    As `ops.drop_path.residual` has it for packed tokens: max(int(batch (1 - drop)), 1) images are drawn, and what the
    branch says of them is weighted by batch / drawn.
    """
    if drop == 0.0:
        return x + branch(x)
    kept = num_kept(len(x), drop)
    images = torch.randperm(len(x), device=x.device)[:kept]
    out = branch(x.index_select(0, images)) * (len(x) / kept)
    return x.index_add(0, images, out.to(x.dtype))
