"""What is done with each curated source, and how its images are counted: the paper's way, and as they are.

DINOv2 (arXiv 2304.07193), App. A.4 and Table 15.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tasks.config import StageConfig

Mode = Literal["as_is", "sample", "cluster"]


class SourceRule(StageConfig):
    """What is done with one curated source; numbers left out are those of `Retrieve`."""

    source: str
    """Name of the source."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    """as_is: its own images; sample: neighbours of each; cluster: images of its clusters. Several add up."""
    neighbours: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Neighbours of each image (DINOv2: 4, for ImageNet-1k 32)."""
    per_cluster: Annotated[int, Field(ge=1)] | None = None
    """Images of each cluster."""
    cap: Annotated[int, Field(ge=1)] | None = None
    """Images that `cluster` may bring in all."""


class SearchEfficiency(StageConfig):
    """What may change the speed of the search and never its result."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where workers make the products that choose candidates; auto: on a GPU where there is one. The neighbours are
    the same to the last bit."""


class Retrieve(StageConfig):
    """How much of the pool the curated sources bring in."""

    NOT_IN_FINGERPRINT: ClassVar[frozenset[str]] = frozenset({"min_recall", "efficiency"})

    rules: tuple[SourceRule, ...] = ()
    """Sources with a rule of their own; any other takes `sample` when it is large and `cluster` when it is not."""
    sample_above: Annotated[int, Field(ge=0)] = 1_000_000
    """Images of a source above which it is a large one."""
    neighbours: Annotated[int, Field(ge=1, le=1024)] = 4
    """Neighbours that each image of a large source brings."""
    per_cluster: Annotated[int, Field(ge=1)] = 10_000
    """Images that each cluster brings, if it has so many."""
    min_queries: Annotated[int, Field(ge=0)] = 3
    """A cluster counts when it holds more images of the source than this."""
    cap: Annotated[int, Field(ge=1)] = 1_000_000
    """Images that one source's clusters may bring in all."""
    exact_up_to: Annotated[int, Field(ge=0)] = 2_000_000
    """Images of the pool up to which neighbours are exact; above it, queries look into the nearest clusters only."""
    num_probes: Annotated[int, Field(ge=1)] = 64
    """Clusters that a query looks into, then."""
    recall_queries: Annotated[int, Field(ge=1, le=10_000)] = 256
    """Queries whose neighbours are then compared with those in the whole pool."""
    min_recall: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Part of these neighbours that must have been found; the run ends otherwise. Nothing is computed anew for it."""
    inspect_queries: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Queries of every source whose neighbours are kept for the pages, whatever the source's mode."""
    inspect_neighbours: Annotated[int, Field(ge=1, le=1024)] = 32
    """Neighbours of these."""
    inspect_members: Annotated[int, Field(ge=0, le=10_000)] = 64
    """Images of each cluster that counts which are kept for the pages."""
    seed: int = 0
    """Seed of the choice inside clusters."""
    images_per_task: Annotated[int, Field(ge=1)] = 400_000
    """Images of the pool that a task holds (1,280 dimensions: 1 GB, and as much again while it sorts)."""
    queries_per_task: Annotated[int, Field(ge=1)] = 65_536
    """Queries that a task holds; also how the files queries-* and neighbours-* are cut."""
    efficiency: SearchEfficiency = SearchEfficiency()
    """What may change the speed."""


class UnknownSource(ValueError):
    """A rule names a source that there is not."""


class NeighboursMissed(ValueError):
    """The search by clusters finds fewer of the true neighbours than the config allows."""


@dataclass(frozen=True)
class SourceMode:
    """One source in one mode, every number decided: a row of the composition table."""

    source: str
    mode: Mode
    images: int
    neighbours: int
    per_cluster: int
    cap: int

    @property
    def name(self) -> str:
        """As verdicts name it."""
        return f"{self.source}:{self.mode}"

    def nominal(self, clusters: int) -> int:
        """Images retrieved as the paper counts: N per query, M per cluster that counts (`clusters` of them)."""
        return {"as_is": self.images, "sample": self.neighbours * self.images, "cluster": self.per_cluster * clusters}[
            self.mode
        ]

    def after_cap(self, count: int) -> int:
        """What is left of that many images: only `cluster` is capped (Table 15: ImageNet brings 56 million)."""
        return min(count, self.cap) if self.mode == "cluster" else count


@dataclass(frozen=True)
class Counted:
    """What a source's mode brought in: of `actual` images `unique` ones, `final` after the cap, `shared` of these with
    rows above."""

    actual: int
    unique: int
    final: int
    shared: int


def modes_of(counts: Mapping[str, int], config: Retrieve) -> list[SourceMode]:
    """A row for every source ({name: images}) and mode, by name and then in the rule's order.

    Raises UnknownSource for a rule without a source, and for two rules of one.
    """
    given = {rule.source: rule for rule in config.rules}
    unknown = sorted(set(given) - set(counts))
    if unknown:
        raise UnknownSource(
            f"retrieve.rules names {', '.join(unknown)}, but the curated sources are {', '.join(sorted(counts))}. "
            "Correct one."
        )
    if len(given) < len(config.rules):
        raise UnknownSource("retrieve.rules names a source twice: give it one rule with several modes.")
    rules = [given.get(name) or _automatic(name, counts[name], config) for name in sorted(counts)]
    return [
        SourceMode(
            source=rule.source,
            mode=mode,
            images=counts[rule.source],
            neighbours=rule.neighbours or config.neighbours,
            per_cluster=rule.per_cluster or config.per_cluster,
            cap=rule.cap or config.cap,
        )
        for rule in rules
        for mode in rule.modes
    ]


def _automatic(name: str, count: int, config: Retrieve) -> SourceRule:
    return SourceRule(source=name, modes=("sample",) if count > config.sample_above else ("cluster",))


def composition_row(row: SourceMode, clusters: int, counted: Counted | None) -> dict[str, Any]:
    """A row of the table like the paper's Table 15; `counted` is None for as_is, whose images are all there is."""
    nominal = row.nominal(clusters)
    counted = counted or Counted(nominal, nominal, nominal, 0)
    return {
        "source": row.source,
        "mode": row.mode,
        "images": row.images,
        "retrieved": nominal,
        "nominal_final": row.after_cap(nominal),
        "actual": counted.actual,
        "unique": counted.unique,
        "collisions": counted.actual - counted.unique,
        "final": counted.final,
        "shared": counted.shared,
    }


def with_total(rows: Sequence[Mapping[str, Any]], *, images: int, final: int) -> list[dict[str, Any]]:
    """The table with its last row: sums, but for `images` (each source once) and `final` (each image once)."""
    sums = {
        name: sum(row[name] for row in rows)
        for name in ("retrieved", "nominal_final", "actual", "unique", "collisions", "shared")
    }
    total = {"source": "total", "mode": "", "images": images, **sums, "final": final}
    return [dict(row) for row in rows] + [{name: total[name] for name in _COLUMNS}]


_COLUMNS = tuple(composition_row(SourceMode("", "as_is", 0, 1, 1, 1), 0, None))


def nominal_composition(
    counts: Mapping[str, int], clusters: Mapping[str, int], config: Retrieve
) -> list[dict[str, Any]]:
    """The table from counts alone: {source: images} and {source: its clusters that count}, nothing being shared.

    What a plan of a dataset starts from, and what the paper prints.
    """
    rows = []
    for row in modes_of(counts, config):
        nominal = row.nominal(clusters.get(row.source, 0))
        counted = Counted(nominal, nominal, row.after_cap(nominal), 0)
        rows.append(composition_row(row, clusters.get(row.source, 0), counted))
    return with_total(rows, images=sum(counts.values()), final=sum(row["final"] for row in rows))


def counts_of(names: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Images by source, from the parts' counts."""
    total: dict[str, int] = {}
    for part in names:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def rule_as_plain(row: SourceMode) -> dict[str, Any]:
    """The row as plain values, for a task's arguments."""
    return asdict(row)
