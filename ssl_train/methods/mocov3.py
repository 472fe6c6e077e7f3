"""MoCo v3: a query of one view finds its key of the other among the keys of all images, made by a slow average."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.losses.infonce import direction_spread, symmetric_info_nce
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks
from ssl_train.methods.two_views import class_tokens, refuse_local_crops, tokens_of_views
from ssl_train.models import Model
from ssl_train.models.projectors import MlpHead
from ssl_train.schedules import WarmUpCosine

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches


@dataclass(frozen=True)
class MocoV3(MethodConfig):
    """MoCo v3 (arXiv 2104.02057); the defaults are those of its ViTs. For any backbone.

    Its ResNet-50 has two layers in both heads, no norm at the predictor's end, and temperature 1.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["mocov3"] = "mocov3"
    """Tag of this method."""
    projector: MlpHead = field(default_factory=MlpHead)
    """Head of both networks, over class (or pooled) tokens."""
    predictor: MlpHead | None = field(default_factory=lambda: MlpHead(num_layers=2))
    """Head of the student alone, after its projector; null for none."""
    temperature: Annotated[float, Field(gt=0)] = 0.2
    """Temperature of the similarities between queries and keys."""
    teacher_momentum: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]] = (0.99, 1.0)
    """Momentum of the encoder of keys at the first and at the last step (half a cosine between them)."""

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None

    def build(self, model: Model, *, num_steps: int) -> "MocoV3Networks":
        """Both networks, equal at first, freshly initialised from torch's global random state."""
        return MocoV3Networks(self, model, num_steps=num_steps)

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


class MocoV3Networks(MethodNetworks):
    """The encoder of queries (student), that of keys (teacher), and a step's loss over them."""

    def __init__(self, config: MocoV3, model: Model, *, num_steps: int) -> None:
        backbone = model.build()
        networks = {"backbone": backbone, "projector_head": config.projector.build(backbone.dim)}
        teacher = copy.deepcopy(nn.ModuleDict(networks))
        if config.predictor is not None:
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
        first, second = (self._query(tokens.cls) for tokens in views)
        contrast = symmetric_info_nce((first, second), self._keys(batch), temperature=self.config.temperature)
        monitors = {"contrast_top1": contrast.top1, "direction_spread": direction_spread(first)}
        terms = {"info_nce": contrast.loss.detach()}
        return Losses(contrast.loss, terms, monitors, class_tokens(views))

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step)}

    def _query(self, cls: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows out"]:
        projected: Tensor = self.student["projector_head"](cls)
        return self.student["predictor_head"](projected) if "predictor_head" in self.student else projected

    @torch.no_grad()
    def _keys(self, batch: Batch) -> tuple[Float[Tensor, "rows out"], Float[Tensor, "rows out"]]:
        first, second = tokens_of_views(self.teacher["backbone"], batch)
        return self.teacher["projector_head"](first.cls), self.teacher["projector_head"](second.cls)
