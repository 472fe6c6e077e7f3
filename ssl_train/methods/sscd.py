"""SSCD: descriptors of an image's copies are alike, and those of all other images lie far apart."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.data.masking import NoMasks
from ssl_train.losses.copies import copy_losses
from ssl_train.methods.base import FORWARD_BACKWARD, Losses, MethodConfig, MethodNetworks
from ssl_train.methods.blends import Blends
from ssl_train.models import Model
from ssl_train.models.descriptor import HEAD
from ssl_train.models.gem import DescriptorHead
from ssl_train.ops.gather import gathered_with_gradient


@dataclass(frozen=True)
class Sscd(MethodConfig):
    """A copy-detection descriptor (Pizzi et al., arXiv 2202.10261); the defaults are those of its `disc_mixup` model.

    It wants `augment: {kind: copies}`. The descriptor's layers are exported beside the backbone (heads.safetensors).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["sscd"] = "sscd"
    """Tag of this method."""
    descriptor_dim: Annotated[int, Field(ge=2)] = 512
    """Numbers of a descriptor."""
    gem_power: Annotated[float, Field(gt=0)] = 3.0
    """Power of the generalised mean over places."""
    learn_gem_power: bool = False
    """Train the power, too."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """Temperature of the contrast between a picture's copies and all other pictures."""
    entropy_weight: Annotated[float, Field(ge=0)] = 30.0
    """Weight of the descriptors' spread. 30 wants blocks that begin as the identity, large batches and a long warm-up;
    the authors advise 10 for other settings: too large a weight keeps copies from meeting."""
    blends: Blends = field(default_factory=Blends)
    """Crops into which another image is mixed: they are copies of both."""

    has_teacher: ClassVar[bool] = False
    group_images: ClassVar[int | None] = None
    masks: ClassVar[NoMasks] = NoMasks()

    def build(self, model: Model, *, num_steps: int) -> "SscdNetworks":
        """Backbone and descriptor, freshly initialised from torch's global random state."""
        return SscdNetworks(self, model)

    def rules(self, share: int) -> dict[str, bool]:
        """There must be other images beside a copy."""
        return {f"each process has {share} images of data.batch_images; method.kind = sscd needs 2 or more": share < 2}

    def head_flops(self, *, num_crops: int, num_patches: int, student_dim: int, teacher_dim: int) -> float:
        """The projection of every crop."""
        return FORWARD_BACKWARD * num_crops * 2.0 * student_dim * self.descriptor_dim


class SscdNetworks(MethodNetworks):
    """The network that is trained and its loss; there is no teacher."""

    def __init__(self, config: Sscd, model: Model) -> None:
        backbone = model.build()
        head = DescriptorHead(
            backbone.dim, config.descriptor_dim, power=config.gem_power, learned_power=config.learn_gem_power
        )
        super().__init__(nn.ModuleDict({"backbone": backbone, HEAD: head}), None)
        self.config = config

    def loss(self, batch: Batch, step: int) -> Losses:
        """total = contrast + entropy_weight x entropy, over all crops of an image (global and, if any, local ones)."""
        blended = self.config.blends.draw(len(batch.global_crops), batch.global_crops.shape[-1])
        crops = [blended.applied(batch.global_crops)]
        if len(batch.local_crops):
            crops.append(batch.local_crops)
        seen = self.student["backbone"](crops)
        descriptors = torch.cat([self.student[HEAD](tokens.patches) for tokens in seen])
        related = shared_content(blended.contents(batch.num_images), len(descriptors), batch.num_images)
        first = len(descriptors) * (dist.get_rank() if dist.is_initialized() else 0)
        losses = copy_losses(
            descriptors,
            gathered_with_gradient(descriptors),
            related.to(descriptors.device, non_blocking=True),
            first=first,
            temperature=self.config.temperature,
        )
        spread = self.config.entropy_weight * losses.entropy
        terms = {"contrast": losses.contrast.detach(), "entropy": spread.detach()}
        monitors = {"positive_similarity": losses.positive_similarity, "nearest_similarity": losses.nearest_similarity}
        return Losses(losses.contrast + spread, terms, monitors, descriptors.detach())


def shared_content(
    contents: Bool[Tensor, "global_crops images"], num_rows: int, num_images: int
) -> Bool[Tensor, "rows rows"]:
    """Which crops share an image. Rows after those of `contents` are local crops: each of one image, crop-major."""
    rest = torch.eye(num_images, dtype=torch.bool).repeat((num_rows - len(contents)) // num_images, 1)
    shown = torch.cat([contents, rest]).to(torch.float32)
    return (shown @ shown.T) > 0
