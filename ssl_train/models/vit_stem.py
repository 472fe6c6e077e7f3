"""What MoCo v3 changes in a ViT: fixed positions, a convolutional stem, and how weights are drawn."""

import itertools
import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.models.projectors import BatchNorm

TEMPERATURE = 10_000.0


def sincos_positions(rows: int, columns: int, dim: int) -> Float[Tensor, "1 tokens dim"]:
    """Fixed positions of the class token (zeros) and of rows x columns patches, row by row.

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, at the frequencies
    10000^(-i / (dim / 4)). ValueError where `dim` is no multiple of 4. It equals

        position[row, column, i] = sin(row * f_i), cos(row * f_i), sin(column * f_i), cos(column * f_i)

    The published table calls them column and row, and counts its patches column by column: on a square grid, and all
    published models have one, that is the same table.
    Source: MoCo v3 (arXiv 2104.02057), section 5 "position embedding", after arXiv 1706.03762, section 3.5.
    """
    if dim % 4:
        raise ValueError(f"sine and cosine of two axes want a width that 4 divides, not {dim}")
    frequencies = TEMPERATURE ** -(torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    down, across = (torch.arange(side, dtype=torch.float32)[:, None] * frequencies for side in (rows, columns))
    down = down[:, None].expand(rows, columns, -1)  # [rows, columns, dim / 4]
    across = across[None].expand(rows, columns, -1)
    patches = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, dim), patches]).unsqueeze(0)


class ConvPatchEmbed(nn.Module):
    """Patches by 3x3 convolutions of stride 2, one for each halving of the side, and a 1x1 projection.

    Widths double up to `dim`; each convolution is followed by BatchNorm (over all processes) and ReLU. It takes the
    place of the patch projection and of one block. ValueError for a patch size that is no power of two.
    Source: MoCo v3 (arXiv 2104.02057), table 4 "ViT-B, conv", after "Early convolutions" (arXiv 2106.14881).
    """

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings or halvings < 1:
            raise ValueError(
                f"a convolutional stem halves the side again and again: patch_size = {patch_size} is no power of 2"
            )
        self.patch_size = patch_size
        layers: list[nn.Module] = []
        widths = [3, *(dim // 2 ** (halvings - 1 - i) for i in range(halvings))]
        for narrow, wide in itertools.pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                BatchNorm(wide),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(dim, dim, 1))
        self.proj = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch rows columns dim"]:
        height, width = images.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"{height}x{width} pixels is not a whole number of {self.patch_size}-pixel patches")
        out: Tensor = self.proj(images)
        return out.permute(0, 2, 3, 1)


def conv_stem_weights(patch_size: int, dim: int) -> list[tuple[int, int]]:
    """(side of the output relative to a patch's, weights) of every convolution of the stem, first to last."""
    halvings = patch_size.bit_length() - 1
    widths = [3, *(dim // 2 ** (halvings - 1 - i) for i in range(halvings))]
    convolutions = [
        (2 ** (halvings - 1 - i), 9 * narrow * wide) for i, (narrow, wide) in enumerate(itertools.pairwise(widths))
    ]
    return [*convolutions, (1, dim * dim)]


@torch.no_grad()
def initialise_mocov3(network: nn.Module) -> None:
    """Draw a ViT's weights anew, as MoCo v3 does: Xavier's uniform, where queries, keys and values count as three
    matrices and a patch as a vector. Biases are 0; a convolutional stem keeps torch's own.

    Source: MoCo v3's published code; "Xavier": Glorot and Bengio 2010, equation 16.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            out_dim = module.out_features // 3 if name.endswith("attn.qkv") else module.out_features
            _xavier(module.weight, out_dim, module.in_features)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = cast(nn.Module, cast(nn.Module, network.patch_embed).proj)
    if isinstance(projection, nn.Conv2d):
        _xavier(projection.weight, projection.out_channels, projection.weight[0].numel())
        nn.init.zeros_(cast(Tensor, projection.bias))
    nn.init.normal_(cast(Tensor, network.cls_token), std=1e-6)


def _xavier(weight: Tensor, out_dim: int, in_dim: int) -> None:
    bound = math.sqrt(6 / (out_dim + in_dim))
    nn.init.uniform_(weight, -bound, bound)
