"""Classification: a backbone and a linear layer learn the classes of images, from scratch or from trained weights."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.labelled import Labelled
from ssl_train.data.masking import NoMasks
from ssl_train.data.mix import soft_targets
from ssl_train.errors import ConfigError
from ssl_train.methods.base import FORWARD_BACKWARD, Losses, MethodConfig, MethodNetworks, whole_groups
from ssl_train.models import Model
from ssl_train.models.class_head import ClassHead
from ssl_train.settings import as_plain

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Supervised(MethodConfig):
    """Classification, as DeiT (arXiv 2012.12877), DeiT III (arXiv 2204.07118) and InternImage (arXiv 2211.05778) train.

    It wants `data.labels` and `augment.kind: labelled`; mixup, CutMix and what happens to an image stand there.
    Fine-tuning is the same with `start.backbone`, and `optim.layer_decay` where lower layers shall move less.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["supervised"] = "supervised"
    """Tag of this method."""
    class_head: ClassHead = field(default_factory=ClassHead)
    """The head over the backbone's tokens."""
    loss: Literal["cross_entropy", "binary"] = "cross_entropy"
    """`cross_entropy` with shared targets, or `binary`: each class is a question of its own, and all classes of a mixed
    image are right (DeiT III)."""
    smoothing: Share = 0.1
    """Label smoothing: the part of a target that goes to all classes alike."""
    average_momentum: Annotated[float, Field(ge=0, lt=1)] | None = 0.9999
    """Momentum of the weights' running average, which is validated and exported; at step t it is (1 + t) / (10 + t) as
    long as that is less. Null exports the weights themselves."""
    group_images: Annotated[int, Field(ge=2)] | None = None
    """Images among which pairs are mixed: null for each process's part of the batch, as published; a number makes the
    result the same on any number of processes."""

    has_teacher: ClassVar[bool] = False
    num_views: ClassVar[int] = 1
    masks: ClassVar[NoMasks] = NoMasks()

    def build(self, model: Model, *, num_steps: int) -> "SupervisedNetworks":
        """The networks, freshly initialised from torch's global random state."""
        return SupervisedNetworks(self, model)

    def rules(self, share: int) -> dict[str, bool]:
        """Groups that are whole, and a head that can be built."""
        head = self.class_head
        return {
            **whole_groups(self.group_images, share),
            "method.class_head.widen goes with method.class_head.pool = mean": head.widen is not None
            and head.pool != "mean",
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """The linear layer, and the convolution before it where there is one."""
        head = self.class_head
        width = int(student_dim * (head.widen or (2 if head.pool == "cls_mean" else 1)))
        widening = num_patches * student_dim * width if head.widen else 0
        return FORWARD_BACKWARD * 2.0 * (num_crops * width * head.num_classes + widening)


class SupervisedNetworks(MethodNetworks):
    """The network that learns, and its running average, which is the result."""

    def __init__(self, config: Supervised, model: Model) -> None:
        backbone = model.build()
        student = nn.ModuleDict({"backbone": backbone, "class_head": config.class_head.build(backbone.dim)})
        mask_token = getattr(backbone, "mask_token", None)
        if isinstance(mask_token, nn.Parameter):
            mask_token.requires_grad_(False)  # nothing is masked: it would stay without a gradient
        super().__init__(student, None if config.average_momentum is None else copy.deepcopy(student))
        self.config = config
        self.class_names: tuple[str, ...] | None = None
        self.train()

    def prepare(self, batches: "Batches") -> None:
        """Learn the names of the classes. Raises ConfigError where the head is not for so many."""
        labels = batches.labels
        if not isinstance(batches.augment, Labelled):
            raise ConfigError("method.kind = supervised wants one crop of an image: set augment.kind = labelled")
        if labels is None:
            raise ConfigError("method.kind = supervised needs classes: say where they stand with data.labels")
        if len(labels.names) != self.config.class_head.num_classes:
            raise ConfigError(
                f"the training images have {len(labels.names)} classes and method.class_head.num_classes is "
                f"{self.config.class_head.num_classes}: set it to {len(labels.names)}, or list all classes in "
                "data.labels.classes"
            )
        self.class_names = labels.names

    def told(self) -> dict[str, Any]:
        """What an exported file says of the head: its settings, and the classes' names."""
        return {"class_head": as_plain(self.config.class_head), "classes": list(self.class_names or ())}

    def loss(self, batch: Batch, step: int) -> Losses:
        """The mean loss of this process's images; its gradient is to be averaged over processes. Equal to

        for image in batch:
            logits = class_head(backbone(image))
            target = shares of its own and of its partner's class, smoothed
            cross_entropy: - sum_k target_k log softmax(logits)_k
            binary: mean_k of -(t_k log sigmoid(logits_k) + (1 - t_k) log(1 - sigmoid(logits_k))), where t_k is 1 for
                every class with a share, else 0, smoothed
        """
        if batch.labels is None:
            raise ConfigError("the images have no labels: say where they stand with data.labels")
        views = self.student["backbone"]([batch.global_crops])[0]
        logits = self.student["class_head"](views.cls, views.patches)
        loss = self._loss(logits.float(), batch, batch.labels)
        return Losses(
            loss,
            {"classification": loss.detach()},
            {"train_top1": _top1(logits, batch, batch.labels)},
            views.cls.detach(),
        )

    @torch.no_grad()
    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """Move the average; running statistics follow, for it sees no images while training."""
        if self.has_teacher:
            self.follow(self._momentum(step), buffers=True)

    def scheduled(self, step: int) -> dict[str, float]:
        """The average's momentum."""
        return {"average_momentum": self._momentum(step)} if self.has_teacher else {}

    def train(self, mode: bool = True) -> "SupervisedNetworks":
        """Training mode for the network that learns; its average only ever follows."""
        super().train(mode)
        if self.has_teacher:
            self.teacher.eval()
        return self

    def _momentum(self, step: int) -> float:
        return min(self.config.average_momentum or 0.0, (1 + step) / (10 + step))

    def _loss(
        self, logits: Float[Tensor, "batch classes"], batch: Batch, labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        num_classes, smoothing = logits.shape[1], self.config.smoothing
        shared = (labels, batch.mixed_labels, batch.label_shares)
        with torch.autocast(logits.device.type, enabled=False):
            if self.config.loss == "cross_entropy":
                targets = soft_targets(*shared, num_classes=num_classes, smoothing=smoothing)
                return F.cross_entropy(logits, targets)
            right = (soft_targets(*shared, num_classes=num_classes) > 0).float()
            return F.binary_cross_entropy_with_logits(logits, right * (1 - smoothing) + smoothing / num_classes)


@torch.no_grad()
def _top1(logits: Float[Tensor, "batch classes"], batch: Batch, labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Percent of the images whose likeliest class is the one with the larger share of them."""
    if batch.mixed_labels is not None and batch.label_shares is not None:
        labels = torch.where(batch.label_shares >= 0.5, labels, batch.mixed_labels)
    return 100 * (logits.argmax(1) == labels).float().mean()
