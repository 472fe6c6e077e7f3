"""The head of classification: what a backbone says of an image to one number for each class."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.models.projectors import BatchNorm

Pool = Literal["cls", "mean", "cls_mean"]


@dataclass(frozen=True)
class ClassHead:
    """A linear layer on a pooled token."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    num_classes: Annotated[int, Field(ge=2)] = 1000
    """Classes of the training images."""
    pool: Pool = "cls"
    """What is classified: the class token (the pooled one of a backbone that has none), the mean of the dense tokens,
    or both side by side."""
    widen: Annotated[float, Field(gt=0)] | None = None
    """Channels of a 1x1 convolution with BatchNorm and GELU before the mean is taken, relative to the backbone's:
    InternImage's is 1.5. Null for none; it goes with `pool: mean`."""
    init_std: Annotated[float, Field(ge=0)] = 0.02
    """Standard deviation of the initial weights; biases are 0. Small ones leave a trained backbone undisturbed."""

    def build(self, dim: int) -> "ClassHeadNet":
        """The head on a backbone `dim` wide, freshly initialised from torch's global random state."""
        return ClassHeadNet(self, dim)


class ClassHeadNet(nn.Module):
    """Tokens to logits; `conv_head` and `head` have their names in InternImage's published checkpoints."""

    def __init__(self, config: ClassHead, dim: int) -> None:
        super().__init__()
        self.pool: Pool = config.pool
        self.conv_head: nn.Sequential | None = None
        width = 2 * dim if config.pool == "cls_mean" else dim
        if config.widen is not None:
            width = int(dim * config.widen)
            self.conv_head = nn.Sequential(
                nn.Conv2d(dim, width, 1, bias=False), nn.Sequential(BatchNorm(width)), nn.GELU()
            )
        self.head = nn.Linear(width, config.num_classes)
        nn.init.zeros_(self.head.weight)
        if config.init_std:
            nn.init.trunc_normal_(self.head.weight, std=config.init_std)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, cls: Float[Tensor, "batch dim"], patches: Float[Tensor, "batch patches dim"]
    ) -> Float[Tensor, "batch classes"]:
        if self.conv_head is not None:
            # a row of tokens is a picture one pixel high to a 1x1 convolution
            pooled = self.conv_head(patches.transpose(1, 2).unsqueeze(-1)).mean((2, 3))
        elif self.pool == "cls":
            pooled = cls
        else:
            mean = patches.mean(1)
            pooled = mean if self.pool == "mean" else torch.cat([cls, mean], dim=-1)
        logits: Tensor = self.head(pooled)
        return logits
