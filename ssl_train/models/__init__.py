"""Backbones: each a frozen config with a `kind` tag and a `build()`; `Model` is the union of them."""

from ssl_train.models.backbone import Backbone, Tokens, Unit, freeze_stem
from ssl_train.models.load import load_backbone
from ssl_train.models.model import Model
from ssl_train.models.vit import VisionTransformer, Vit
from ssl_train.models.vit_published import infer_vit

__all__ = [
    "Backbone",
    "Model",
    "Tokens",
    "Unit",
    "VisionTransformer",
    "Vit",
    "freeze_stem",
    "infer_vit",
    "load_backbone",
]
