"""A cut against chaining, for the stages that make components of the copy graph: its config, and how it is run."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import Field

from tasks.algorithms.blocks import VectorSource
from tasks.algorithms.component_cut import cut_components
from tasks.algorithms.components import Integers
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig


class Cut(StageConfig):
    """How components above a size are taken apart: pairs that are similar enough, then what is similar to a medoid."""

    max_size: Annotated[int, Field(ge=2)] = 1_000
    """Components of more images than this are looked at."""
    strict_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Inside of them a pair counts only above this cosine: 90 % of such pairs are copies (SSCD's authors, on DISC)."""
    medoid_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Where one is still too large, an image stays with its most central one only above this cosine."""


def cut_chains(
    config: Cut, threshold: float, labels: Integers, edges: Callable[[], Iterator[Edges]], vectors: VectorSource
) -> tuple[Integers, dict[str, int]]:
    """Labels after the cut of those that `edges` above `threshold` made, and what it did. Memory: 4 bytes per image."""
    result = cut_components(
        labels,
        edges,
        vectors,
        max_size=config.max_size,
        strict_threshold=max(config.strict_threshold, threshold),
        medoid_threshold=config.medoid_threshold,
    )
    counts = {field.name: int(getattr(result, field.name)) for field in dataclasses.fields(result)[1:]}
    return result.labels, counts
