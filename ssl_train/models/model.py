"""The union of the backbones' configs: registry, schema and list in one. Another backbone is one file and one line."""

from typing import TypeAlias

from ssl_train.models.vit import Vit

Model: TypeAlias = Vit
