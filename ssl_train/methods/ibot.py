"""iBOT: DINO's guess from crop to crop, and beside it what the teacher says of the patches hidden from the student."""

import copy
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.data.collate import Batch
from ssl_train.data.masking import ChoiceMasks, Masks
from ssl_train.losses.centering import Kind, build_centering
from ssl_train.losses.dino import pair_shares, prototype_monitors
from ssl_train.methods.base import FORWARD_BACKWARD, NUM_VIEWS, Losses, MethodConfig, MethodNetworks, whole_groups
from ssl_train.models import Model, Tokens
from ssl_train.models.heads import DinoHead, Heads, apply_heads, with_heads
from ssl_train.ops.prototype_loss import Targets, prototype_loss
from ssl_train.schedules import WarmUpConstant, WarmUpCosine

Weight = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Ibot(MethodConfig):
    """iBOT (arXiv 2111.07832): the baseline that DINOv2's gains are measured from; the defaults are those of ViT-S/16.

    It sends every patch of the global crops through both heads, masked or not, as the published code does: the centre
    of the patches is a mean over all of them, and the loss leaves out afterwards what was not masked. This is what it
    costs (nearly 7 times the rows that DINOv2's heads see), and it is kept so on purpose.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["ibot"] = "ibot"
    """Tag of this method."""
    dino_head: DinoHead = field(default_factory=lambda: DinoHead(num_prototypes=8192))
    """Head over class tokens."""
    ibot_head: DinoHead | None = None
    """Head over patches; null shares the class tokens' head, as in the published runs."""
    dino_weight: Weight = 1.0
    """Weight of the loss between class tokens of different crops."""
    ibot_weight: Weight = 1.0
    """Weight of the loss on masked patches."""
    centering: Kind = "softmax"
    """How the teacher's targets are kept from collapse; class tokens and patches have a centre each."""
    center_momentum: Momentum = 0.9
    """Momentum of the running centres; `softmax` centering only."""
    student_temperature: Temperature = 0.1
    """Temperature of the student's logits."""
    teacher_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    """Temperature of the teacher's class tokens, before and after its warm-up."""
    patch_temperature: tuple[Temperature, Temperature] = (0.04, 0.07)
    """Temperature of the teacher's patches, before and after its warm-up."""
    teacher_temperature_steps: Annotated[int, Field(ge=0)] = 37_500
    """Steps of both warm-ups."""
    teacher_momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    """Momentum of the teacher at the first and at the last step (half a cosine between them)."""
    masks: Masks = field(default_factory=ChoiceMasks)
    """Which patches of the global crops are hidden from the student."""
    group_images: Annotated[int, Field(ge=1)] | None = None
    """Images whose masks are drawn together: null for each process's part of the batch; a number makes the masks the
    same on any number of processes."""

    def build(self, model: Model, *, num_steps: int) -> "IbotNetworks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return IbotNetworks(self, model, num_steps=num_steps)

    def rules(self, share: int) -> dict[str, bool]:
        """See `MethodConfig.rules`."""
        return {
            **whole_groups(self.group_images, share),
            f"method.masks = {self.masks.kind} hides nothing that iBOT's student could guess; take blocks or "
            "choice": not self.masks.hides,
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """See `MethodConfig.head_flops`; all patches count."""
        rows = ((self.dino_head, num_crops, NUM_VIEWS), (self.ibot_head or self.dino_head, num_patches, num_patches))
        return sum(
            FORWARD_BACKWARD * own * head.row_flops(student_dim) + theirs * head.row_flops(teacher_dim)
            for head, own, theirs in rows
        )


class IbotNetworks(MethodNetworks):
    """Student, teacher and both centres of a run, and a step's loss over them."""

    def __init__(self, config: Ibot, model: Model, *, num_steps: int) -> None:
        student = with_heads(model.build(), config.dino_head, config.ibot_head)
        super().__init__(student, copy.deepcopy(student))
        self.config = config
        self.cls_targets, self.patch_targets = (
            build_centering(config.centering, num_prototypes=head.num_prototypes, momentum=config.center_momentum)
            for head in (config.dino_head, config.ibot_head or config.dino_head)
        )
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        warmup = config.teacher_temperature_steps
        self.temperature = WarmUpConstant(*config.teacher_temperature, warmup)
        self.patch_temperature = WarmUpConstant(*config.patch_temperature, warmup)
        self.train()

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

        total = dino_weight * cls + ibot_weight * patch. `cls` is DINO's (see `DinoNetworks.loss`), where the student's
        global crops have masks; `patch` compares each patch with the teacher's word on the same patch of the same crop:

            for crop in global crops:
                losses = [-sum_k t_k * log softmax(student logits of p / temperature)_k for p in masked patches of crop]
                patch += mean(losses) if losses else 0
            patch / number of global crops, of all images

        Source: iBOT (arXiv 2111.07832), equations 2 and 3.
        """
        cls_targets, patch_targets = self._teach(batch, step)
        views, heads = self._study(batch)
        num_images, config = batch.num_images, self.config
        temperature = config.student_temperature
        even = torch.full((num_images,), 1 / num_images, device=views.cls.device)
        mix = pair_shares(len(batch.local_crops) // num_images, config.dino_weight)
        dino = prototype_loss(heads.cls, cls_targets, mix, even, temperature=temperature)
        asked = even.new_zeros(views.patches.shape[:2].numel())
        asked[batch.masked] = batch.mask_weights * (config.ibot_weight / len(views.cls))
        ibot = prototype_loss(heads.patches, patch_targets, [[1.0]], asked, temperature=temperature)
        terms = {"dino_global": dino.by_crop[:NUM_VIEWS].sum()}
        if len(mix) > NUM_VIEWS:
            terms["dino_local"] = dino.by_crop[NUM_VIEWS:].sum()
        terms["ibot"] = ibot.by_crop.sum()
        monitors = {**prototype_monitors(dino, config.dino_weight), "teacher_patch_entropy": ibot.target_entropy}
        return Losses(dino.total + ibot.total, terms, monitors, views.cls.detach())

    @torch.no_grad()
    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the teacher towards the student, and let the logits of a `finite` step into the centres."""
        self.follow(self.momentum(step))
        self.cls_targets.commit(finite=finite)
        self.patch_targets.commit(finite=finite)

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {
            "teacher_momentum": self.momentum(step),
            "teacher_temperature": self.temperature(step),
            "teacher_patch_temperature": self.patch_temperature(step),
        }

    @torch.no_grad()
    def _teach(self, batch: Batch, step: int) -> tuple[Targets, Targets]:
        views = self.teacher["backbone"]([batch.global_crops])[0]
        heads = apply_heads(self.teacher, views.cls, views.patches.flatten(0, 1))
        return (
            self.cls_targets(heads.cls, self.temperature(step)),
            self.patch_targets(heads.patches, self.patch_temperature(step)),
        )

    def _study(self, batch: Batch) -> tuple[Tokens, Heads]:
        crops, masks = [batch.global_crops], [batch.masks, None]
        if len(batch.local_crops):
            crops.append(batch.local_crops)
        seen = self.student["backbone"](crops, masks[: len(crops)])
        cls = torch.cat([tokens.cls for tokens in seen])
        return seen[0], apply_heads(self.student, cls, seen[0].patches.flatten(0, 1))
