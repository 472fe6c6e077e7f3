"""Residual networks under torchvision's parameter names: those of DINO's, MoCo v3's, SwAV's and SSCD's checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.errors import CheckpointError
from ssl_train.models.backbone import Backbone, Tokens, Unit, freeze_stem
from ssl_train.models.normed_unit import NormedUnit
from ssl_train.models.projectors import BatchNorm

Size = Literal["tiny", "resnet18", "resnet34", "resnet50", "resnet101"]
Stem = Literal["imagenet", "small"]
NUM_STAGES = 4


class Shape(NamedTuple):
    """Blocks of each stage, channels of the stem, and by how much a block's output is wider than its inside."""

    blocks: tuple[int, int, int, int]
    width: int
    expansion: Literal[1, 4]


SHAPES: dict[Size, Shape] = {
    "tiny": Shape((1, 1, 1, 1), 32, 1),
    "resnet18": Shape((2, 2, 2, 2), 64, 1),
    "resnet34": Shape((3, 4, 6, 3), 64, 1),
    "resnet50": Shape((3, 4, 6, 3), 64, 4),
    "resnet101": Shape((3, 4, 23, 3), 64, 4),
}


@dataclass(frozen=True)
class Resnet:
    """A residual network (arXiv 1512.03385) whose 3x3 convolutions stride, as torchvision's do."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["resnet"] = "resnet"
    """Tag of this backbone."""
    size: Size = "resnet50"
    """Depth and width; `tiny` (four blocks, up to 256 channels) is for trials on a CPU."""
    stem_kind: Stem = "imagenet"
    """`imagenet`: a 7x7 convolution and a pooling, a quarter of the side; `small`: a 3x3 one at full size, for images
    of 32 to 64 pixels (as CIFAR's networks have it)."""
    image_size: Annotated[int, Field(ge=1)] = 224
    """Side in pixels of the images that it is shown where nothing else is said; it takes any."""
    zero_last_gamma: bool = True
    """Begin with every block as the identity: the weight of its last norm is 0 (arXiv 1706.02677, section 5.1)."""
    frozen_stem: bool = False
    """Leave the random first convolution as it was drawn: MoCo v3's cure for instability, usable with every method."""

    mask_token: ClassVar[bool] = False
    drop_path: ClassVar[float] = 0.0

    @property
    def dim(self) -> int:
        """Width of its tokens."""
        shape = SHAPES[self.size]
        return shape.width * 2 ** (NUM_STAGES - 1) * shape.expansion

    @property
    def patch_size(self) -> int:
        """Pixels along a side of one place of the last stage."""
        return 8 * (4 if self.stem_kind == "imagenet" else 1)

    def build(self) -> "ResidualNetwork":
        """The network, freshly initialised from torch's global random state."""
        network = ResidualNetwork(SHAPES[self.size], stem=self.stem_kind, image_size=self.image_size)
        network.initialise(zero_last_gamma=self.zero_last_gamma)
        if self.frozen_stem:
            freeze_stem(network)
        return network

    def forward_flops(self, side_pixels: int, *, drop_path: float = 0.0) -> float:
        """Operations of the convolutions for one crop of side_pixels x side_pixels; no branch is ever skipped."""
        with torch.device("meta"):
            network = ResidualNetwork(SHAPES[self.size], stem=self.stem_kind)
        side = side_pixels if self.stem_kind == "small" else -(-side_pixels // 2)
        total = 2.0 * network.conv1.weight.numel() * side**2
        side = side if self.stem_kind == "small" else -(-side // 2)
        for block in network.units():
            inside = cast(ResidualBlock, block)
            before, side = side, -(-side // inside.stride)
            for name, module in inside.named_modules():
                if isinstance(module, nn.Conv2d):
                    places = before if name == "conv1" and inside.is_bottleneck else side
                    total += 2 * module.weight.numel() * places**2
        return total


class ResidualBlock(NormedUnit):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 (a bottleneck), each with its norm, beside a shortcut."""

    def __init__(self, in_dim: int, inner: int, *, expansion: int, stride: int) -> None:
        super().__init__()
        out_dim = inner * expansion
        self.is_bottleneck, self.stride = expansion > 1, stride
        first = 1 if self.is_bottleneck else 3
        self.conv1 = convolution(in_dim, inner, first, 1 if self.is_bottleneck else stride)
        self.bn1 = BatchNorm(inner)
        self.conv2 = convolution(inner, inner, 3, stride if self.is_bottleneck else 1)
        self.bn2 = BatchNorm(inner)
        if self.is_bottleneck:
            self.conv3 = convolution(inner, out_dim, 1)
            self.bn3 = BatchNorm(out_dim)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or in_dim != out_dim:
            self.downsample = nn.Sequential(convolution(in_dim, out_dim, 1, stride), BatchNorm(out_dim))

    @property
    def last_norm(self) -> BatchNorm:
        """The norm whose output is added to the shortcut."""
        return self.bn3 if self.is_bottleneck else self.bn2

    def compute(self, x: Float[Tensor, "batch in_dim height width"]) -> Float[Tensor, "batch out_dim h w"]:
        """relu(branch(x) + shortcut(x))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.is_bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + self.downsample(x))


class ResidualNetwork(Backbone):
    """Stem and four stages; the last stage's places are the dense tokens, their mean is the pooled one."""

    def __init__(self, shape: Shape, *, stem: Stem = "imagenet", image_size: int = 224) -> None:
        super().__init__()
        self.image_size, self.stem_kind = image_size, stem
        self.patch_size = 32 if stem == "imagenet" else 8
        self.conv1 = convolution(3, shape.width, 7, 2) if stem == "imagenet" else convolution(3, shape.width, 3)
        self.bn1 = BatchNorm(shape.width)
        in_dim = shape.width
        for stage, num_blocks in enumerate(shape.blocks):
            inner = shape.width * 2**stage
            blocks = []
            for block in range(num_blocks):
                stride = 2 if stage and not block else 1
                blocks.append(ResidualBlock(in_dim, inner, expansion=shape.expansion, stride=stride))
                in_dim = inner * shape.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.dim = in_dim
        self.num_layers = sum(shape.blocks)
        self._first_block = tuple(sum(shape.blocks[:stage]) for stage in range(NUM_STAGES))

    @torch.no_grad()
    def initialise(self, *, zero_last_gamma: bool) -> None:
        """Normal weights of variance 2 / (places x outputs) (arXiv 1502.01852), norms of weight 1 and bias 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_last_gamma:
            for block in self.units():
                nn.init.zeros_(cast(ResidualBlock, block).last_norm.weight)

    def forward(
        self,
        crops: Sequence[Float[Tensor, "_batch 3 _height _width"]],
        masks: Sequence[Bool[Tensor, "_batch _patches"] | None] | None = None,
    ) -> list[Tokens]:
        """The tokens of each group of crops. Norms take their statistics from one group at a time, as DINO's do."""
        if masks is not None and any(mask is not None for mask in masks):
            raise ValueError("a ResNet cannot hide patches: choose a method without masks, or a ViT")
        return [_tokens(self._stages(images)[-1]) for images in crops]

    def intermediate(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Iterable[int] | int
    ) -> list[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim rows columns"]]]:
        """Pooled token and map of the given stages (0 to 3; or of the last so many), each of its own width."""
        wanted = set(range(NUM_STAGES - blocks, NUM_STAGES) if isinstance(blocks, int) else blocks)
        maps = self._stages(images)
        return [(maps[stage].mean((2, 3)), maps[stage]) for stage in range(NUM_STAGES) if stage in wanted]

    def units(self) -> list[Unit]:
        """The residual blocks."""
        return [cast(Unit, block) for stage in self._layers() for block in stage]

    def layer_of(self, parameter: str) -> int:
        """0 for the stem, then the blocks one by one; nothing comes after them."""
        first, *rest = parameter.split(".")
        if not first.startswith("layer"):
            return 0
        return self._first_block[int(first.removeprefix("layer")) - 1] + int(rest[0]) + 1

    def stem(self) -> nn.Module:
        """The first convolution."""
        return self.conv1

    def _layers(self) -> list[nn.Sequential]:
        return [cast(nn.Sequential, getattr(self, f"layer{stage}")) for stage in range(1, NUM_STAGES + 1)]

    def _stages(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _dim _rows _columns"]]:
        # Convolutions are faster where a place's channels lie together.
        x = F.relu(self.bn1(self.conv1(images.contiguous(memory_format=torch.channels_last))))
        if self.stem_kind == "imagenet":
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        maps = []
        for layer in self._layers():
            x = layer(x)
            maps.append(x)
        return maps


def convolution(in_dim: int, out_dim: int, side: int, stride: int = 1) -> nn.Conv2d:
    """A square convolution without bias that keeps the size but for its stride."""
    return nn.Conv2d(in_dim, out_dim, side, stride, padding=side // 2, bias=False)


def infer_resnet(state: Mapping[str, Tensor], path: str = "the state dict") -> Resnet:
    """The architecture that a published state dict belongs to, by its tensors' names and shapes. CheckpointError."""
    blocks = tuple(
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in range(1, NUM_STAGES + 1)
    )
    first = state.get("conv1.weight")
    width = None if first is None else first.shape[0]
    expansion = 4 if "layer1.0.conv3.weight" in state else 1
    sizes = [size for size, shape in SHAPES.items() if shape == (blocks, width, expansion)]
    if first is None or not sizes:
        raise CheckpointError(
            f"{path} has {blocks} residual blocks on a stem of {width} channels, which is none of {', '.join(SHAPES)}; "
            "pass `model` explicitly."
        )
    return Resnet(size=sizes[0], stem_kind="imagenet" if first.shape[-1] == 7 else "small")


def _tokens(dense: Float[Tensor, "batch dim rows columns"]) -> Tokens:
    rows, columns = dense.shape[-2:]
    patches = dense.flatten(2).transpose(1, 2)
    return Tokens(patches.mean(1), patches[:, :0], patches, (rows, columns))
