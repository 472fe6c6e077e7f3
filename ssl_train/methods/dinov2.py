"""DINOv2: a student guesses what its slow average, the teacher, says of other crops and of masked patches."""

import copy
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import BlockMasks, Masks
from ssl_train.losses.centering import Kind, build_centering
from ssl_train.losses.dino import pair_shares, prototype_monitors
from ssl_train.losses.koleo import koleo_loss
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks, whole_groups
from ssl_train.methods.frozen_teacher import FrozenTeacher
from ssl_train.models import Model, Tokens
from ssl_train.models.heads import DinoHead, Heads, apply_heads, with_heads
from ssl_train.ops.prototype_loss import Targets, prototype_loss
from ssl_train.schedules import WarmUpConstant, WarmUpCosine

Weight = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class DinoV2(MethodConfig):
    """DINOv2 (arXiv 2304.07193, section 4); the defaults are those of the short ViT-L/16 recipe."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["dinov2"] = "dinov2"
    """Tag of this method."""
    dino_head: DinoHead = field(default_factory=DinoHead)
    """Head over class tokens."""
    ibot_head: DinoHead | None = None
    """Head over masked patches; null shares the class tokens' head."""
    dino_weight: Weight = 1.0
    """Weight of the loss between class tokens."""
    ibot_weight: Weight = 1.0
    """Weight of the loss on masked patches."""
    koleo_weight: Weight = 0.1
    """Weight of the spread of class tokens, for each global crop."""
    centering: Kind = "softmax"
    """How the teacher's targets are kept from collapse."""
    center_momentum: Momentum = 0.9
    """Momentum of the running centre; `softmax` centering only."""
    student_temperature: Temperature = 0.1
    """Temperature of the student's logits."""
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    """Temperature of the teacher's logits, before and after its warm-up."""
    teacher_temperature_steps: Annotated[int, Field(ge=0)] = 37_500
    """Steps of that warm-up."""
    teacher_momentum: tuple[Momentum, Momentum] = (0.992, 1.0)
    """Momentum of the teacher at the first and at the last step (half a cosine between them)."""
    masks: Masks = field(default_factory=BlockMasks)
    """Which patches of the global crops are hidden from the student."""
    distil_from: FrozenTeacher | None = None
    """A larger model to learn from instead of the student's own average, which is then only the result. It goes with
    `masks: {kind: none}` and no drop path."""
    group_images: Annotated[int, Field(ge=2)] | None = None
    """Images among which masks are dealt out and nearest neighbours sought: null for each process's part of the batch,
    as published; a number makes the result the same on any number of processes."""

    def build(self, model: Model, *, num_steps: int) -> "DinoV2Networks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return DinoV2Networks(self, model, num_steps=num_steps)

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            **whole_groups(self.group_images, share),
            f"each process has {share} images of data.batch_images; method.koleo_weight needs 2 or more, to have "
            "neighbours": self.koleo_weight > 0 and (self.group_images or share) < 2,
            "method.masks = none asks the student about patches that it sees; that is for method.distil_from (name the "
            "files of the larger model's run: method.distil_from.backbone.path and heads.path)": not self.masks.hides
            and self.distil_from is None,
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`."""
        asked = num_patches * self.masks.share
        both = ((self.dino_head, num_crops, NUM_VIEWS), (self.ibot_head or self.dino_head, asked, asked))
        return sum(
            FORWARD_BACKWARD * own_rows * head.row_flops(student_dim) + rows * head.row_flops(teacher_dim)
            for head, own_rows, rows in both
        )


class DinoV2Networks(MethodNetworks):
    """Student, teacher and centres of a run, and a step's loss over them."""

    def __init__(self, config: DinoV2, model: Model, *, num_steps: int) -> None:
        student = with_heads(model.build(), config.dino_head, config.ibot_head)
        # Not a submodule: a frozen teacher is in its files already, and has no place in a checkpoint.
        teacher = config.distil_from
        frozen = None if teacher is None else teacher.build(config.dino_head, config.ibot_head)
        super().__init__(student, copy.deepcopy(student), frozen=frozen)
        self.config = config
        heads = (config.dino_head, config.ibot_head or config.dino_head)
        self.cls_targets, self.patch_targets = (
            build_centering(config.centering, num_prototypes=head.num_prototypes, momentum=config.center_momentum)
            for head in heads
        )
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        self.temperature = WarmUpConstant(*config.teacher_temperature, config.teacher_temperature_steps)
        self.train()

    @property
    def guide(self) -> nn.ModuleDict:
        """The networks whose word the student learns to give: a frozen teacher's, or its own average's."""
        return self.frozen[0] if self.frozen else self.teacher

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

        total = dino_local + dino_global + ibot + koleo, where the first two together are the mean cross-entropy over
        all (student crop, teacher view) pairs that are not the same crop.
        """
        cls_targets, patch_targets = self._teach(batch, self.temperature(step))
        views, heads = self._study(batch)
        num_images, num_local = batch.num_images, len(batch.local_crops) // batch.num_images
        config, temperature = self.config, self.config.student_temperature
        even = torch.full((num_images,), 1 / num_images, device=views.cls.device)
        mix = pair_shares(num_local, config.dino_weight)
        dino = prototype_loss(heads.cls, cls_targets, mix, even, temperature=temperature)
        weights = batch.mask_weights * (config.ibot_weight / len(views.cls))
        ibot = prototype_loss(heads.patches, patch_targets, [[1.0]], weights, temperature=temperature)
        terms = {"dino_global": dino.by_crop[:NUM_VIEWS].sum()}
        if num_local:
            terms["dino_local"] = dino.by_crop[NUM_VIEWS:].sum()
        terms["ibot"] = ibot.by_crop.sum()
        total = dino.total + ibot.total
        if config.koleo_weight:
            spread = [koleo_loss(view, group_images=config.group_images) for view in views.cls.chunk(NUM_VIEWS)]
            koleo = config.koleo_weight * torch.stack(spread).sum()
            terms["koleo"], total = koleo.detach(), total + koleo
        return Losses(total, terms, prototype_monitors(dino, config.dino_weight), views.cls.detach())

    @torch.no_grad()
    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the teacher towards the student, and let the logits of a `finite` step into the centres.

        After a step that was skipped the teacher moves too: towards weights that are as good as before.
        """
        self.follow(self.momentum(step))
        self.cls_targets.commit(finite=finite)
        self.patch_targets.commit(finite=finite)

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step), "teacher_temperature": self.temperature(step)}

    @torch.no_grad()
    def _teach(self, batch: Batch, temperature: float) -> tuple[Targets, Targets]:
        views = self.guide["backbone"]([batch.global_crops])[0]
        heads = apply_heads(self.guide, views.cls, _masked_patches(views, batch))
        return self.cls_targets(heads.cls, temperature), self.patch_targets(heads.patches, temperature)

    def _study(self, batch: Batch) -> tuple[Tokens, Heads]:
        crops, masks = [batch.global_crops], [batch.masks, None]
        if len(batch.local_crops):
            crops.append(batch.local_crops)
        seen = self.student["backbone"](crops, masks[: len(crops)])
        cls = torch.cat([tokens.cls for tokens in seen])
        return seen[0], apply_heads(self.student, cls, _masked_patches(seen[0], batch))


def _masked_patches(views: Tokens, batch: Batch) -> Float[Tensor, "masked dim"]:
    return views.patches.flatten(0, 1).index_select(0, batch.masked)
