"""BYOL: a student says of one view what its slow average, the teacher, says of the other; nothing is contrasted."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict
from torch import Tensor

from ssl_train.data.collate import Batch
from ssl_train.losses.infonce import direction_spread, regression_loss
from ssl_train.methods.base import Losses
from ssl_train.methods.two_views import class_tokens, tokens_of_views
from ssl_train.methods.view_teacher import Momentum, ViewTeacherConfig, ViewTeacherNetworks
from ssl_train.models import Model
from ssl_train.models.projectors import MlpHead


@dataclass(frozen=True)
class Byol(ViewTeacherConfig):
    """BYOL (arXiv 2006.07733) with the heads with which MoCo v3's paper compares it (arXiv 2104.02057, table 4).

    Its own have two layers, biases, and no norm at the end: {num_layers: 2, last_norm: false, bias: true} for both.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["byol"] = "byol"
    """Tag of this method."""
    predictor: MlpHead = field(default_factory=lambda: MlpHead(num_layers=2))
    """Head of the student alone, after its projector: without it everything collapses."""
    teacher_momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    """Momentum of the teacher at the first and at the last step (half a cosine between them)."""

    def build(self, model: Model, *, num_steps: int) -> "ByolNetworks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return ByolNetworks(self, model, num_steps=num_steps)


class ByolNetworks(ViewTeacherNetworks):
    """Student and teacher of a run, and a step's loss over them."""

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

            said = predictor(projector(student(view))) for both views
            heard = projector(teacher(view)) for both views
            total = regression_loss(said[0], heard[1]) + regression_loss(said[1], heard[0])

        Norms over the batch look at one view of all processes at a time, in both networks.
        Source: BYOL (arXiv 2006.07733), section 3.1 and equation 2.
        """
        views = tokens_of_views(self.student["backbone"], batch)
        first, second = (self.predicted(tokens.cls) for tokens in views)
        heard = self.targets(batch)
        total = regression_loss(first, heard[1]) + regression_loss(second, heard[0])
        monitors = {"direction_spread": direction_spread(first)}
        return Losses(total, {"regression": total.detach()}, monitors, class_tokens(views))

    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the teacher towards the student, wherever the step has left it."""
        self.follow(self.momentum(step))
