"""Images of the pool that resemble the curated sources: by each query's neighbours, or by the clusters queries fall in.

DINOv2 (arXiv 2304.07193, App. A.4): sources of more than a million images take N neighbours of each; smaller ones take
M images of every cluster that holds more than 3 of theirs, up to a million.

What the stage leaves (row: place among the kept rows of `embedded`, over all its parts in order; query: place among the
kept rows of `queries`, likewise; cluster: row of centroids.npy):

part-*.parquet        a row per pool image, as `embedded` has it; drop null or not_retrieved, detail "birds:cluster,
                      cars:sample", other the query's id, value their cosine
queries-*.parquet     query int64, id, sha256, source, cluster int32 (its nearest centroid), depth int32 (neighbours
                      stored: N in mode sample, else 0), inspect bool (one of the queries drawn for the pages: depth
                      is at least `inspect_neighbours`, whatever the mode)
neighbours-*.parquet  query int64, rank int32 (0 is the nearest), row int64, similarity float32; sorted by query, rank;
                      file i holds the queries of queries-i
clusters.parquet      source, cluster int32, num_queries int64, images int64 (of the pool in that cluster), counts bool
                      (num_queries > min_queries); a row for every cluster with a query, for every source in any mode
members.parquet       cluster int32, rank int32, row int64: the first `inspect_members` images, in the order in which
                      they are chosen (taking M takes ranks < M), of every cluster that counts for a source in mode
                      cluster
composition.parquet, composition.json   the table like the paper's Table 15 (also facts["composition"]): source, mode,
                      images, retrieved (nominal: N per query, M per cluster that counts), nominal_final (after the
                      cap: how the paper counts), actual (what there was, repeats counted), unique, collisions
                      (actual - unique), final (distinct images after the cap), shared (of these, what earlier rows
                      had brought); the last row is the total, source "total", mode ""
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import kept, read_table
from tasks.algorithms.blocks import Floats, InMemory, Rows
from tasks.algorithms.kmeans import assign
from tasks.algorithms.neighbours import Neighbours, nearest, nearest_in_cells
from tasks.algorithms.sampling import id_keys, sample, sample_per_group
from tasks.cluster import CENTROIDS, load_centroids
from tasks.config import StageConfig
from tasks.pool import Pool, Verdicts, write_verdicts
from tasks.stage import Stage, stage_task

VERSION = 1
Mode = Literal["as_is", "sample", "cluster"]


class SourceRule(StageConfig):
    """What is done with one curated source; numbers left out are those of `Retrieve`."""

    source: str
    """Name of the source."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)]
    """as_is: its own images; sample: neighbours of each; cluster: images of its clusters. Several add up."""
    neighbours: Annotated[int, Field(ge=1)] | None = None
    """Neighbours of each image (DINOv2: 4, for ImageNet-1k 32)."""
    per_cluster: Annotated[int, Field(ge=1)] | None = None
    """Images of each cluster."""
    cap: Annotated[int, Field(ge=1)] | None = None
    """Images that `cluster` may bring in all."""


class Retrieve(StageConfig):
    """How much of the pool the curated sources bring in."""

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
    seed: int = 0
    """Seed of the choice inside clusters."""


class UnknownSource(ValueError):
    """A rule names a source that there is not."""


@stage_task(name="retrieve")
def retrieve(embedded: Manifest, clustered: Manifest, queries: Manifest, config: Retrieve, layout: Layout) -> Manifest:
    """Keeps the images of the pool that some source brings in; `other` is the query, `detail` every source and mode.

    `embedded` and `clustered` are the pool's, `queries` the curated sources' embeddings, with a `source` column. facts:
    `composition` (a row per source and mode) and `as_is` (sources whose own images belong to the dataset).
    Raises NoImages when the pool or the sources are empty, UnknownSource, and ValueError for other dimensions.
    """
    inputs = {"embedded": embedded, "clustered": clustered, "queries": queries}
    stage = Stage("retrieve", version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    search = Search.over(Pool(embedded), clustered, config)
    asking = Pool(queries)
    sources = np.asarray(asking.strings("source"), dtype=object)
    chosen = Chosen.nothing(len(search.keys))
    composition = []
    for rule in rules_for(sources, config):
        rows = np.flatnonzero(sources == rule.source)
        for mode in rule.modes:
            composition.append(row_of(rule, mode, rows, search, asking, chosen, config))
    outcomes = write_verdicts(stage, embedded, chosen.verdicts(asking.ids))
    as_is = sorted(row["source"] for row in composition if row["mode"] == "as_is")
    return stage.publish(outcomes, facts={"composition": composition, "as_is": as_is})


def rules_for(sources: npt.NDArray[np.object_], config: Retrieve) -> list[SourceRule]:
    """A rule for every source there is, in the order of their names."""
    names, counts = np.unique(sources.astype(str), return_counts=True)
    given = {rule.source: rule for rule in config.rules}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UnknownSource(
            f"retrieve.rules names {', '.join(unknown)}, but the curated sources are {', '.join(names)}. Correct one."
        )
    if len(given) < len(config.rules):
        raise UnknownSource("retrieve.rules names a source twice: give it one rule with several modes.")
    return [given.get(name) or _automatic(name, int(count), config) for name, count in zip(names, counts, strict=True)]


def _automatic(name: str, count: int, config: Retrieve) -> SourceRule:
    return SourceRule(source=name, modes=("sample",) if count > config.sample_above else ("cluster",))


@dataclass
class Search:
    """The pool as retrieval sees it: its vectors, each image's cluster and sampling key."""

    pool: Pool
    centroids: Floats
    clusters: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]
    config: Retrieve

    @classmethod
    def over(cls, pool: Pool, clustered: Manifest, config: Retrieve) -> "Search":
        """Reads ids and clusters. Raises ValueError when the clusters are of another pool."""
        tables = [kept(read_table(path, ["drop", "cluster"])) for path in clustered.paths(".parquet")]
        clusters = np.concatenate([table["cluster"].to_numpy() for table in tables]).astype(np.int32)
        if len(clusters) != len(pool.ids):
            raise ValueError(
                f"{clustered.directory} has clusters of {len(clusters)} images, the pool has {len(pool.ids)}."
            )
        keys = id_keys(pool.ids, seed=config.seed)
        return cls(pool, load_centroids(clustered.file(CENTROIDS)), clusters, keys, config)

    def neighbours(self, queries: Floats, num: int) -> Neighbours:
        """The `num` most similar pool images of each query [n, dim]."""
        if len(self.clusters) <= self.config.exact_up_to:
            return nearest(self.pool.vectors, queries, num=num)
        return nearest_in_cells(
            self.pool.vectors,
            queries,
            num=num,
            centroids=self.centroids,
            assignments=self.clusters,
            num_probes=self.config.num_probes,
        )


@dataclass(frozen=True)
class Found:
    """What one source's mode retrieves: distinct pool rows, the query (its place among the source's) behind each."""

    rows: Rows
    query: Rows
    similarity: Floats
    nominal: int
    retrieved: int
    unique: int


def row_of(
    rule: SourceRule,
    mode: Mode,
    rows: Rows,
    search: Search,
    asking: Pool,
    chosen: "Chosen",
    config: Retrieve,
) -> dict[str, Any]:
    """Retrieve for one source and mode, note it in `chosen`, and return its row of the composition table.

    nominal: as the paper counts (N per query, M per cluster); retrieved: what there was, repeats counted; unique;
    collisions: repeats among retrieved; final: after the cap; shared: of the final ones, what earlier rows had brought.
    """
    row: dict[str, Any] = {"source": rule.source, "mode": mode, "images": len(rows)}
    if mode == "as_is":
        return row | {"nominal": len(rows), "unique": len(rows), "final": len(rows), "collisions": 0, "shared": 0}
    queries = np.asarray(asking.vectors.take(rows), dtype=np.float32)
    if mode == "sample":
        found = by_sample(search, queries, num=rule.neighbours or config.neighbours)
    else:
        found = by_cluster(
            search,
            queries,
            per_cluster=rule.per_cluster or config.per_cluster,
            min_queries=config.min_queries,
            cap=rule.cap or config.cap,
        )
    shared = chosen.add(f"{rule.source}:{mode}", found, rows)
    return row | {
        "nominal": found.nominal,
        "retrieved": found.retrieved,
        "unique": found.unique,
        "collisions": found.retrieved - found.unique,
        "final": len(found.rows),
        "shared": shared,
    }


def by_sample(search: Search, queries: Floats, *, num: int) -> Found:
    """The `num` nearest pool images of every query; an image that several bring belongs to the most similar one."""
    neighbours = search.neighbours(queries, num)
    there = neighbours.rows >= 0
    rows, similarity = neighbours.rows[there], neighbours.similarity[there]
    query = np.broadcast_to(np.arange(len(queries))[:, None], there.shape)[there]
    order = np.lexsort((query, -similarity, rows))
    first = order[np.r_[True, rows[order][1:] != rows[order][:-1]][: len(order)]]
    nominal = num * len(queries)
    return Found(rows[first], query[first], similarity[first], nominal, len(rows), len(first))


def by_cluster(search: Search, queries: Floats, *, per_cluster: int, min_queries: int, cap: int) -> Found:
    """At most `per_cluster` images of every cluster with more than `min_queries` queries, at most `cap` in all.

    Which ones depends on their ids and the seed alone. The query behind an image is the most similar in its cluster.
    """
    homes = np.concatenate([labels for _, labels, _ in assign(InMemory(queries), search.centroids)])
    counts = np.bincount(homes, minlength=len(search.centroids))
    eligible = counts > min_queries
    inside = np.flatnonzero(eligible[search.clusters])
    taken = inside[sample_per_group(search.clusters[inside], search.keys[inside], per_group=per_cluster)]
    rows = taken[sample(search.keys[taken], cap)]
    query, similarity = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.float32)
    for cluster in np.unique(search.clusters[rows]):
        members, asking = np.flatnonzero(search.clusters[rows] == cluster), np.flatnonzero(homes == cluster)
        best = nearest(InMemory(queries[asking]), search.pool.vectors.take(rows[members]).astype(np.float32), num=1)
        query[members], similarity[members] = asking[best.rows[:, 0]], best.similarity[:, 0]
    return Found(rows, query, similarity, per_cluster * int(eligible.sum()), len(taken), len(taken))


@dataclass
class Chosen:
    """Per pool image: the query that brought it first (-1: none), their similarity, and every rule that did."""

    query: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    rules: npt.NDArray[np.object_]

    @classmethod
    def nothing(cls, num_rows: int) -> "Chosen":
        """No image chosen yet."""
        similarity = np.full(num_rows, np.nan, dtype=np.float32)
        return cls(np.full(num_rows, -1, dtype=np.int64), similarity, np.full(num_rows, None, dtype=object))

    def add(self, rule: str, found: Found, queries: Rows) -> int:
        """Notes what a rule found, `queries` being its source's rows. Returns how many had been chosen before."""
        new = self.query[found.rows] < 0
        first = found.rows[new]
        self.query[first], self.similarity[first] = queries[found.query[new]], found.similarity[new]
        self.rules[first] = rule
        self.rules[found.rows[~new]] += f", {rule}"
        return int((~new).sum())

    def verdicts(self, query_ids: Sequence[bytes] | npt.NDArray[np.bytes_]) -> Verdicts:
        """Kept with its query, or dropped as not_retrieved."""
        verdicts = Verdicts.keep(len(self.query))
        chosen = self.query >= 0
        verdicts.drop[~chosen] = "not_retrieved"
        verdicts.detail[:], verdicts.value[:] = self.rules, self.similarity
        verdicts.other[chosen] = [query_ids[row].decode() for row in self.query[chosen]]
        return verdicts
