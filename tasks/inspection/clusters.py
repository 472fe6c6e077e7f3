"""The clusters that the pages on curated sources show: those that count for a source, and some that just miss.

Reads cluster and cosine of every pool image once, part by part. Memory: one byte per cluster, 24 bytes per source and
cluster with queries, and the images that the pages show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.manifest import Manifest
from storage.tables import kept, read_table
from tasks.algorithms.retrieval_sweep import clusters_by_min_queries, images_by_per_cluster
from tasks.algorithms.sampling import Keys, mix, sample_per_group
from tasks.inspection.charts import Chart, Curve, Panel
from tasks.inspection.config import Inspection
from tasks.inspection.copies import spread
from tasks.inspection.pages import MIN_QUERIES, PER_CLUSTER
from tasks.inspection.views import ClusterSight, Key, Member
from tasks.retrieve import SourceRule

_MOST_MIN_QUERIES = 32


@dataclass(frozen=True)
class Picked:
    """A cluster that a page shows."""

    number: int
    num_queries: int
    images: int
    counts: bool


class ClusterTable:
    """Every source's queries by cluster, as retrieval counted them. Memory: 25 bytes per source and cluster."""

    def __init__(self, chosen: Manifest) -> None:
        table = read_table(chosen.file("clusters.parquet")).sort_by([("source", "ascending"), ("cluster", "ascending")])
        names = table["source"].dictionary_encode().combine_chunks()
        starts = np.searchsorted(names.indices.to_numpy(), np.arange(len(names.dictionary) + 1))
        self._columns = {name: table[name].to_numpy() for name in ("cluster", "num_queries", "images", "counts")}
        self._spans = {name: slice(*starts[at : at + 2]) for at, name in enumerate(names.dictionary.to_pylist())}

    @property
    def sources(self) -> list[str]:
        """All sources with a query, by name."""
        return list(self._spans)

    def of(self, source: str) -> dict[str, npt.NDArray[Any]]:
        """cluster, num_queries, images and counts of the clusters that hold a query of the source."""
        here = self._spans.get(source, slice(0))
        return {name: column[here] for name, column in self._columns.items()}


def pick_clusters(table: ClusterTable, sizes: Inspection) -> dict[str, list[Picked]]:
    """By source: clusters that count, evenly from the most queries to the fewest, then those that miss by the least."""
    found: dict[str, list[Picked]] = {}
    for source in table.sources:
        mine = table.of(source)
        order = np.lexsort((mine["cluster"], -mine["images"], -mine["num_queries"]))
        counting = order[mine["counts"][order]].tolist()
        missing = order[~mine["counts"][order]][: sizes.near_misses].tolist()
        found[source] = [
            Picked(*(mine[name][place].item() for name in ("cluster", "num_queries", "images", "counts")))
            for place in spread(counting, sizes.clusters) + missing
        ]
    return found


def cluster_panels(table: ClusterTable, rule: SourceRule, min_queries: int) -> list[Panel]:
    """What M and the least number of queries would bring by clusters, whatever the source's own mode."""
    mine = table.of(rule.source)
    if len(mine["cluster"]) == 0:
        return []
    images, queries = mine["images"].astype(np.int64), mine["num_queries"].astype(np.int64)
    per_cluster, cap = int(rule.per_cluster or 0), int(rule.cap or 0)
    grid = per_cluster_grid(per_cluster, int(images.max()))
    brought = images_by_per_cluster(images, queries, per_cluster=grid, min_queries=min_queries)
    least = list(range(min(max(int(queries.max()), min_queries + 2), max(_MOST_MIN_QUERIES, min_queries + 2)) + 1))
    clusters, by_least = clusters_by_min_queries(images, queries, min_queries=least, per_cluster=per_cluster)
    by_m = [Curve("before the cap", brought.tolist()), Curve("after it", np.minimum(brought, cap).tolist())]
    return [
        Panel(
            title="By M, the images of each cluster",
            attribute=PER_CLUSTER,
            x_name="M",
            xs=grid,
            now=per_cluster,
            charts=[Chart(f"Images, cap {cap:,}", by_m)],
            x_scale="log",
        ),
        Panel(
            title="By the queries that a cluster needs",
            attribute=MIN_QUERIES,
            x_name="more queries than",
            xs=least,
            now=min_queries,
            charts=[
                Chart("Clusters that count", [Curve("clusters", clusters.tolist())]),
                Chart("Images they bring before the cap", [Curve("images", by_least.tolist())]),
            ],
        ),
    ]


def per_cluster_grid(now: int, largest: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... to where the largest cluster is taken whole, and the run's own M."""
    grid, power = {1, now}, 1
    while power <= 10 * max(now, largest):
        grid |= {step * power for step in (1, 2, 5)}
        power *= 10
    beyond = min(value for value in grid if value >= max(now, largest))
    return sorted(value for value in grid if value <= beyond)


def sights(
    clustered: Manifest,
    chosen: Manifest,
    picked: Mapping[str, Sequence[Picked]],
    queries: Mapping[tuple[str, int], Sequence[int]],
    sizes: Inspection,
) -> dict[str, list[ClusterSight]]:
    """The picked clusters with their images: as retrieval takes them, the closest to the centroid and the farthest."""
    numbers = np.array(sorted({one.number for clusters in picked.values() for one in clusters}), dtype=np.int64)
    look = _look_into(clustered, numbers, sizes)
    taken = _taken(chosen, numbers, sizes.members)
    return {
        source: [
            ClusterSight(
                number=one.number,
                num_queries=one.num_queries,
                images=one.images,
                counts=one.counts,
                queries=[Key("queries", row) for row in queries[source, one.number]],
                sample=taken.get(one.number) or look.drawn.get(one.number, []),
                closest=look.closest.get(one.number, []),
                farthest=look.farthest.get(one.number, []),
            )
            for one in clusters
        ]
        for source, clusters in picked.items()
    }


def _taken(chosen: Manifest, numbers: npt.NDArray[np.int64], num: int) -> dict[int, list[Member]]:
    """The images of these clusters in the order in which retrieval takes them, of those clusters that it takes from."""
    table = read_table(chosen.file("members.parquet"), ["cluster", "rank", "row"])
    here = np.isin(table["cluster"].to_numpy(), numbers) & (table["rank"].to_numpy() < num)
    rows = sorted(table.filter(here).to_pylist(), key=lambda row: (row["cluster"], row["rank"]))
    found: dict[int, list[Member]] = {}
    for row in rows:
        found.setdefault(row["cluster"], []).append(Member(Key("embedded", row["row"])))
    return found


@dataclass(frozen=True)
class _Looked:
    drawn: Mapping[int, list[Member]]
    closest: Mapping[int, list[Member]]
    farthest: Mapping[int, list[Member]]


def _look_into(clustered: Manifest, numbers: npt.NDArray[np.int64], sizes: Inspection) -> _Looked:
    """Some images of each cluster: drawn by row, the closest to the centroid, the farthest. One pass over the parts."""
    kinds = [_Best(sizes.members), _Best(sizes.extremes), _Best(sizes.extremes)]
    start = 0
    for path in clustered.paths(".parquet"):
        table = kept(read_table(path, ["drop", "cluster", "value"]))
        clusters = table["cluster"].to_numpy()
        here = np.flatnonzero(np.isin(clusters, numbers))
        cosine = table["value"].fill_null(0.0).to_numpy()[here].astype(np.float32)
        rows = here + start
        by_cosine = ((1.0 - cosine.astype(np.float64)) * 2.0**40).astype(np.uint64)
        by_row = mix(rows.astype(np.uint64) ^ np.uint64(sizes.seed))
        for best, keys in zip(kinds, (by_row, by_cosine, ~by_cosine), strict=True):
            best.add(clusters[here], keys, rows, cosine)
        start += len(table)
    return _Looked(*(best.members() for best in kinds))


class _Best:
    """The images with the smallest keys of every cluster."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.clusters, self.rows = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self.keys: Keys = np.zeros(0, dtype=np.uint64)
        self.cosine = np.zeros(0, dtype=np.float32)

    def add(
        self,
        clusters: npt.NDArray[np.integer],
        keys: Keys,
        rows: npt.NDArray[np.int64],
        cosine: npt.NDArray[np.float32],
    ) -> None:
        self.clusters, self.keys = np.concatenate([self.clusters, clusters]), np.concatenate([self.keys, keys])
        self.rows, self.cosine = np.concatenate([self.rows, rows]), np.concatenate([self.cosine, cosine])
        stay = sample_per_group(self.clusters, self.keys, per_group=self.num)
        self.clusters, self.keys = self.clusters[stay], self.keys[stay]
        self.rows, self.cosine = self.rows[stay], self.cosine[stay]

    def members(self) -> dict[int, list[Member]]:
        """Those that stayed, in the order of their keys."""
        found: dict[int, list[Member]] = {}
        for place in np.lexsort((self.rows, self.keys, self.clusters)).tolist():
            member = Member(Key("embedded", int(self.rows[place])), float(self.cosine[place]))
            found.setdefault(int(self.clusters[place]), []).append(member)
        return found
