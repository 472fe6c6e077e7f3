"""Projection heads of DINO, iBOT and DINOv2, under the published parameter names."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.models.backbone import Backbone
from ssl_train.models.projectors import BatchNorm
from ssl_train.ops.prototype_loss import Projected

INIT_STD = 0.02
_PATCH_PROTOTYPES = "dino_head.last_layer2."


@dataclass(frozen=True)
class DinoHead:
    """An MLP, a unit-length bottleneck, and weight-normed prototypes."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    num_prototypes: Annotated[int, Field(ge=2)] = 65536
    """Prototypes: outputs of the last layer."""
    hidden_dim: Annotated[int, Field(ge=1)] = 2048
    """Width of the MLP."""
    bottleneck_dim: Annotated[int, Field(ge=1)] = 256
    """Width of the space in which prototypes are compared."""
    num_layers: Annotated[int, Field(ge=1, le=8)] = 3
    """Linear layers of the MLP."""
    norm_last_layer: bool = False
    """Keep all prototypes at length 1: steadier, which DINO's larger ViTs need; DINOv2 trains their lengths."""
    batch_norm: bool = False
    """BatchNorm over all processes' rows after the MLP's hidden layers: for convolutional backbones."""

    def build(self, in_dim: int) -> "DinoHeadNet":
        """The head, freshly initialised from torch's global random state."""
        return DinoHeadNet(
            in_dim,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            num_layers=self.num_layers,
            num_prototypes=self.num_prototypes,
            norm_last_layer=self.norm_last_layer,
            batch_norm=self.batch_norm,
        )

    def row_flops(self, in_dim: int) -> float:
        """Operations of one row's way forward: the MLP, and the prototypes."""
        widths = [in_dim, *[self.hidden_dim] * (self.num_layers - 1), self.bottleneck_dim, self.num_prototypes]
        return 2.0 * sum(narrow * wide for narrow, wide in itertools.pairwise(widths))


class WeightNormLinear(nn.Module):
    """The weight of a bias-free linear layer whose rows are direction (`weight_v`) times length (`weight_g`).

    Both are trained, or only the direction. It gives the weight, not the product: what follows makes that a few rows
    at a time.
    """

    def __init__(self, in_dim: int, out_dim: int, *, trains_length: bool = True) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=trains_length)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self) -> Float[Tensor, "out_dim in_dim"]:
        weight: Tensor = torch._weight_norm(self.weight_v, self.weight_g, 0)
        return weight


class DinoHeadNet(nn.Module):
    """[rows, dim] features to prototypes, short of the last product (DINO, arXiv 2104.14294, appendix C)."""

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dim: int,
        bottleneck_dim: int,
        num_layers: int,
        num_prototypes: int,
        norm_last_layer: bool = False,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1)]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Linear(narrow, wide), *([BatchNorm(wide)] if batch_norm else []), nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], bottleneck_dim))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, num_prototypes, trains_length=not norm_last_layer)

    def forward(self, x: Float[Tensor, "rows dim"]) -> Projected:
        bottleneck = self.mlp(x)
        # In half precision 1e-12 is zero, and a zero row would become NaN.
        eps = 1e-6 if bottleneck.dtype == torch.float16 else 1e-12
        return Projected(F.normalize(bottleneck, dim=-1, eps=eps), self.last_layer())


class Heads(NamedTuple):
    """What the heads say of class tokens and of patches."""

    cls: Projected
    patches: Projected


def with_heads(backbone: Backbone, dino_head: DinoHead, ibot_head: DinoHead | None = None) -> nn.ModuleDict:
    """A backbone and its freshly initialised heads, under the published names."""
    networks: dict[str, nn.Module] = {"backbone": backbone, "dino_head": dino_head.build(backbone.dim)}
    if ibot_head is not None:
        networks["ibot_head"] = ibot_head.build(backbone.dim)
    return nn.ModuleDict(networks)


def apply_heads(networks: nn.ModuleDict, cls: Float[Tensor, "rows dim"], patches: Float[Tensor, "places dim"]) -> Heads:
    """Class tokens and patches through one shared head or one each.

    Every process calls each head exactly once, with no patch too: a sharded head is a collective.
    """
    if "ibot_head" in networks:
        return Heads(networks["dino_head"](cls), networks["ibot_head"](patches))
    both = networks["dino_head"](torch.cat([cls, patches]))
    return Heads(*(Projected(rows, both.weight) for rows in both.bottleneck.split([len(cls), len(patches)])))


def named_heads(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The heads among a file's tensors by our names, "<head>.<name>": those of our files, and of published ones.

    DINO's and iBOT's full checkpoints call the one head `head`. iBOT's writes its prototypes twice where patches share
    them, and where they do not, has one MLP for both: the patches' head gets a copy of it then. The names of a student
    or a teacher that was wrapped for several processes begin with `module.`.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = name.removeprefix("module.")
        if place.split(".")[0].endswith("_head"):
            found[place] = tensor
        elif place.startswith("head."):
            found["dino_head." + place.removeprefix("head.")] = tensor
    patches = {name: tensor for name, tensor in found.items() if name.startswith(_PATCH_PROTOTYPES)}
    found = {name: tensor for name, tensor in found.items() if name not in patches}
    own = {name.replace(_PATCH_PROTOTYPES, "dino_head.last_layer."): tensor for name, tensor in patches.items()}
    if any(not torch.equal(tensor, found[name]) for name, tensor in own.items()):
        both = {name: tensor for name, tensor in found.items() if name.startswith("dino_head.")} | own
        found |= {name.replace("dino_head.", "ibot_head.", 1): tensor for name, tensor in both.items()}
    return found
