"""Methods: each a frozen config with a `kind` tag and a `build()`; `Method` is the union of them."""

from typing import TypeAlias

from ssl_train.methods.dinov2 import DinoV2, DinoV2Networks, Losses

# One plug so far; another is one file and `| Another` here.
Method: TypeAlias = DinoV2
Networks: TypeAlias = DinoV2Networks

__all__ = ["DinoV2", "DinoV2Networks", "Losses", "Method", "Networks"]
