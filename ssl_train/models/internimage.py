"""InternImage: a convolutional backbone on DCNv3 (arXiv 2211.05778), as published: its parameter names, its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, cast

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.errors import CheckpointError
from ssl_train.models.backbone import Backbone, Tokens, Unit, freeze_stem
from ssl_train.models.internimage_layers import MLP_RATIO, NUM_POINTS, Dcn, Level, Stem
from ssl_train.models.internimage_scaling import VARIANTS, Size, Variant

NUM_STAGES = 4
INIT_STD = 0.02


@dataclass(frozen=True)
class InternImage:
    """A convolutional network whose convolutions place and weigh their points by what they see."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["internimage"] = "internimage"
    """Tag of this backbone."""
    size: Size = "tiny"
    """A published size (T, S, B, L, XL, H, G); `nano` (0.4 million weights) is for trials on a CPU."""
    variant: Variant | None = None
    """A shape of one's own in place of `size`; `stacked` and `scaled` make them by the paper's rules."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of images that skip a branch of the last block while training; it grows from 0 at the first block."""
    image_size: Annotated[int, Field(ge=1)] = 224
    """Side in pixels of the images that it is shown where nothing else is said; it takes any."""
    frozen_stem: bool = False
    """Leave the random first convolutions as they were drawn: MoCo v3's cure for instability, for any method."""

    mask_token: ClassVar[bool] = False
    patch_size: ClassVar[int] = 32

    @property
    def shape(self) -> Variant:
        """What it is built by: its own variant, or that of its size."""
        return VARIANTS[self.size] if self.variant is None else self.variant

    @property
    def dim(self) -> int:
        """Width of its tokens."""
        return self.shape.dim

    def build(self) -> "InternImageNetwork":
        """The network, freshly initialised from torch's global random state."""
        network = InternImageNetwork(self.shape, drop_path=self.drop_path, image_size=self.image_size)
        if self.frozen_stem:
            freeze_stem(network)
        return network

    def forward_flops(self, side_pixels: int, *, drop_path: float = 0.0) -> float:
        """Operations of the convolutions and products for one crop of side_pixels x side_pixels.

        A branch of the last block runs on a share 1 - `drop_path` of the crops, the first on all. DCNv3's own sums,
        which are no products of matrices, are left out: some 5 % more in InternImage-T.
        """
        shape, side = self.shape, -(-side_pixels // 2)
        total, depth = 3 * 9 * shape.channels / 2 * side**2, sum(shape.depths)
        before = 0
        for stage, (num_blocks, groups) in enumerate(zip(shape.depths, shape.groups, strict=True)):
            dim, side = shape.channels * 2**stage, -(-side // 2)
            total += 9 * dim * (dim // 2) * side**2
            weights = (2 + 2 * MLP_RATIO) * dim**2 + (3 * NUM_POINTS + shape.centre_gate) * groups * dim
            shares = (1 - drop_path * block / max(depth - 1, 1) for block in range(before, before + num_blocks))
            total += (weights + shape.dw_kernel**2 * dim) * side**2 * sum(shares)
            before += num_blocks
        return 2 * total


class InternImageNetwork(Backbone):
    """Stem and four stages; the last stage's places are the dense tokens, their mean is the pooled one.

    The published networks classify by another mean, of a 1x1 convolution of these tokens, which learns with the
    classifier: it belongs to the head (`internimage_classifier`), and what comes before it is what other tasks take.
    """

    patch_size = 32

    def __init__(self, variant: Variant, *, drop_path: float = 0.0, image_size: int = 224) -> None:
        super().__init__()
        self.dim, self.image_size, self.num_layers = variant.dim, image_size, sum(variant.depths)
        self._first_layer = [sum(variant.depths[:stage]) + 1 for stage in range(NUM_STAGES)]
        self._post_norm_blocks = variant.post_norm_blocks
        self.patch_embed = Stem(variant.channels)
        last = max(self.num_layers - 1, 1)
        self.levels = nn.ModuleList(
            Level(variant, stage, drop_paths=[drop_path * (first - 1 + block) / last for block in range(depth)])
            for stage, (first, depth) in enumerate(zip(self._first_layer, variant.depths, strict=True))
        )
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """The published initial weights; convolutions keep torch's own."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Dcn):
                module.initialise()

    def forward(
        self,
        crops: Sequence[Float[Tensor, "_batch 3 _height _width"]],
        masks: Sequence[Bool[Tensor, "_batch _patches"] | None] | None = None,
    ) -> list[Tokens]:
        """The tokens of each group of crops."""
        if masks is not None and any(mask is not None for mask in masks):
            raise ValueError("an InternImage cannot hide patches: choose a method without masks, or a ViT")
        return [_tokens(self.stages(images)[-1]) for images in crops]

    def stages(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _rows _columns _dim"]]:
        """What each of the four stages says, channels last: the maps that detectors and segmenters take."""
        x, maps = self.patch_embed(images), []
        for level in self._levels():
            x = level(x)
            maps.append(x)
            x = x if level.downsample is None else level.downsample(x)
        return maps

    def intermediate(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Iterable[int] | int
    ) -> list[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim rows columns"]]]:
        """Pooled token and map of the given stages (0 to 3; or of the last so many), each of its own width."""
        wanted = set(range(NUM_STAGES - blocks, NUM_STAGES) if isinstance(blocks, int) else blocks)
        maps = self.stages(images)
        return [(maps[i].mean((1, 2)), maps[i].permute(0, 3, 1, 2)) for i in range(NUM_STAGES) if i in wanted]

    def units(self) -> list[Unit]:
        """The blocks."""
        return [cast(Unit, block) for level in self._levels() for block in level.blocks]

    def layer_of(self, parameter: str) -> int:
        """0 for the stem, then the blocks one by one, then the last norm; what lies between stages goes with the next.

        As published, but for the stem, which there shares the first block's rate.
        """
        first, *rest = parameter.split(".")
        if first == "patch_embed":
            return 0
        if first != "levels":
            return self.num_layers + 1
        stage, part = int(rest[0]), rest[1]
        if part == "blocks":
            return self._first_layer[stage] + int(rest[2])
        if part == "post_norms":
            return self._first_layer[stage] + self._post_norm_blocks[int(rest[2])]
        return self._first_layer[stage + 1] if stage + 1 < NUM_STAGES else self.num_layers + 1

    def stem(self) -> nn.Module:
        """The first two convolutions and their norms."""
        return self.patch_embed

    def _levels(self) -> list[Level]:
        return [cast(Level, level) for level in self.levels]


def infer_internimage(state: Mapping[str, Tensor], path: str = "the state dict") -> InternImage:
    """The size that a published state dict has, by its tensors' names and shapes. Raises CheckpointError."""
    depths, groups = [], []
    for stage in range(NUM_STAGES):
        prefix = f"levels.{stage}.blocks."
        depths.append(len({name.split(".")[3] for name in state if name.startswith(prefix)}))
        mask = state.get(f"{prefix}0.dcn.mask.weight")
        groups.append(0 if mask is None else mask.shape[0] // NUM_POINTS)
    stem = state.get("patch_embed.conv2.weight")
    channels = 0 if stem is None else stem.shape[0]
    found = (channels, tuple(depths), tuple(groups))
    for size, variant in VARIANTS.items():
        if (variant.channels, variant.depths, variant.groups) == found:
            return InternImage(size=size)
    raise CheckpointError(
        f"{path} has {channels} channels, depths {depths} and groups {groups}, which is none of {', '.join(VARIANTS)}; "
        "pass `model` explicitly, with a `variant` of its own."
    )


def _tokens(last: Float[Tensor, "batch rows columns dim"]) -> Tokens:
    patches = last.flatten(1, 2)
    return Tokens(patches.mean(1), patches[:, :0], patches, (last.shape[1], last.shape[2]))
