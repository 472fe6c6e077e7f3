"""InternImage's shapes: the published ones, and the paper's rules that yield them (arXiv 2211.05778, section 3.2)."""

from dataclasses import dataclass, replace
from typing import Literal

from pydantic import ConfigDict

Size = Literal["nano", "tiny", "small", "base", "large", "xlarge", "huge", "giant"]
Norm = Literal["pre", "post", "res_post"]
Stages = tuple[int, int, int, int]

ALPHA, BETA = 1.09, 1.36
"""By what depth and width grow with each doubling of the network: the best of those that the paper tried."""
_ORIGIN_DEPTHS: Stages = (4, 4, 18, 4)
_ORIGIN_CHANNELS = 64
_GROUP_CHANNELS = 16


@dataclass(frozen=True)
class Variant:
    """The shape of an InternImage, and the style of its blocks."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    channels: int
    """Channels of the first stage; each of the next has twice as many as the one before."""
    depths: Stages
    """Blocks of each stage."""
    groups: Stages
    """Groups of DCNv3 in each stage."""
    norm: Norm = "pre"
    """LayerNorm before a branch, after it, or both (`res_post`)."""
    layer_scale: float | None = None
    """Initial weight of every branch's channels; null for none."""
    offset_scale: float = 1.0
    """By what DCNv3's points, and their offsets, are scaled."""
    dw_kernel: int = 3
    """Side of the depthwise convolution that offsets and masks are read from."""
    centre_gate: bool = False
    """Mix each group's own pixel into what DCNv3 sums up, by a learned weight."""
    post_norm_blocks: tuple[int, ...] = ()
    """Blocks of the third stage after which there is another LayerNorm."""
    attention_head: bool = False
    """Classify by attention over the last two stages, as the largest published ones do, not by the last one's mean."""

    @property
    def dim(self) -> int:
        """Channels of the last stage."""
        return self.channels * 8


def stacked(channels: int, group_channels: int, outer_depth: int, third_depth: int) -> Variant:
    """The paper's stacking rules: {C1, C', L1, L3} say the rest.

    Stage i has C_i = 2^(i-1) C1 channels in C_i / C' groups; the first, second and fourth have L1 blocks each, the
    third has L3 >= L1. Raises ValueError where they cannot.
    """
    if channels % group_channels:
        raise ValueError(f"{channels} channels do not part into groups of {group_channels}")
    if third_depth < outer_depth:
        raise ValueError(f"the third stage is the deepest: {third_depth} blocks are fewer than {outer_depth}")
    first = channels // group_channels
    return Variant(
        channels, (outer_depth, outer_depth, third_depth, outer_depth), (first, 2 * first, 4 * first, 8 * first)
    )


def scaled(doublings: float) -> Variant:
    """The paper's scaling rules: InternImage-T made 2^doublings times as large, in depth by ALPHA and width by BETA.

    Depth is 30 ALPHA^doublings, shared out as T's is; width 64 BETA^doublings, to the nearest whole group of 16.
    ALPHA BETA^1.99 is about 2. The published sizes have this width and are within three blocks of this depth.
    """
    depth = round(sum(_ORIGIN_DEPTHS) * ALPHA**doublings)
    outer = max(round(depth * _ORIGIN_DEPTHS[0] / sum(_ORIGIN_DEPTHS)), 1)
    channels = max(round(_ORIGIN_CHANNELS * BETA**doublings / _GROUP_CHANNELS), 1) * _GROUP_CHANNELS
    return stacked(channels, _GROUP_CHANNELS, outer, depth - 3 * outer)


def _post_normed(variant: Variant, offset_scale: float = 1.0) -> Variant:
    return replace(variant, norm="post", layer_scale=1e-5, offset_scale=offset_scale)


VARIANTS: dict[Size, Variant] = {
    "nano": stacked(16, 16, 1, 2),  # ours, for trials on a CPU
    "tiny": stacked(64, 16, 4, 18),
    "small": _post_normed(stacked(80, 16, 4, 21)),
    "base": _post_normed(stacked(112, 16, 4, 21)),
    "large": _post_normed(stacked(160, 16, 5, 22), 2.0),
    "xlarge": _post_normed(stacked(192, 16, 5, 24), 2.0),
    "huge": replace(
        stacked(320, 32, 6, 32),
        norm="res_post",
        dw_kernel=5,
        centre_gate=True,
        post_norm_blocks=(5, 11, 17, 23, 29),
        attention_head=True,
    ),
    # Its stages follow no rule.
    "giant": Variant(
        512,
        (2, 2, 48, 4),
        (16, 32, 64, 128),
        norm="post",
        dw_kernel=5,
        centre_gate=True,
        post_norm_blocks=(5, 11, 17, 23, 29, 35, 41, 47),
        attention_head=True,
    ),
}
