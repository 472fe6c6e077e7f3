"""Any backbone of the timm package by its name, where that is installed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ssl_train.errors import ConfigError
from ssl_train.models.backbone import Backbone, Tokens, Unit, freeze_stem
from ssl_train.models.normed_unit import NormedUnit
from ssl_train.models.projectors import BatchNorm


@dataclass(frozen=True)
class Timm:
    """A backbone of timm 1.x, freshly initialised as timm does it; its head is left out.

    timm is not among this package's dependencies: pip install timm (with torch pinned to the version that is there).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """Name of the model in timm, for instance `convnext_tiny` or `vit_small_patch16_224`."""
    kind: Literal["timm"] = "timm"
    """Tag of this backbone."""
    image_size: Annotated[int, Field(ge=1)] = 224
    """Side in pixels of the images that it is built for (timm's `img_size`, where a model has positions)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """timm's `drop_path_rate`; 0 leaves the argument out, since some models know none."""
    frozen_stem: bool = False
    """Leave the random first layer as it was drawn: MoCo v3's cure for instability, usable with every method."""

    mask_token: ClassVar[bool] = False

    @property
    def patch_size(self) -> int:
        """Pixels along a side of one dense token."""
        return _outline(self).patch_size

    @property
    def dim(self) -> int:
        """Width of its tokens."""
        return _outline(self).dim

    def build(self) -> "TimmBackbone":
        """The network, freshly initialised from torch's global random state. Raises ConfigError without timm."""
        network = TimmBackbone(create_model(self), image_size=self.image_size, patch_size=self.patch_size)
        if self.frozen_stem:
            freeze_stem(network)
        return network

    def forward_flops(self, side_pixels: int, *, drop_path: float = 0.0) -> float:
        """Operations of the products and convolutions for one crop; that branches are skipped is not counted."""
        with torch.device("meta"):
            model, images = create_model(self).eval(), torch.empty(1, 3, side_pixels, side_pixels)
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model.forward_features(images)
        return float(counted.get_total_flops())


class Outline(NamedTuple):
    """What must be known of a model before it is built."""

    dim: int
    patch_size: int


class TimmBackbone(Backbone):
    """A model with timm's feature interface: `forward_features`, `forward_intermediates`, `num_prefix_tokens`, ...

    Its dense tokens are what `forward_features` gives; the class token, or their mean where there is none, is the
    pooled one. It is compiled, recomputed and sharded in one piece. BatchNorm spans all processes.
    """

    def __init__(self, model: Any, *, image_size: int, patch_size: int) -> None:
        super().__init__()
        self.image_size, self.patch_size = image_size, patch_size
        self.dim = int(model.num_features)
        self._depths = depths_of(model)
        self.num_layers = max(1, max(self._depths.values()) - 1)
        self.body = Body(with_shared_norms(model))

    def forward(
        self,
        crops: Sequence[Float[Tensor, "_batch 3 _height _width"]],
        masks: Sequence[Bool[Tensor, "_batch _patches"] | None] | None = None,
    ) -> list[Tokens]:
        """The tokens of each group of crops."""
        if masks is not None and any(mask is not None for mask in masks):
            raise ValueError("a timm backbone cannot hide patches: choose a method without masks, or `kind: vit`")
        return [self._split(self.body(images), images) for images in crops]

    def intermediate(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Iterable[int] | int
    ) -> list[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim rows columns"]]]:
        """Pooled token (a map's mean) and map of timm's feature levels with these numbers, or of the last so many."""
        indices = blocks if isinstance(blocks, int) else list(blocks)
        maps = self.body.model.forward_intermediates(images, indices=indices, norm=False, intermediates_only=True)
        return [(dense.mean((2, 3)), dense) for dense in maps]

    def units(self) -> list[Unit]:
        """The whole model."""
        return [self.body]

    def layer_of(self, parameter: str) -> int:
        """As timm's own layer-wise decay groups it."""
        return min(self._depths[parameter.removeprefix("body.model.")], self.num_layers + 1)

    def stem(self) -> nn.Module:
        """What timm calls the model's first convolution."""
        first = self.body.model.pretrained_cfg["first_conv"]
        names = [first] if isinstance(first, str) else list(first)
        return nn.ModuleList(self.body.model.get_submodule(name) for name in names)

    def _split(self, features: Tensor, images: Tensor) -> Tokens:
        """[batch, tokens, dim], [batch, dim, rows, columns] or [batch, rows, columns, dim], as the model gives it."""
        if features.ndim == 4:
            dense = features if features.shape[1] == self.dim else features.permute(0, 3, 1, 2)
            patches = dense.flatten(2).transpose(1, 2)
            return Tokens(patches.mean(1), patches[:, :0], patches, (dense.shape[2], dense.shape[3]))
        first = getattr(self.body.model, "num_prefix_tokens", 0)
        patches = features[:, first:]
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        return Tokens(features[:, 0] if first else patches.mean(1), features[:, 1:first], patches, (rows, columns))


class Body(NormedUnit):
    """A timm model as far as its features."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def compute(self, images: Tensor) -> Tensor:
        """The last features, as the model gives them."""
        features: Tensor = self.model.forward_features(images)
        return features


class SharedNorm(BatchNorm):
    """A BatchNorm of timm's, with what timm lets follow inside of it, over all processes.

    Its running statistics move by a tenth of each batch, also in the models (TensorFlow's) that have another share.
    """

    def __init__(self, norm: Any) -> None:
        super().__init__(norm.num_features, affine=norm.affine)
        self.eps = norm.eps
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(input)))
        return out


def create_model(config: Timm) -> Any:
    """timm's model without its head. Raises ConfigError where timm is missing, or knows no such model."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"model.kind = timm (name {config.name}) needs the timm package: {error}. pip install timm "
            "torchvision, with torch pinned to the version that is installed."
        ) from error
    if not timm.is_model(config.name):
        raise ConfigError(f"model.name = {config.name} is no model of timm {timm.__version__}: see timm.list_models().")
    drop: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    try:
        return timm.create_model(config.name, num_classes=0, img_size=config.image_size, **drop)
    except TypeError:  # most convolutional models take images of any size, and no such argument
        return timm.create_model(config.name, num_classes=0, **drop)


def depths_of(model: Any) -> dict[str, int]:
    """Depth of every parameter as timm's `group_matcher` has it: 0 for the stem, largest for the last norm."""
    from timm.models import group_parameters

    found: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return found


def with_shared_norms(model: nn.Module) -> nn.Module:
    """The model with its BatchNorms replaced by ones over all processes, under the same names and as initialised."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                shared = SharedNorm(child)
                shared.load_state_dict(child.state_dict(), assign=True)
                setattr(module, name, shared)
    return model


@lru_cache(maxsize=8)
def _outline(config: Timm) -> Outline:
    """By what comes out of a model without weights."""
    side = config.image_size
    with torch.device("meta"):
        model, images = create_model(config).eval(), torch.empty(1, 3, side, side)
    with torch.no_grad():
        features = model.forward_features(images)
    if features.ndim == 4:
        rows = features.shape[2]
    else:
        rows = round((features.shape[1] - getattr(model, "num_prefix_tokens", 0)) ** 0.5)
    return Outline(int(model.num_features), side // rows)
