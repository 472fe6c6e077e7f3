"""Methods: each a frozen config with a `kind` tag and a `build()`; `Method` is the union of them."""

from typing import TypeAlias

from ssl_train.methods.base import Losses, MethodConfig, MethodNetworks
from ssl_train.methods.dinov2 import DinoV2, DinoV2Networks

# Another method is one file and `| Another` here.
Method: TypeAlias = DinoV2

__all__ = ["DinoV2", "DinoV2Networks", "Losses", "Method", "MethodConfig", "MethodNetworks"]
