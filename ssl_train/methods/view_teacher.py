"""What BYOL and MoCo v3 share: a student with a predictor, and a slow average of it that sees the other view."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, MethodConfig, MethodNetworks
from ssl_train.methods.two_views import refuse_local_crops, tokens_of_views
from ssl_train.models import Model
from ssl_train.models.projectors import MlpHead
from ssl_train.schedules import WarmUpCosine

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches

Momentum = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ViewTeacherConfig(MethodConfig):
    """The settings that both have; the heads are those of MoCo v3's paper (arXiv 2104.02057, table 4)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    # Described by Field, not by docstrings: pydantic reads those in the class of a field alone.
    kind: Annotated[str, Field(description="Tag of the method.")] = ""
    projector: Annotated[MlpHead, Field(description="Head of both networks, over class (or pooled) tokens.")] = field(
        default_factory=MlpHead
    )
    predictor: Annotated[
        MlpHead | None, Field(description="Head of the student alone, after its projector; null for none.")
    ] = field(default_factory=lambda: MlpHead(num_layers=2))
    teacher_momentum: Annotated[
        tuple[Momentum, Momentum],
        Field(description="Momentum of the teacher at the first and last step (half a cosine between them)."),
    ] = (0.99, 1.0)

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            f"each process has {share} images of data.batch_images; method.kind = {self.kind} needs 2 or more, for its "
            "heads' norms": share < 2,
            "method.predictor.out_dim must be method.projector.out_dim": self.predictor is not None
            and self.predictor.out_dim != self.projector.out_dim,
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        predictor = 0.0 if self.predictor is None else self.predictor.row_flops(self.projector.out_dim)
        student = FORWARD_BACKWARD * num_crops * (self.projector.row_flops(student_dim) + predictor)
        return student + NUM_VIEWS * self.projector.row_flops(teacher_dim)


class ViewTeacherNetworks(MethodNetworks):
    """Student and teacher, equal at first but for the predictor, which the student alone has."""

    def __init__(self, config: ViewTeacherConfig, model: Model, *, num_steps: int) -> None:
        backbone = model.build()
        networks = {"backbone": backbone, "projector_head": config.projector.build(backbone.dim)}
        teacher = copy.deepcopy(nn.ModuleDict(networks))
        if config.predictor is not None:
            networks["predictor_head"] = config.predictor.build(config.projector.out_dim)
        super().__init__(nn.ModuleDict(networks), teacher)
        self.kind = config.kind
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        self.train()

    def prepare(self, batches: "Batches") -> None:
        """See `MethodNetworks.prepare`."""
        refuse_local_crops(batches, self.kind)

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step)}

    def predicted(self, cls: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows out"]:
        """What the student says of the other view, from its tokens of one."""
        projected: Tensor = self.student["projector_head"](cls)
        return self.student["predictor_head"](projected) if "predictor_head" in self.student else projected

    @torch.no_grad()
    def targets(self, batch: Batch) -> tuple[Float[Tensor, "rows out"], Float[Tensor, "rows out"]]:
        """What the teacher says of either view."""
        first, second = tokens_of_views(self.teacher["backbone"], batch)
        return self.teacher["projector_head"](first.cls), self.teacher["projector_head"](second.cls)
