"""MoCo v3: a query of one view finds its key of the other among the keys of all images, made by a slow average."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from ssl_train.data.collate import Batch
from ssl_train.losses.infonce import direction_spread, symmetric_info_nce
from ssl_train.methods.base import Losses
from ssl_train.methods.two_views import class_tokens, tokens_of_views
from ssl_train.methods.view_teacher import ViewTeacherConfig, ViewTeacherNetworks
from ssl_train.models import Model


@dataclass(frozen=True)
class MocoV3(ViewTeacherConfig):
    """MoCo v3 (arXiv 2104.02057); the defaults are those of its ViTs. For any backbone.

    Its ResNet-50 has two layers in both heads, no norm at the predictor's end, and temperature 1.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["mocov3"] = "mocov3"
    """Tag of this method."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """Temperature of the similarities between queries and keys."""

    def build(self, model: Model, *, num_steps: int) -> "MocoV3Networks":
        """Both networks, equal at first, freshly initialised from torch's global random state."""
        return MocoV3Networks(self, model, num_steps=num_steps)


class MocoV3Networks(ViewTeacherNetworks):
    """The encoder of queries (student), that of keys (teacher), and a step's loss over them."""

    def __init__(self, config: MocoV3, model: Model, *, num_steps: int) -> None:
        super().__init__(config, model, num_steps=num_steps)
        self.temperature = config.temperature

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

            queries = predictor(projector(student(view))) for both views
            teacher = momentum * teacher + (1 - momentum) * student
            keys = projector(teacher(view)) for both views
            total = info_nce(queries[0], keys[1]) + info_nce(queries[1], keys[0])

        Norms over the batch look at one view of all processes at a time, in both networks. The teacher moves first
        here: no query depends on it, and sharded weights lie still before the forward pass.
        Source: MoCo v3 (arXiv 2104.02057), algorithm 1.
        """
        self.follow(self.momentum(step))
        views = tokens_of_views(self.student["backbone"], batch)
        first, second = (self.predicted(tokens.cls) for tokens in views)
        contrast = symmetric_info_nce((first, second), self.targets(batch), temperature=self.temperature)
        monitors = {"contrast_top1": contrast.top1, "direction_spread": direction_spread(first)}
        terms = {"info_nce": contrast.loss.detach()}
        return Losses(contrast.loss, terms, monitors, class_tokens(views))
