"""The union of what makes crops of images: registry, schema and list in one."""

from typing import Annotated, TypeAlias

from pydantic import Tag

from ssl_train.data.augment import MultiCrop
from ssl_train.data.copy_augment import CopyCrops
from ssl_train.data.labelled import Labelled
from ssl_train.settings import by_kind

Augmentation: TypeAlias = Annotated[
    Annotated[MultiCrop, Tag("multi_crop")]
    | Annotated[CopyCrops, Tag("copies")]
    | Annotated[Labelled, Tag("labelled")],
    by_kind("multi_crop"),
]
