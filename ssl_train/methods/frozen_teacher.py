"""A larger network that was trained before, frozen: what distillation learns from."""

from dataclasses import dataclass
from typing import NamedTuple

from pydantic import ConfigDict
from torch import nn

from ssl_train.models import Model
from ssl_train.models.heads import DinoHead
from ssl_train.models.load import read_backbone
from ssl_train.start import Weights, put_heads, read_heads


class Frozen(NamedTuple):
    """A network that was trained before, in eval mode and without gradients, and its architecture."""

    networks: nn.ModuleDict
    model: Model


@dataclass(frozen=True)
class FrozenTeacher:
    """The files of a larger model's run (DINOv2, arXiv 2304.07193, section 5 "Model distillation")."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    backbone: Weights
    """Its backbone: the teacher.safetensors that its run exported."""
    heads: Weights
    """The heads that it was trained with: heads.safetensors beside it."""

    def build(self, dino_head: DinoHead, ibot_head: DinoHead | None) -> Frozen:
        """Backbone and heads in eval mode, without gradients. Raises CheckpointError when the files do not fit."""
        loaded = read_backbone(self.backbone.path, self.backbone.sha256)
        backbone = loaded.network
        networks: dict[str, nn.Module] = {"backbone": backbone, "dino_head": dino_head.build(backbone.dim)}
        if ibot_head is not None:
            networks["ibot_head"] = ibot_head.build(backbone.dim)
        modules = nn.ModuleDict(networks)
        put_heads(modules, read_heads(self.heads), self.heads.path)
        return Frozen(modules.requires_grad_(False).eval(), loaded.model)
