"""Projection head of DINO, iBOT and DINOv2, under the published parameter names."""

import itertools
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.ops.prototype_loss import Projected

INIT_STD = 0.02


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

    def build(self, in_dim: int) -> "DinoHeadNet":
        """The head, freshly initialised from torch's global random state."""
        return DinoHeadNet(
            in_dim,
            hidden_dim=self.hidden_dim,
            bottleneck_dim=self.bottleneck_dim,
            num_layers=self.num_layers,
            num_prototypes=self.num_prototypes,
        )

    def row_flops(self, in_dim: int) -> float:
        """Operations of one row's way forward: the MLP, and the prototypes."""
        widths = [in_dim, *[self.hidden_dim] * (self.num_layers - 1), self.bottleneck_dim, self.num_prototypes]
        return 2.0 * sum(narrow * wide for narrow, wide in itertools.pairwise(widths))


class WeightNormLinear(nn.Module):
    """The weight of a bias-free linear layer whose rows are direction (`weight_v`) times length (`weight_g`).

    Both are trained. It gives the weight, not the product: what follows makes that a few rows at a time.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1))
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self) -> Float[Tensor, "out_dim in_dim"]:
        weight: Tensor = torch._weight_norm(self.weight_v, self.weight_g, 0)
        return weight


class DinoHeadNet(nn.Module):
    """[rows, dim] features to prototypes, short of the last product (DINO, arXiv 2104.14294, appendix C)."""

    def __init__(
        self, in_dim: int, *, hidden_dim: int, bottleneck_dim: int, num_layers: int, num_prototypes: int
    ) -> None:
        super().__init__()
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(bottleneck_dim, num_prototypes)

    def forward(self, x: Float[Tensor, "rows dim"]) -> Projected:
        bottleneck = self.mlp(x)
        # In half precision 1e-12 is zero, and a zero row would become NaN.
        eps = 1e-6 if bottleneck.dtype == torch.float16 else 1e-12
        return Projected(F.normalize(bottleneck, dim=-1, eps=eps), self.last_layer())
