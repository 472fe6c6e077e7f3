"""What an inspection page says, as plain data: which images in which order, with which numbers. No HTML, no reading."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.inspection.charts import Panel


class Key(NamedTuple):
    """An image: the stage that has it (described, embedded, queries, "references 0" ...) and its row among the kept."""

    stage: str
    row: int


@dataclass(frozen=True)
class Neighbour:
    """A pool image that a query found, and who else did within the N of their rules."""

    image: Key
    rank: int
    similarity: float
    queries: int = 0
    """Other queries of the same source."""
    sources: Sequence[str] = ()
    """Other sources."""


@dataclass(frozen=True)
class Query:
    """A query with its neighbours, the nearest first."""

    image: Key
    cluster: int
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True)
class Member:
    """An image of a cluster and its cosine to the centroid (None where it is not known)."""

    image: Key
    similarity: float | None = None


@dataclass(frozen=True)
class ClusterSight:
    """A cluster as one source sees it."""

    number: int
    num_queries: int
    images: int
    counts: bool
    queries: Sequence[Key]
    sample: Sequence[Member]
    """In the order in which M takes them."""
    closest: Sequence[Member]
    farthest: Sequence[Member]


@dataclass(frozen=True)
class SourceView:
    """One curated source: what it was asked, what it brings, and how that changes."""

    name: str
    images: int
    modes: Sequence[str]
    neighbours: int
    per_cluster: int
    min_queries: int
    composition: Sequence[Mapping[str, Any]]
    known_neighbours: int
    """Neighbours of every query that the run has stored; the curves end there."""
    panels: Sequence[Panel]
    queries: Sequence[Query]
    clusters: Sequence[ClusterSight]


@dataclass(frozen=True)
class Pair:
    """Two images and their similarity."""

    left: Key
    right: Key
    similarity: float
    note: str = ""


@dataclass(frozen=True)
class Rung:
    """Pairs between two similarities: some of the `count` there are."""

    low: float
    high: float
    count: int
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Group:
    """A component: its keeper, others of it, and the pair that alone holds it together at the threshold."""

    size: int
    keeper: Key
    others: Sequence[Member]
    """With their similarity to the most similar other one that the threshold counts."""
    joint: Pair | None


@dataclass(frozen=True)
class CopiesView:
    """Self-dedup: what is a copy of what, and what another threshold would do."""

    threshold: float
    lowest: float
    """The graph's own threshold: nothing is known below."""
    recall: float
    """Share of all pairs that the graph has, as measured."""
    images: int
    dropped: int
    panels: Sequence[Panel]
    above: Sequence[Pair]
    below: Sequence[Pair]
    rungs: Sequence[Rung]
    sizes: Sequence[tuple[str, int]]
    groups: Sequence[Group]


@dataclass(frozen=True)
class BenchmarkView:
    """One split of a benchmark: what it takes out of the pool."""

    name: str
    threshold: float
    images: int
    touched: int
    """Its images that a pool image is linked with."""
    dropped_direct: int
    dropped_through_a_chain: int
    panels: Sequence[Panel]
    above: Sequence[Pair]
    below: Sequence[Pair]
    chained: Sequence[Pair]
    """Images that are linked only through others, beside the reference their component holds."""
    rungs: Sequence[Rung]


@dataclass(frozen=True)
class RunView:
    """The first page: what was set, and a line per page."""

    run: str
    settings: Sequence[tuple[str, Any, str]]
    """(key in the config, value, what it decides)."""
    copies: CopiesView
    benchmarks: Sequence[BenchmarkView]
    sources: Sequence[SourceView]
    composition: Sequence[Mapping[str, Any]]
