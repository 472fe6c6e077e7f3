"""The config of the inspection pages: how many images each part shows, how many bytes a page may have."""

from typing import Annotated, ClassVar

from pydantic import Field

from tasks.config import StageConfig


class Inspection(StageConfig):
    """What the inspection pages show, and how large they may get."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"held_edges"})

    queries: Annotated[int, Field(ge=0, le=1000)] = 16
    """Queries of each source, with their neighbours."""
    neighbours: Annotated[int, Field(ge=1, le=256)] = 32
    """Neighbours of each, as far as the run has stored them."""
    clusters: Annotated[int, Field(ge=0, le=1000)] = 8
    """Clusters of each source that count."""
    near_misses: Annotated[int, Field(ge=0, le=1000)] = 3
    """Clusters of each source that just do not."""
    cluster_queries: Annotated[int, Field(ge=0, le=100)] = 6
    """Query images of each cluster."""
    extremes: Annotated[int, Field(ge=0, le=100)] = 5
    """Images of each cluster that are closest to its centroid, and as many farthest from it."""
    members: Annotated[int, Field(ge=1, le=256)] = 24
    """Images of each cluster, and of each component of copies."""
    pairs: Annotated[int, Field(ge=0, le=500)] = 12
    """Pairs just above a threshold, and as many just below."""
    pairs_per_step: Annotated[int, Field(ge=0, le=100)] = 4
    """Pairs of every 0.05 of similarity."""
    groups: Annotated[int, Field(ge=0, le=100)] = 6
    """Components of copies, the largest."""
    thumbnail_pixels: Annotated[int, Field(ge=16, le=512)] = 128
    """Longer side of a thumbnail."""
    page_megabytes: Annotated[float, Field(gt=0, le=100)] = 8.0
    """Pictures of one page; what does not fit is left out, and says so."""
    total_megabytes: Annotated[float, Field(gt=0)] = 256.0
    """Pictures of all pages, shared out evenly."""
    seed: int = 0
    """Seed of what is drawn."""
    held_edges: Annotated[int, Field(ge=1)] = 50_000_000
    """Edges held at a time while thresholds are tried (18 bytes each), or twice the images that have one."""
