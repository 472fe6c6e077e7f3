"""DINOv2: a student guesses what its slow average, the teacher, says of other crops and of masked patches."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import BlockMasks
from ssl_train.losses.centering import Kind, build_centering
from ssl_train.losses.dino import dino_loss, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.losses.koleo import koleo_loss
from ssl_train.models import Model, Tokens
from ssl_train.models.heads import DinoHead
from ssl_train.parallel import local_shards
from ssl_train.schedules import WarmUpConstant, WarmUpCosine

NUM_VIEWS = 2
"""Global crops of an image; the teacher sees each of them whole."""

Weight = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class DinoV2:
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
    masks: BlockMasks = field(default_factory=BlockMasks)
    """Which patches of the global crops are hidden from the student."""
    group_images: Annotated[int, Field(ge=2)] | None = None
    """Images among which masks are dealt out and nearest neighbours sought: null for each process's part of the batch,
    as published; a number makes the result the same on any number of processes."""

    def build(self, model: Model, *, num_steps: int) -> "DinoV2Networks":
        """Student and teacher, equal at first, freshly initialised from torch's global random state."""
        return DinoV2Networks(self, model, num_steps=num_steps)


@dataclass(frozen=True)
class Losses:
    """A step's loss: `total` is what is optimised and the sum of `terms`; `monitors` are only looked at."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    monitors: Mapping[str, Float[Tensor, ""]]


class Logits(NamedTuple):
    """What the heads say of class tokens and of masked patches."""

    cls: Float[Tensor, "rows prototypes"]
    patches: Float[Tensor, "masked patch_prototypes"]


class DinoV2Networks(nn.Module):
    """Student, teacher and centres of a run, and a step's loss over them."""

    def __init__(self, config: DinoV2, model: Model, *, num_steps: int) -> None:
        super().__init__()
        self.config = config
        self.student = build_networks(config, model)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        heads = (config.dino_head, config.ibot_head or config.dino_head)
        self.cls_targets, self.patch_targets = (
            build_centering(config.centering, num_prototypes=head.num_prototypes, momentum=config.center_momentum)
            for head in heads
        )
        self.momentum = WarmUpCosine(*config.teacher_momentum, num_steps)
        self.temperature = WarmUpConstant(*config.teacher_temperature, config.teacher_temperature_steps)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode for the student; the teacher never drops a path."""
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes.

        total = dino_local + dino_global + ibot + koleo, where the first two together are the mean cross-entropy over
        all (student crop, teacher view) pairs that are not the same crop.
        """
        cls_targets, patch_targets = self._teach(batch, self.temperature(step))
        views, local, logits = self._study(batch)
        num_views_rows = len(views.cls)
        global_logits = logits.cls[:num_views_rows].unflatten(0, (NUM_VIEWS, -1))
        num_local = len(local.cls) // batch.num_images if local is not None else 0
        num_pairs = NUM_VIEWS * num_local + NUM_VIEWS * (NUM_VIEWS - 1)
        config, temperature = self.config, self.config.student_temperature
        share = config.dino_weight / num_pairs
        terms = {"dino_global": share * swapped_dino_loss(global_logits, cls_targets, temperature=temperature)}
        if num_local:
            local_logits = logits.cls[num_views_rows:].unflatten(0, (num_local, -1))
            terms["dino_local"] = share * dino_loss(local_logits, cls_targets, temperature=temperature)
        terms["ibot"] = config.ibot_weight * ibot_loss(
            logits.patches, patch_targets, batch.mask_weights, num_crops=num_views_rows, temperature=temperature
        )
        if config.koleo_weight:
            spread = [koleo_loss(view, group_images=config.group_images) for view in views.cls.chunk(NUM_VIEWS)]
            terms["koleo"] = config.koleo_weight * torch.stack(spread).sum()
        return Losses(torch.stack(list(terms.values())).sum(), terms, _monitor(cls_targets))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher towards the student and let the step's logits into the centres."""
        weight = 1 - self.momentum(step)
        torch._foreach_lerp_(local_shards(self.teacher.parameters()), local_shards(self.student.parameters()), weight)
        self.cls_targets.commit()
        self.patch_targets.commit()

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {"teacher_momentum": self.momentum(step), "teacher_temperature": self.temperature(step)}

    @torch.no_grad()
    def _teach(
        self, batch: Batch, temperature: float
    ) -> tuple[Float[Tensor, "views batch prototypes"], Float[Tensor, "masked patch_prototypes"]]:
        views = self.teacher["backbone"]([batch.global_crops])[0]
        logits = apply_heads(self.teacher, views.cls, _masked_patches(views, batch))
        cls = self.cls_targets(logits.cls, temperature).unflatten(0, (NUM_VIEWS, -1))
        return cls, self.patch_targets(logits.patches, temperature)

    def _study(self, batch: Batch) -> tuple[Tokens, Tokens | None, Logits]:
        crops, masks = [batch.global_crops], [batch.masks, None]
        if len(batch.local_crops):
            crops.append(batch.local_crops)
        views, *rest = self.student["backbone"](crops, masks[: len(crops)])
        local = rest[0] if rest else None
        cls = torch.cat([views.cls, local.cls]) if local is not None else views.cls
        return views, local, apply_heads(self.student, cls, _masked_patches(views, batch))


def build_networks(config: DinoV2, model: Model) -> nn.ModuleDict:
    """A backbone and its heads, under the published names."""
    backbone = model.build()
    networks: dict[str, nn.Module] = {"backbone": backbone, "dino_head": config.dino_head.build(backbone.dim)}
    if config.ibot_head is not None:
        networks["ibot_head"] = config.ibot_head.build(backbone.dim)
    return nn.ModuleDict(networks)


def apply_heads(
    networks: nn.ModuleDict, cls: Float[Tensor, "rows dim"], patches: Float[Tensor, "masked dim"]
) -> Logits:
    """Logits of class tokens and masked patches, by one shared head or by one each.

    Every process calls each head exactly once, with no masked patch too: a sharded head is a collective.
    """
    if "ibot_head" in networks:
        return Logits(networks["dino_head"](cls), networks["ibot_head"](patches))
    return Logits(*networks["dino_head"](torch.cat([cls, patches])).split([len(cls), len(patches)]))


def _masked_patches(views: Tokens, batch: Batch) -> Float[Tensor, "masked dim"]:
    return views.patches.flatten(0, 1).index_select(0, batch.masked)


@torch.no_grad()
def _monitor(cls_targets: Float[Tensor, "views batch prototypes"]) -> dict[str, Float[Tensor, ""]]:
    """Entropy in nats of a target, and of their mean: both near 0 is collapse, both near log(prototypes) too."""
    rows = cls_targets.flatten(0, 1)
    return {"teacher_entropy": _entropy(rows).mean(), "teacher_marginal_entropy": _entropy(rows.mean(0))}


def _entropy(probabilities: Float[Tensor, "*rows prototypes"]) -> Float[Tensor, "*rows"]:
    return torch.special.entr(probabilities).sum(-1)
