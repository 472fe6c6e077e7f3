"""Distillation of a frozen backbone into any other: the student says what the teacher says of images and of places."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import NoMasks
from ssl_train.errors import ConfigError
from ssl_train.methods.base import FORWARD_BACKWARD, Losses, MethodConfig, MethodNetworks
from ssl_train.methods.frozen_teacher import Frozen
from ssl_train.models import Model, Tokens
from ssl_train.models.load import read_backbone
from ssl_train.start import Weights

Distance = Literal["cosine", "mse"]
Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Distil(MethodConfig):
    """A frozen teacher's class token and patch tokens, given by linear layers on the student's (any two backbones).

    It needs no prototypes and no heads of the teacher's: any published backbone can teach. Student and teacher see the
    same crops.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["distil"] = "distil"
    """Tag of this method."""
    teacher: Weights | None = None
    """The file of the teacher's backbone: a teacher.safetensors of this trainer, or a published checkpoint."""
    image_weight: Weight = 1.0
    """Weight of the loss on the class token (image level)."""
    dense_weight: Weight = 1.0
    """Weight of the loss on the patch tokens (dense)."""
    distance: Distance = "cosine"
    """What is made small: 1 - cosine, or the mean squared difference of the numbers themselves."""
    teacher_pixels: Annotated[int, Field(ge=1)] | None = None
    """Side to which crops are resized for the teacher, where its patches are not a whole number of the student's crops;
    null shows it the crops as they are."""

    has_teacher: ClassVar[bool] = True
    group_images: ClassVar[int | None] = None
    masks: ClassVar[NoMasks] = NoMasks()

    def build(self, model: Model, *, num_steps: int) -> "DistilNetworks":
        """The student, freshly initialised from torch's global random state, and the teacher from its file.

        Raises ConfigError where no file is named, CheckpointError when it does not fit.
        """
        if self.teacher is None:
            raise ConfigError(_NO_TEACHER)
        loaded = read_backbone(self.teacher.path, self.teacher.sha256)
        networks = nn.ModuleDict({"backbone": loaded.network}).requires_grad_(False).eval()
        return DistilNetworks(self, model, Frozen(networks, loaded.model))

    def rules(self, share: int) -> dict[str, bool]:
        """A teacher, and something to learn from it."""
        return {
            _NO_TEACHER: self.teacher is None,
            "method.image_weight and method.dense_weight are both 0: nothing would be learned": self.image_weight == 0
            and self.dense_weight == 0,
        }

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """The two linear layers."""
        rows = num_crops * (self.image_weight > 0) + num_patches * (self.dense_weight > 0)
        return FORWARD_BACKWARD * 2.0 * rows * student_dim * teacher_dim


_NO_TEACHER = "method.kind = distil needs a teacher: name its file (method.teacher.path=.../teacher.safetensors)"


class DistilNetworks(MethodNetworks):
    """The student with its two layers, and the frozen teacher."""

    def __init__(self, config: Distil, model: Model, teacher: Frozen) -> None:
        student, dim = model.build(), teacher.model.dim
        networks: dict[str, nn.Module] = {"backbone": student}
        if config.image_weight:
            networks["image_head"] = nn.Linear(student.dim, dim)
        if config.dense_weight:
            networks["dense_head"] = nn.Linear(student.dim, dim)
        super().__init__(nn.ModuleDict(networks), None, frozen=teacher)
        self.config = config

    def loss(self, batch: Batch, step: int) -> Losses:
        """total = image_weight x image + dense_weight x dense. Equal to

        for crop in all crops of all images (global and local):
            student, teacher = what each backbone says of it
            image = distance(image_head(student.cls), teacher.cls)
            there = teacher's map of patch tokens, resampled to the student's grid
            dense = mean over places of distance(dense_head(student.patches), there)
        image, dense = means over crops
        """
        groups = [crops for crops in (batch.global_crops, batch.local_crops) if len(crops)]
        seen: list[Tokens] = self.student["backbone"](groups)
        taught = self._teach(groups)
        terms: dict[str, Tensor] = {}
        if self.config.image_weight:
            own, targets = [tokens.cls for tokens in seen], [tokens.cls for tokens in taught]
            terms["image"] = self.config.image_weight * self._mean_distance("image_head", own, targets)
        if self.config.dense_weight:
            own = [tokens.patches for tokens in seen]
            targets = [on_grid(target, tokens.grid) for target, tokens in zip(taught, seen, strict=True)]
            terms["dense"] = self.config.dense_weight * self._mean_distance("dense_head", own, targets)
        total = torch.stack(list(terms.values())).sum()
        return Losses(total, {name: term.detach() for name, term in terms.items()}, {}, seen[0].cls.detach())

    @torch.no_grad()
    def _teach(self, groups: list[Tensor]) -> list[Tokens]:
        pixels = self.config.teacher_pixels
        shown = groups if pixels is None else [resized(crops, (pixels, pixels)) for crops in groups]
        taught: list[Tokens] = self.frozen[0]["backbone"](shown)
        return taught

    def _mean_distance(self, head: str, own: list[Tensor], targets: list[Tensor]) -> Float[Tensor, ""]:
        """Mean over crops, then over a crop's tokens. The head is called once: a sharded head is a collective."""
        rows = [tokens.flatten(0, -2) for tokens in own]
        said = self.student[head](torch.cat(rows)).split([len(part) for part in rows])
        means = [
            distance(one, target.flatten(0, -2), self.config.distance).mean() * len(crops)
            for one, target, crops in zip(said, targets, own, strict=True)
        ]
        return torch.stack(means).sum() / sum(len(crops) for crops in own)


def distance(
    said: Float[Tensor, "rows dim"], target: Float[Tensor, "rows dim"], kind: Distance
) -> Float[Tensor, " rows"]:
    """How far each row is from its target: 1 - cosine (0 to 2), or the mean square of the difference."""
    said, target = said.float(), target.float()
    if kind == "cosine":
        return 1 - F.cosine_similarity(said, target, dim=-1)
    return (said - target).square().mean(-1)


def on_grid(tokens: Tokens, grid: tuple[int, int]) -> Float[Tensor, "batch places dim"]:
    """A map of patch tokens at the places of another grid, row by row."""
    there = tokens.map if tokens.grid == grid else resized(tokens.map.float(), grid)
    return there.flatten(2).transpose(1, 2)


def resized(
    maps: Float[Tensor, "n channels _rows _columns"], size: tuple[int, int]
) -> Float[Tensor, "n channels rows columns"]:
    """Bilinear, antialiased."""
    return F.interpolate(maps, size=size, mode="bilinear", antialias=True)
