"""What every method is: networks that give a step's loss, and what the trainer may ask of them and of their config."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.methods.frozen_teacher import Frozen
from ssl_train.models import Backbone, Model
from ssl_train.parallel import local_shards

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches

NUM_VIEWS = 2
"""Global crops of an image in self-supervised training."""
FORWARD_BACKWARD = 3
"""A backward pass costs two forward passes: a product for the inputs and one for the weights."""


@dataclass(frozen=True)
class Losses:
    """A step's loss: `total` is what is optimised and the sum of `terms`; `monitors` are only looked at."""

    total: Float[Tensor, ""]
    terms: Mapping[str, Float[Tensor, ""]]
    monitors: Mapping[str, Float[Tensor, ""]]
    features: Float[Tensor, "rows dim"] | None = None
    """The student's class tokens of this process's global crops, to be looked at: their rank tells of collapse."""


class MethodConfig:
    """What a method's settings say beside their fields."""

    has_teacher: ClassVar[bool] = True
    """Whether a second network sees the global crops of every step."""
    num_views: ClassVar[int] = NUM_VIEWS
    """Global crops of an image that it wants."""

    def rules(self, share: int) -> dict[str, bool]:
        """What may be wrong with these settings where a process has `share` images: message, and whether it is so."""
        return {}

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """Operations of the heads per image and step: forward and backward of the student's, forward of the teacher's.

        `num_patches` are the patches of all global crops of an image, masked or not.
        """
        return 0.0


def whole_groups(group_images: int | None, share: int) -> dict[str, bool]:
    """The rule of methods that draw masks or mix images by groups, which no two processes share."""
    group = group_images or share
    message = (
        f"method.group_images = {group} must divide the {share} images of a process: "
        f"method.group_images={math.gcd(group, share)} does"
    )
    return {message: share % group != 0}


class MethodNetworks(nn.Module):
    """The networks of a run. `student` is what is optimised, `teacher` what is the result.

    Both hold a "backbone", and heads whose names end in "_head". A method without a teacher gives None: its student is
    the result then. A `frozen` network is needed and never changes: it is no part of a checkpoint.
    """

    student: nn.ModuleDict
    teacher: nn.ModuleDict

    def __init__(self, student: nn.ModuleDict, teacher: nn.ModuleDict | None, *, frozen: Frozen | None = None) -> None:
        super().__init__()
        self.student = student
        if teacher is None:
            self.__dict__["teacher"] = student  # no second entry among the submodules
        else:
            self.teacher = teacher.requires_grad_(False)
        self.__dict__["_frozen"] = frozen

    @property
    def has_teacher(self) -> bool:
        """Whether the result is another network than the one that is optimised."""
        return self.teacher is not self.student

    @property
    def frozen(self) -> tuple[nn.ModuleDict, ...]:
        """Networks that the method needs and never changes."""
        frozen: Frozen | None = self.__dict__["_frozen"]
        return () if frozen is None else (frozen.networks,)

    @property
    def frozen_model(self) -> Model | None:
        """Their architecture."""
        frozen: Frozen | None = self.__dict__["_frozen"]
        return None if frozen is None else frozen.model

    @property
    def every(self) -> tuple[nn.ModuleDict, ...]:
        """All networks, each once."""
        return (self.student, *([self.teacher] if self.has_teacher else []), *self.frozen)

    @property
    def teacher_backbone(self) -> Backbone:
        """The backbone whose weights are the result."""
        return cast(Backbone, self.teacher["backbone"])

    def loss(self, batch: Batch, step: int) -> Losses:
        """The loss of one process's part of a batch; its gradient is to be averaged over processes."""
        raise NotImplementedError

    def after_step(self, step: int, *, finite: Tensor | bool = True) -> None:
        """What is to be done when the optimizer has taken the step, or (not `finite`) left it out."""

    def scheduled(self, step: int) -> dict[str, float]:
        """The method's own numbers at a step."""
        return {}

    def prepare(self, batches: "Batches") -> None:
        """Look at what will be trained on, once, before the first step. Raises ConfigError where it does not fit."""

    def told(self) -> dict[str, Any]:
        """What an exported file says of the networks beside their weights, as values that JSON can hold."""
        return {}

    @torch.no_grad()
    def follow(self, momentum: float, *, buffers: bool = False) -> None:
        """Move the teacher towards the student: teacher = momentum x teacher + (1 - momentum) x student.

        `buffers`: running statistics follow as well; for a teacher that sees no crops itself.
        """
        names = self.teacher.state_dict().keys() if buffers else dict(self.teacher.named_parameters()).keys()
        ours, theirs = (_tensors(networks, names) for networks in (self.teacher, self.student))
        torch._foreach_lerp_(local_shards(ours), local_shards(theirs), 1 - momentum)

    def train(self, mode: bool = True) -> Self:
        """Training mode for the student; the teacher never drops a path.

        A teacher's norms over the batch do look at the batch: DINO's and MoCo v3's do (published code).
        """
        super().train(mode)
        if self.has_teacher:
            self.teacher.eval()
            for module in self.teacher.modules():
                if "running_mean" in module._buffers:
                    module.train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        for networks in self.frozen:
            networks._apply(fn, recurse)  # they go along to other devices
        return super()._apply(fn, recurse)


def _tensors(networks: nn.ModuleDict, names: Any) -> list[Tensor]:
    """Parameters and floating-point buffers by name."""
    found = dict(networks.named_parameters()) | dict(networks.named_buffers())
    return [found[name] for name in names if found[name].is_floating_point()]
