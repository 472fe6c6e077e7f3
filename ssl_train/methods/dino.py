"""DINO: a student guesses from every crop of an image what its slow average, the teacher, says of the large ones."""

import copy
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data.collate import Batch
from ssl_train.data.masking import Masks, NoPatches
from ssl_train.losses.centering import Kind, build_centering
from ssl_train.losses.dino import pair_shares, prototype_monitors
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks
from ssl_train.models import Model
from ssl_train.models.heads import DinoHead, with_heads
from ssl_train.ops.prototype_loss import prototype_loss
from ssl_train.schedules import WarmUpConstant, WarmUpCosine

Momentum = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Dino(MethodConfig):
    """DINO (arXiv 2104.14294); the defaults are those of ViT-S/16. For any backbone.

    The centre keeps one prototype from winning everything, the teacher's low temperature keeps all of them from
    winning alike: `centering: none` leaves the one out, `teacher_temperature` equal to the student's the other, and
    `python -m ssl_train.studies.collapse` shows what becomes of it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["dino"] = "dino"
    """Tag of this method."""
    dino_head: DinoHead = field(default_factory=DinoHead)
    """Head over class (or pooled) tokens."""
    centering: Kind = "softmax"
    """How the teacher's targets are kept from one prototype: `softmax` by a running centre, `sinkhorn_knopp` by using
    all alike in a batch, `none` not at all."""
    center_momentum: Momentum = 0.9
    """Momentum of the running centre; `softmax` centering only."""
    student_temperature: Temperature = 0.1
    """Temperature of the student's logits."""
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    """Temperature of the teacher's logits, before and after its warm-up; below the student's, it sharpens."""
    teacher_temperature_steps: Annotated[int, Field(ge=0)] = 37_500
    """Steps of that warm-up."""
    teacher_momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    """Momentum of the teacher at the first and at the last step (half a cosine between them)."""

    masks: ClassVar[Masks] = NoPatches()
    group_images: ClassVar[int | None] = None

    def build(self, model: Model, *, num_steps: int) -> "DinoNetworks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return DinoNetworks(self, model, num_steps=num_steps)

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        head = self.dino_head
        return FORWARD_BACKWARD * num_crops * head.row_flops(student_dim) + NUM_VIEWS * head.row_flops(teacher_dim)


class DinoNetworks(MethodNetworks):
    """Student, teacher and centre of a run, and a step's loss over them."""

    def __init__(self, config: Dino, model: Model, *, num_steps: int) -> None:
        student = with_heads(model.build(), config.dino_head)
        super().__init__(student, copy.deepcopy(student))
        self.config = config
        self.cls_targets = build_centering(
            config.centering, num_prototypes=config.dino_head.num_prototypes, momentum=config.center_momentum
        )
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        self.temperature = WarmUpConstant(*config.teacher_temperature, config.teacher_temperature_steps)
        self.train()

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

        It is the mean cross-entropy over all (student crop, teacher view) pairs that are not the same crop:

            for crop in global and local crops of the student:
                for view in the teacher's global crops, unless it is the same crop:
                    t = softmax((teacher logits of view - centre) / teacher temperature)
                    total += mean over images of -sum_k t_k * log softmax(student logits of crop / temperature)_k
            total / number of pairs

        Source: DINO (arXiv 2104.14294), equations 1 to 4 and algorithm 1. No logits stand in memory whole.
        """
        with torch.no_grad():
            seen = self.teacher["backbone"]([batch.global_crops])[0]
            targets = self.cls_targets(self.teacher["dino_head"](seen.cls), self.temperature(step))
        crops = [batch.global_crops, *([batch.local_crops] if len(batch.local_crops) else [])]
        tokens = self.student["backbone"](crops)
        projected = self.student["dino_head"](torch.cat([group.cls for group in tokens]))
        num_images = batch.num_images
        even = torch.full((num_images,), 1 / num_images, device=seen.cls.device)
        mix = pair_shares(len(batch.local_crops) // num_images)
        dino = prototype_loss(projected, targets, mix, even, temperature=self.config.student_temperature)
        terms = {"dino_global": dino.by_crop[:NUM_VIEWS].sum()}
        if len(mix) > NUM_VIEWS:
            terms["dino_local"] = dino.by_crop[NUM_VIEWS:].sum()
        return Losses(dino.total, terms, prototype_monitors(dino), tokens[0].cls.detach())

    @torch.no_grad()
    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the teacher towards the student, and let the logits of a `finite` step into the centre."""
        self.follow(self.momentum(step))
        self.cls_targets.commit(finite=finite)

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step), "teacher_temperature": self.temperature(step)}
