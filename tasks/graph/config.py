"""What a copy graph is to hold, and the ways to find its pairs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tasks.algorithms.quantiser import CELL_ROWS
from tasks.config import StageConfig

_LEAST_ROWS = 64


class Exact(StageConfig):
    """All images are compared with all."""

    kind: Literal["exact"] = "exact"


class Cells(StageConfig):
    """Images are compared that share a cell of a coarse quantiser."""

    kind: Literal["cells"] = "cells"
    assignments: Annotated[int, Field(ge=1, le=64)] = 8
    """Cells that each image is put in: more cost, more disk and more recall."""
    cell_rows: Annotated[int, Field(ge=16, le=65_536)] | None = None
    """Images of a cell, on average; null takes 384, more in pools above some 4 million images, so that finding an
    image's cells costs no more than comparing inside of them."""

    def rows_of_a_cell(self, num_rows: int) -> int:
        """`cell_rows`, or where assigning and joining cost the same (see `join_cost`)."""
        even = (10 * (num_rows / self.assignments) ** 0.5) ** (2 / 3)
        return self.cell_rows or max(CELL_ROWS, round(even))


class Faiss(StageConfig):
    """Faiss finds candidates (IVF-PQ, on GPUs where it has them), whose true cosine decides."""

    kind: Literal["faiss"] = "faiss"
    probes: Annotated[int, Field(ge=1)] = 64
    """Lists searched for every image: more cost and more recall."""
    num_lists: Annotated[int, Field(ge=1)] | None = None
    """Lists of the index of a shard; null takes four times the square root of the shard's images."""
    code_bytes: Annotated[int, Field(ge=1, le=256)] = 64
    """Bytes of an image's code."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.15
    """How far a cosine estimated from a code may lie below the threshold for the pair to be looked at."""
    shard_rows: Annotated[int, Field(ge=64)] = 20_000_000
    """Images of one index: what a worker's (or GPU's) memory holds, at code_bytes + 8 bytes each."""


class Auto(StageConfig):
    """All with all up to a size, by cells above it."""

    kind: Literal["auto"] = "auto"
    exact_up_to: Annotated[int, Field(ge=0)] = 200_000
    """Images up to which all are compared with all."""
    cells: Cells = Cells()
    """How it is done above."""


Method = Auto | Exact | Cells | Faiss


class CopyGraph(StageConfig):
    """Which pairs of images the graph holds, and how they are found."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"group_bytes"})

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Pairs whose cosine is above this are in the graph: the lowest threshold that any later stage uses."""
    neighbours: Annotated[int, Field(ge=1, le=1024)] = 64
    """Edges that every image keeps, its most similar ones; of its further ones those stay that hold groups together."""
    method: Method = Auto()
    """How pairs are found."""
    recall_sample: Annotated[int, Field(ge=3)] = 1_000
    """Images whose pairs are found by brute force too, and of each of which a copy is planted, to measure recall."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.98
    """The stage fails when a smaller share of the sample's true pairs is found. By cells 0.998 of 50,000 images' pairs
    were found and 0.997 of 300,000's (bench/graph_stage.py)."""
    min_planted_recall: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The stage fails when a smaller share of planted copies is found with its original. They lie evenly between the
    threshold and 1, in random directions, which real copies do not: a quarter of them, just above the threshold, is
    harder to find than almost any true pair (0.90 of that quarter of 50,000 images', 0.996 of the most similar one).
    By cells 0.955 of all were found among 50,000 images and 0.907 among 300,000, less in a larger pool: hence a floor
    well below that of true pairs. For a higher one raise `assignments` with it."""
    min_component_recall: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The stage fails when a smaller share of planted copies ends in its original's component. As for planted recall
    (0.908 among 300,000 images): most of them hang on their original alone."""
    seed: int = 0
    """Seed of the samples, the quantiser and the planted copies."""
    rows_per_file: Annotated[int, Field(ge=1)] = 1 << 21
    """Images whose edges share a file."""
    group_bytes: Annotated[int, Field(ge=1024)] = 1_000_000_000
    """Vectors that a task holds in memory at a time, in bytes."""


def resolve(method: Method, num_rows: int) -> Exact | Cells | Faiss:
    """The method for so many images: few are always compared with all."""
    if num_rows < _LEAST_ROWS or (isinstance(method, Auto) and num_rows <= method.exact_up_to):
        return Exact()
    return method.cells if isinstance(method, Auto) else method
