"""The union of the backbones' configs: registry, schema and list in one. Another backbone is one file and one line."""

from typing import Annotated, TypeAlias

from pydantic import Tag

from ssl_train.models.internimage import InternImage
from ssl_train.models.resnet import Resnet
from ssl_train.models.timm_backbone import Timm
from ssl_train.models.vit import Vit
from ssl_train.settings import by_kind

Model: TypeAlias = Annotated[
    Annotated[Vit, Tag("vit")]
    | Annotated[Resnet, Tag("resnet")]
    | Annotated[InternImage, Tag("internimage")]
    | Annotated[Timm, Tag("timm")],
    by_kind("vit"),
]
