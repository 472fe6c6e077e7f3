"""Methods: each a frozen config with a `kind` tag and a `build()`; `Method` is the union of them."""

from typing import Annotated, TypeAlias

from pydantic import Tag

from ssl_train.methods.base import Losses, MethodConfig, MethodNetworks
from ssl_train.methods.byol import Byol
from ssl_train.methods.dino import Dino
from ssl_train.methods.dinov2 import DinoV2, DinoV2Networks
from ssl_train.methods.distil import Distil
from ssl_train.methods.ibot import Ibot
from ssl_train.methods.mocov3 import MocoV3
from ssl_train.methods.simclr import SimClr
from ssl_train.methods.sscd import Sscd
from ssl_train.methods.supervised import Supervised
from ssl_train.methods.swav import Swav
from ssl_train.settings import by_kind

# Another method is one file and one line here.
Method: TypeAlias = Annotated[
    Annotated[DinoV2, Tag("dinov2")]
    | Annotated[Dino, Tag("dino")]
    | Annotated[Ibot, Tag("ibot")]
    | Annotated[MocoV3, Tag("mocov3")]
    | Annotated[SimClr, Tag("simclr")]
    | Annotated[Byol, Tag("byol")]
    | Annotated[Swav, Tag("swav")]
    | Annotated[Sscd, Tag("sscd")]
    | Annotated[Distil, Tag("distil")]
    | Annotated[Supervised, Tag("supervised")],
    by_kind("dinov2"),
]

__all__ = ["DinoV2", "DinoV2Networks", "Losses", "Method", "MethodConfig", "MethodNetworks"]
