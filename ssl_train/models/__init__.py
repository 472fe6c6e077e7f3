"""Backbones: each a frozen config with a `kind` tag and a `build()`; `Model` is the union of them."""

from typing import TypeAlias

from ssl_train.models.load import infer_vit, load_backbone
from ssl_train.models.vit import Tokens, VisionTransformer, Vit

# One plug so far; another is one file and `| Another` here.
Model: TypeAlias = Vit
Backbone: TypeAlias = VisionTransformer

__all__ = ["Backbone", "Model", "Tokens", "VisionTransformer", "Vit", "infer_vit", "load_backbone"]
