"""The parts of a ViT, under the parameter names of the published checkpoints."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.models.backbone import Unit
from ssl_train.ops.attention import Kernel, attend
from ssl_train.ops.drop_path import residual
from ssl_train.ops.lean_linear import gelu_linear, norm_linear, scaled_linear
from ssl_train.ops.packed import Shapes

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Cut an image into square patches and project each linearly."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns dim"]:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"{height}x{width} pixels is not a whole number of {self.patch_size}-pixel patches")
        out: Tensor = self.proj(images)
        return out.permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Multi-head self-attention with a bias on queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel: Kernel = "auto"
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "total dim"], shapes: Shapes) -> Float[Tensor, "total dim"]:
        return self.mixed(self.qkv(x), shapes)

    def mixed(
        self, qkv: Float[Tensor, "total three_dim"], shapes: Shapes, gain: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "total dim"]:
        """What tokens take from each other, by their queries, keys and values; times `gain`."""
        return scaled_linear(attend(qkv, shapes, num_heads=self.num_heads, kernel=self.kernel), self.proj, gain)

    def weights(self, x: Float[Tensor, "crops tokens dim"]) -> Float[Tensor, "crops heads tokens tokens"]:
        """The attention matrix itself, for looking at."""
        q, k, _ = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "total dim"]:
        return gelu_linear(self.fc1(x), self.fc2)

    def after(
        self, norm: nn.LayerNorm, x: Float[Tensor, "total dim"], gain: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "total dim"]:
        """Of the normed tokens; times `gain`."""
        return gelu_linear(norm_linear(x, norm, self.fc1), self.fc2, gain)


class SwiGlu(nn.Module):
    """silu(W1 x) * (W2 x), projected back; W1 and W2 fused as `w12` (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "total dim"]:
        return self._gated(self.w12(x))

    def after(
        self, norm: nn.LayerNorm, x: Float[Tensor, "total dim"], gain: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "total dim"]:
        """Of the normed tokens; times `gain`."""
        return self._gated(norm_linear(x, norm, self.w12), gain)

    def _gated(
        self, both: Float[Tensor, "total two_hidden"], gain: Float[Tensor, " dim"] | None = None
    ) -> Float[Tensor, "total dim"]:
        gate, value = both.chunk(2, dim=-1)
        return scaled_linear(F.silu(gate) * value, self.w3, gain)


def swiglu_hidden(mlp_hidden: int) -> int:
    """The SwiGLU width with as many weights as an MLP of `mlp_hidden`: two thirds, rounded up to a multiple of 8."""
    return (int(mlp_hidden * 2 / 3) + 7) // 8 * 8


class LayerScale(nn.Module):
    """A learned weight per channel on a residual branch (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Float[Tensor, "total dim"]) -> Float[Tensor, "total dim"]:
        return x * self.gamma


class Block(Unit):
    """Pre-norm transformer block over packed tokens: attention, then the feed-forward net."""

    def __init__(
        self, dim: int, *, num_heads: int, ffn: "Mlp | SwiGlu", layer_scale: float | None, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.ls1: nn.Module = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = ffn
        self.ls2: nn.Module = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

    def compute(self, x: Float[Tensor, "total dim"], shapes: Shapes) -> Float[Tensor, "total dim"]:
        """The block's two residual branches."""
        drop = self.drop_path if self.training else 0.0
        x = residual(x, shapes, self._attention_branch, drop=drop)
        return residual(x, shapes, self._ffn_branch, drop=drop)

    def _attention_branch(self, x: Tensor, shapes: Shapes) -> Tensor:
        return self.attn.mixed(norm_linear(x, self.norm1, self.attn.qkv), shapes, _gain(self.ls1))

    def _ffn_branch(self, x: Tensor, shapes: Shapes) -> Tensor:
        return self.mlp.after(self.norm2, x, _gain(self.ls2))


def _gain(scale: nn.Module) -> Tensor | None:
    """What a block's LayerScale multiplies by, if it has one."""
    return scale.gamma if isinstance(scale, LayerScale) else None
