"""BYOL: a student says of one view what its slow average, the teacher, says of the other; nothing is contrasted."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.losses.infonce import direction_spread, regression_loss
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks
from ssl_train.methods.two_views import class_tokens, refuse_local_crops, tokens_of_views
from ssl_train.models import Model
from ssl_train.models.projectors import MlpHead
from ssl_train.schedules import WarmUpCosine

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches


@dataclass(frozen=True)
class Byol(MethodConfig):
    """BYOL (arXiv 2006.07733) with the heads with which MoCo v3's paper compares it (arXiv 2104.02057, table 4).

    Its own have two layers, biases, and no norm at the end: {num_layers: 2, last_norm: false, bias: true} for both.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["byol"] = "byol"
    """Tag of this method."""
    projector: MlpHead = field(default_factory=MlpHead)
    """Head of both networks, over class (or pooled) tokens."""
    predictor: MlpHead = field(default_factory=lambda: MlpHead(num_layers=2))
    """Head of the student alone, after its projector: without it everything collapses."""
    teacher_momentum: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (0.996, 1.0)
    """Momentum of the teacher at the first and at the last step (half a cosine between them)."""

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None

    def build(self, model: Model, *, num_steps: int) -> "ByolNetworks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return ByolNetworks(self, model, num_steps=num_steps)

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            f"each process has {share} images of data.batch_images; method.kind = {self.kind} needs 2 or more, for its "
            "heads' norms": share < 2,
            "method.predictor.out_dim must be method.projector.out_dim": self.predictor.out_dim
            != self.projector.out_dim,
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        both = self.projector.row_flops(student_dim) + self.predictor.row_flops(self.projector.out_dim)
        return FORWARD_BACKWARD * num_crops * both + NUM_VIEWS * self.projector.row_flops(teacher_dim)


class ByolNetworks(MethodNetworks):
    """Student and teacher of a run, and a step's loss over them."""

    def __init__(self, config: Byol, model: Model, *, num_steps: int) -> None:
        backbone = model.build()
        networks = {"backbone": backbone, "projector_head": config.projector.build(backbone.dim)}
        teacher = copy.deepcopy(nn.ModuleDict(networks))
        networks["predictor_head"] = config.predictor.build(config.projector.out_dim)
        super().__init__(nn.ModuleDict(networks), teacher)
        self.config = config
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        self.train()

    def prepare(self, batches: "Batches") -> None:
        """See `MethodNetworks.prepare`."""
        refuse_local_crops(batches, self.config.kind)

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

            said = predictor(projector(student(view))) for both views
            heard = projector(teacher(view)) for both views
            total = regression_loss(said[0], heard[1]) + regression_loss(said[1], heard[0])

        Norms over the batch look at one view of all processes at a time, in both networks.
        Source: BYOL (arXiv 2006.07733), section 3.1 and equation 2.
        """
        views = tokens_of_views(self.student["backbone"], batch)
        first, second = (self._said(tokens.cls) for tokens in views)
        heard = self._heard(batch)
        total = regression_loss(first, heard[1]) + regression_loss(second, heard[0])
        monitors = {"direction_spread": direction_spread(first)}
        return Losses(total, {"regression": total.detach()}, monitors, class_tokens(views))

    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the teacher towards the student, wherever the step has left it."""
        self.follow(self.momentum(step))

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step)}

    def _said(self, cls: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows out"]:
        said: Tensor = self.student["predictor_head"](self.student["projector_head"](cls))
        return said

    @torch.no_grad()
    def _heard(self, batch: Batch) -> tuple[Float[Tensor, "rows out"], Float[Tensor, "rows out"]]:
        first, second = tokens_of_views(self.teacher["backbone"], batch)
        return self.teacher["projector_head"](first.cls), self.teacher["projector_head"](second.cls)
