"""What the pages on curated sources show, read from the neighbours and clusters that retrieval stored.

No image is encoded and no neighbour searched again. Memory: 2 bytes per pool image, one file of neighbours at a time,
24 bytes per source and cluster with queries, and what the pages show.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystem import join
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.algorithms.retrieval_sweep import sweep_neighbours
from tasks.algorithms.sampling import mix, sample
from tasks.inspection.charts import Chart, Curve, Panel
from tasks.inspection.clusters import ClusterTable, Picked, cluster_panels, pick_clusters, sights
from tasks.inspection.config import Inspection
from tasks.inspection.pages import NEIGHBOURS
from tasks.inspection.views import Key, Neighbour, Query, SourceView
from tasks.retrieve import Retrieve, SourceRule

_ENTRY = ("query", "rank", "row", "similarity")

Entries = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Drawn:
    """A query that retrieval drew for the pages."""

    row: int
    cluster: int
    depth: int
    """Its neighbours that are stored."""


@dataclass
class Asking:
    """One source as its query files tell it."""

    name: str
    images: int = 0
    known: int | None = None
    """Neighbours stored of every query; None before the first."""
    drawn: list[Drawn] = field(default_factory=list)

    def note(self, depths: npt.NDArray[np.integer], drawn: Sequence[Mapping[str, Any]]) -> None:
        """Take account of one file: how many neighbours each query has stored, and the rows of the drawn ones."""
        self.images += len(depths)
        least = int(depths.min())
        self.known = least if self.known is None else min(self.known, least)
        self.drawn += [Drawn(row["query"], row["cluster"], row["depth"]) for row in drawn]

    @property
    def deep(self) -> int:
        """Neighbours stored of every drawn query."""
        return min((query.depth for query in self.drawn), default=0)

    def shown(self, sizes: Inspection) -> list[Drawn]:
        """As many of the drawn queries as the page shows, chosen by a hash of their rows."""
        rows = np.array([query.row for query in self.drawn], dtype=np.uint64)
        return [self.drawn[place] for place in sample(mix(rows ^ np.uint64(sizes.seed)), sizes.queries)]


def rules_of(chosen: Manifest) -> tuple[Retrieve, dict[str, SourceRule]]:
    """Retrieval's config, and the rule of every source with numbers and modes filled in from what the run did."""
    fields = Retrieve.model_fields
    config = Retrieve.model_validate({name: value for name, value in chosen.config.items() if name in fields})
    modes: dict[str, list[str]] = {}
    for row in chosen.facts["composition"]:
        if row["mode"]:
            modes.setdefault(row["source"], []).append(row["mode"])
    given = {rule.source: rule for rule in config.rules}
    filled = {
        name: SourceRule(
            source=name,
            modes=tuple(modes[name]),  # type: ignore[arg-type]
            neighbours=(name in given and given[name].neighbours) or config.neighbours,
            per_cluster=(name in given and given[name].per_cluster) or config.per_cluster,
            cap=(name in given and given[name].cap) or config.cap,
        )
        for name in sorted(modes)
    }
    return config, filled


def view_sources(clustered: Manifest, chosen: Manifest, sizes: Inspection) -> list[SourceView]:
    """One view per source, by name."""
    config, rules = rules_of(chosen)
    files = QueryFiles(chosen)
    asking = files.askings()
    shown = {name: source.shown(sizes) for name, source in asking.items()}
    found = files.neighbours_of([query.row for queries in shown.values() for query in queries], sizes.neighbours)
    hits = files.hits({n.row for own in found.values() for n in own}, rules)
    table = ClusterTable(chosen)
    picked = pick_clusters(table, sizes)
    cluster_views = sights(clustered, chosen, picked, files.members_of(picked, sizes), sizes)
    return [
        SourceView(
            name=name,
            images=source.images,
            modes=rules[name].modes,
            neighbours=int(rules[name].neighbours or 0),
            per_cluster=int(rules[name].per_cluster or 0),
            min_queries=config.min_queries,
            composition=[row for row in chosen.facts["composition"] if row["source"] == name],
            known_neighbours=source.known or 0,
            panels=_by_mode(
                rules[name],
                files.panels(source, rules[name], sizes, num_pool=chosen.rows_in),
                cluster_panels(table, rules[name], config.min_queries),
            ),
            queries=[
                Query(
                    Key("queries", query.row),
                    query.cluster,
                    [_neighbour(entry, name, rules, hits) for entry in found[query.row]],
                )
                for query in shown[name]
            ],
            clusters=cluster_views[name],
        )
        for name, source in sorted(asking.items())
    ]


def _by_mode(rule: SourceRule, neighbours: list[Panel], clusters: list[Panel]) -> list[Panel]:
    """The source's own mode first."""
    return clusters + neighbours if rule.modes == ("cluster",) else neighbours + clusters


@dataclass(frozen=True)
class Entry:
    """One stored neighbour."""

    row: int
    rank: int
    similarity: float


Hits = dict[int, dict[str, int]]
"""{pool row: {source: its queries that have it within their N}}."""


def _neighbour(entry: Entry, source: str, rules: Mapping[str, SourceRule], hits: Hits) -> Neighbour:
    counts = hits.get(entry.row, {})
    itself = int("sample" in rules[source].modes and entry.rank < int(rules[source].neighbours or 0))
    others = sorted(name for name in counts if name != source)
    return Neighbour(
        Key("embedded", entry.row), entry.rank, entry.similarity, counts.get(source, 0) - itself, tuple(others)
    )


def _is(table: pa.Table, source: str) -> npt.NDArray[np.bool_]:
    return np.array(pc.equal(table["source"], source).to_numpy(), dtype=np.bool_)


@dataclass(frozen=True)
class QueryFiles:
    """The files queries-i and neighbours-i of a retrieval."""

    chosen: Manifest

    def _pairs(self) -> list[tuple[str, str]]:
        names = {entry.path for entry in self.chosen.files}
        queries = sorted(name for name in names if name.startswith("queries-") and name.endswith(".parquet"))
        folder = self.chosen.directory
        return [(join(folder, name), join(folder, name.replace("queries-", "neighbours-", 1))) for name in queries]

    def askings(self) -> dict[str, Asking]:
        """Every source, with the queries that retrieval drew of it."""
        found: dict[str, Asking] = {}
        for path, _ in self._pairs():
            table = read_table(path, ["query", "source", "cluster", "depth", "inspect"])
            depth, drawn = table["depth"].to_numpy(), table["inspect"].to_numpy()
            for name in sorted(pc.unique(table["source"]).to_pylist()):
                mine = _is(table, name)
                source = found.setdefault(name, Asking(name))
                rows = table.filter(mine & drawn).select(["query", "cluster", "depth"]).to_pylist()
                source.note(depth[mine], rows)
        return found

    def neighbours_of(self, queries: Sequence[int], num: int) -> dict[int, list[Entry]]:
        """{query: its first `num` stored neighbours, nearest first}."""
        found: dict[int, list[Entry]] = {query: [] for query in queries}
        wanted = np.sort(np.asarray(queries, dtype=np.int64))
        for _, path in self._pairs():
            table = read_table(path, _ENTRY)
            here = np.isin(table["query"].to_numpy(), wanted) & (table["rank"].to_numpy() < num)
            for row in table.filter(here).to_pylist():
                found[row["query"]].append(Entry(row["row"], row["rank"], row["similarity"]))
        return {query: sorted(entries, key=lambda entry: entry.rank) for query, entries in found.items()}

    def hits(self, rows: set[int], rules: Mapping[str, SourceRule]) -> Hits:
        """How many queries of each source that takes neighbours have each of these rows within their N."""
        wanted = np.sort(np.fromiter(rows, dtype=np.int64, count=len(rows)))
        found: Hits = {}
        for name, rule in rules.items():
            if "sample" not in rule.modes:
                continue
            for ranks, pool_rows, _ in self._entries(name):
                here = (ranks < int(rule.neighbours or 0)) & np.isin(pool_rows, wanted)
                for row, count in zip(*np.unique(pool_rows[here], return_counts=True), strict=True):
                    counts = found.setdefault(int(row), {})
                    counts[name] = counts.get(name, 0) + int(count)
        return found

    def _entries(self, source: str, *, drawn: bool = False) -> Iterator[Entries]:
        """(rank, row, similarity) of all stored neighbours of a source's queries, or of its drawn ones, by file."""
        for queries, neighbours in self._pairs():
            table = read_table(queries, ["query", "source", "inspect"])
            mine = _is(table, source)
            if drawn:
                mine &= table["inspect"].to_numpy()
            own = table["query"].to_numpy()[mine]
            if len(own) == 0:
                continue
            found = read_table(neighbours, _ENTRY)
            here = np.isin(found["query"].to_numpy(), own)
            columns = (found[name].to_numpy()[here] for name in ("rank", "row", "similarity"))
            ranks, rows, similarity = columns
            yield ranks.astype(np.int64), rows, similarity

    def members_of(self, picked: Mapping[str, Sequence[Picked]], sizes: Inspection) -> dict[tuple[str, int], list[int]]:
        """{(source, cluster): some query rows in it} of the picked clusters."""
        wanted = {(name, cluster.number) for name, clusters in picked.items() for cluster in clusters}
        numbers = sorted({number for _, number in wanted})
        found: dict[tuple[str, int], list[int]] = {pair: [] for pair in wanted}
        for path, _ in self._pairs():
            table = read_table(path, ["query", "source", "cluster"])
            for row in table.filter(np.isin(table["cluster"].to_numpy(), numbers)).to_pylist():
                mine = found.get((row["source"], row["cluster"]))
                if mine is not None and len(mine) < sizes.cluster_queries:
                    mine.append(row["query"])
        return found

    def panels(self, source: Asking, rule: SourceRule, sizes: Inspection, *, num_pool: int) -> list[Panel]:
        """Counts by N over all queries as far as all have neighbours, and over the drawn ones as far as those have."""
        found = []
        now = int(rule.neighbours or 0)
        if source.known:
            found.append(self._panel(source, False, source.known, now, num_pool))
        deep = min(sizes.neighbours, source.deep)
        if deep > (source.known or 0):
            found.append(self._panel(source, True, deep, now, num_pool))
        return found

    def _panel(self, source: Asking, drawn: bool, num: int, now: int, num_pool: int) -> Panel:
        sweep = sweep_neighbours(self._entries(source.name, drawn=drawn), num_pool=num_pool, num=num)
        of = f"of the {len(source.drawn)} drawn queries" if drawn else f"of all {source.images:,} queries"
        low, middle, high = (values.tolist() for values in sweep.quantiles)
        brought = [Curve("neighbours", sweep.retrieved.tolist()), Curve("distinct", sweep.unique.tolist())]
        similar = [Curve("median", middle), Curve("lowest tenth", low), Curve("highest tenth", high)]
        return Panel(
            title=f"By N, the neighbours {of}",
            attribute=NEIGHBOURS,
            x_name="N",
            xs=list(range(1, num + 1)),
            now=now,
            charts=[
                Chart("Images", brought),
                Chart("Collisions", [Curve("collisions", sweep.collisions.tolist())]),
                Chart("Similarity of the N-th neighbour", similar, fitted=True),
            ],
        )
