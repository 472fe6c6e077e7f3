"""SimCLR: two views of an image find each other among the views of all others; one network, no average of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.losses.infonce import direction_spread, nt_xent
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks
from ssl_train.methods.two_views import refuse_local_crops
from ssl_train.models import Model
from ssl_train.models.projectors import MlpHead

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches


@dataclass(frozen=True)
class SimClr(MethodConfig):
    """SimCLR (arXiv 2002.05709) with the head with which MoCo v3's paper compares it (arXiv 2104.02057, table 4).

    Its own has two layers and no norm at the end: {hidden_dim: 2048, out_dim: 128, num_layers: 2, last_norm: false}.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["simclr"] = "simclr"
    """Tag of this method."""
    projector: MlpHead = field(default_factory=MlpHead)
    """Head over class (or pooled) tokens."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature of the similarities between views."""

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None
    has_teacher: ClassVar[bool] = False

    def build(self, model: Model, *, num_steps: int) -> "SimClrNetworks":
        """The network, freshly initialised from torch's global random state."""
        return SimClrNetworks(self, model)

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            f"each process has {share} images of data.batch_images; method.kind = {self.kind} needs 2 or more, to have "
            "something to tell apart": share < 2
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        return FORWARD_BACKWARD * num_crops * self.projector.row_flops(student_dim)


class SimClrNetworks(MethodNetworks):
    """The network of a run, and a step's loss over it."""

    def __init__(self, config: SimClr, model: Model) -> None:
        backbone = model.build()
        head = config.projector.build(backbone.dim)
        super().__init__(nn.ModuleDict({"backbone": backbone, "projector_head": head}), None)
        self.config = config
        self.train()

    def prepare(self, batches: "Batches") -> None:
        """See `MethodNetworks.prepare`."""
        refuse_local_crops(batches, self.config.kind)

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

            first, second = projector(network(both views, one below the other))
            total = nt_xent(first, second), among the views of all processes

        Norms over the batch look at both views of all processes together.
        Source: SimCLR (arXiv 2002.05709), algorithm 1.
        """
        tokens = self.student["backbone"]([batch.global_crops])[0]
        projected: Tensor = self.student["projector_head"](tokens.cls)
        first, second = projected.chunk(NUM_VIEWS)
        contrast = nt_xent(first, second, temperature=self.config.temperature)
        with torch.no_grad():
            monitors = {"contrast_top1": contrast.top1, "direction_spread": direction_spread(first)}
        return Losses(contrast.loss, {"nt_xent": contrast.loss.detach()}, monitors, tokens.cls.detach())
