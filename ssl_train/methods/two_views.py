"""What methods share that compare two large crops of an image and look at nothing else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.data.collate import Batch
from ssl_train.errors import ConfigError
from ssl_train.methods.base import NUM_VIEWS
from ssl_train.models import Tokens

if TYPE_CHECKING:
    from ssl_train.data.loader import Batches


def views_of(batch: Batch) -> tuple[Float[Tensor, "batch 3 side side"], Float[Tensor, "batch 3 side side"]]:
    """The first crops of all images, and the second ones."""
    first, second = batch.global_crops.chunk(NUM_VIEWS)
    return first, second


def tokens_of_views(backbone: nn.Module, batch: Batch) -> tuple[Tokens, Tokens]:
    """The tokens of both views, each a group of its own: norms over a batch look at one view at a time."""
    first, second = backbone(views_of(batch))
    return first, second


def class_tokens(views: Sequence[Tokens]) -> Float[Tensor, "rows dim"]:
    """The class (or pooled) tokens of all views, one below the other, to be looked at."""
    return torch.cat([tokens.cls for tokens in views]).detach()


def refuse_local_crops(batches: "Batches", kind: str) -> None:
    """ConfigError where small crops are made that nobody would look at."""
    num_local = cast(int, getattr(batches.augment, "num_local", 0))
    if num_local:
        raise ConfigError(f"method.kind = {kind} compares two large crops: set augment.num_local = 0, not {num_local}")
