"""A pool and curated sources with known vectors, and the slow truth of a retrieval: loops over images and queries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import read_table, table_from_rows, write_table
from storage.vectors import write_array, write_vectors
from tasks.algorithms.sampling import id_keys
from tasks.cluster import CENTROIDS
from tasks.retrieval.rules import SourceMode, modes_of
from tasks.retrieve import Retrieve, retrieve
from tasks.stage import Outcome, Stage
from tests.tasks.vector_stages import SCHEMA, Made, image_row, made_stage, rows_of, unit

DIM = 12
QUERY = 1_000_000  # ids of queries begin here


@dataclass(frozen=True)
class Images:
    """Images by number: their vectors as they are stored, and what tells their contents."""

    numbers: np.ndarray
    vectors: np.ndarray
    contents: np.ndarray
    sources: np.ndarray

    def __getitem__(self, some: Any) -> "Images":
        return Images(self.numbers[some], self.vectors[some], self.contents[some], self.sources[some])

    def parts(self, size: int, *, dropped: bool) -> tuple[list[list[dict[str, Any]]], list[np.ndarray]]:
        """Rows and vectors of parts of `size` images; `dropped` puts a dropped row in front of each."""
        rows, vectors = [], []
        for start in range(0, len(self.numbers), size):
            here = self[start : start + size]
            part = [
                image_row(int(number), sha256=f"{content:064x}", source=str(source))
                for number, content, source in zip(here.numbers, here.contents, here.sources, strict=True)
            ]
            gone = [image_row(9_000_000 + start, drop="not_decoded")] if dropped else []
            rows.append(gone + part)
            vectors.append(here.vectors)
        return rows, vectors


def images(count: int, seed: int, *, first: int = 0, source: str = "", themes: int = 6) -> Images:
    """Vectors around a few themes; every eighth is a copy of the one before, so that similarities are equal."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(themes, DIM))
    vectors = unit(centres[random.integers(0, themes, count)] + 0.4 * random.normal(size=(count, DIM))).astype(
        np.float16
    )
    vectors[7::8] = vectors[6::8][: len(vectors[7::8])]
    numbers = first + random.permutation(count)
    return Images(numbers, vectors, numbers + 5, np.full(count, source))


def together(*sets: Images) -> Images:
    """One after the other."""
    return Images(
        *(np.concatenate([getattr(s, name) for s in sets]) for name in ("numbers", "vectors", "contents", "sources"))
    )


@dataclass
class World:
    """What a retrieval is given. `centroids` stand; an image's cluster is the one with the largest product."""

    layout: Layout
    pool: Images = field(default_factory=lambda: images(300, 1))
    queries: Images = field(
        default_factory=lambda: together(
            images(40, 2, first=QUERY, source="birds"),
            images(9, 3, first=QUERY + 100, source="cars"),
            images(25, 4, first=QUERY + 200, source="dogs"),
        )
    )
    centroids: np.ndarray = field(default_factory=lambda: unit(np.random.default_rng(5).normal(size=(14, DIM))))
    part_images: int = 90
    part_queries: int = 1000

    def reordered(self, seed: int, **changes: Any) -> "World":
        """The same images and queries in another order."""
        random = np.random.default_rng(seed)
        pool = self.pool[random.permutation(len(self.pool.numbers))]
        return replace(self, pool=pool, queries=self.queries[random.permutation(len(self.queries.numbers))], **changes)

    def clusters_of(self, vectors: np.ndarray) -> np.ndarray:
        return nearest_first(vectors, self.centroids.astype(np.float16))[:, 0]

    def stages(self) -> tuple[Manifest, Manifest, Manifest]:
        """(embedded, clustered, queries)"""
        embedded = self._embedded("embed", *self.pool.parts(self.part_images, dropped=True))
        queries = self._embedded("embed_sources", *self.queries.parts(self.part_queries, dropped=False))
        return embedded, self.clustered(embedded), queries

    def _embedded(self, name: str, parts: list[list[dict[str, Any]]], vectors: list[np.ndarray]) -> Manifest:
        """Two of these differ by their images, not by their config: one encoder made both."""
        shown = made_stage(self.layout, f"{name}_images", parts, vectors)
        stage = Stage(name, version=1, config=Made(), inputs={"images": shown}, layout=self.layout)
        outcomes = []
        for number, (rows, matrix) in enumerate(zip(parts, vectors, strict=True)):
            table = write_table(stage.path(f"part-{number:05d}.parquet"), table_from_rows(rows, SCHEMA))
            files = [table, write_vectors(stage.path(f"part-{number:05d}.npy"), matrix)]
            outcomes.append(Outcome(len(rows), len(matrix), {"not_decoded": len(rows) - len(matrix)}, files))
        return stage.publish(outcomes)

    def clustered(self, embedded: Manifest, clusters: np.ndarray | None = None) -> Manifest:
        """The clusters of that pool; by the centroids, unless they are given."""
        stage = Stage("cluster", version=1, config=Made(), inputs={"embedded": embedded}, layout=self.layout)
        entry = write_array(stage.path(CENTROIDS), self.centroids)
        clusters = self.clusters_of(self.pool.vectors) if clusters is None else clusters
        schema = SCHEMA.append(pa.field("cluster", pa.int32()))
        outcomes = []
        for number, start in enumerate(range(0, len(clusters), self.part_images)):
            here = slice(start, start + self.part_images)
            rows = [
                image_row(int(n), cluster=int(c)) for n, c in zip(self.pool.numbers[here], clusters[here], strict=True)
            ]
            file = write_table(stage.path(f"part-{number:05d}.parquet"), table_from_rows(rows, schema))
            outcomes.append(Outcome(len(rows), len(rows), files=[file]))
        return stage.publish(outcomes, files=[FileEntry(CENTROIDS, len(self.centroids), entry.bytes, entry.sha256)])

    def run(self, config: Retrieve, base: Manifest | None = None) -> Manifest:
        return retrieve.fn(*self.stages(), config, self.layout, base)


def nearest_first(queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Places of `others` by falling product with each query, as float32; equal ones by place."""
    products = (queries.astype(np.float64) @ others.astype(np.float64).T).astype(np.float32)
    return np.argsort(-products, axis=1, kind="stable")


@dataclass
class Truth:
    """A retrieval by loops."""

    world: World
    config: Retrieve

    def __post_init__(self) -> None:
        pool, queries = self.world.pool, self.world.queries
        self.similarity = (queries.vectors.astype(np.float64) @ pool.vectors.astype(np.float64).T).astype(np.float32)
        self.cells = self.world.clusters_of(pool.vectors)
        self.probes = nearest_first(queries.vectors, self.world.centroids.astype(np.float16))
        self.counts = {name: int((queries.sources == name).sum()) for name in set(queries.sources.tolist())}
        self.modes = modes_of(self.counts, self.config)
        self.actual: dict[str, int] = {}

    def neighbours(self, query: int, num: int, *, exact: bool) -> list[int]:
        """Places of the pool: the nearest of what the query may see, equal ones by number."""
        seen = set(self.probes[query].tolist() if exact else self.probes[query, : self.config.num_probes].tolist())
        places = [place for place in range(len(self.cells)) if self.cells[place] in seen]
        return sorted(places, key=lambda p: (-self.similarity[query, p], self.world.pool.numbers[p]))[:num]

    @property
    def exact(self) -> bool:
        return len(self.cells) <= self.config.exact_up_to

    def brought(self) -> dict[int, tuple[int, str, float]]:
        """{image: (query, detail, similarity)} of all images that some rule brings."""
        found: dict[int, tuple[int, str, float]] = {}
        for mode in self.modes:
            for place, query in sorted(self._of_mode(mode).items()):
                number = int(self.world.pool.numbers[place])
                other = (int(self.world.queries.numbers[query]), mode.name, float(self.similarity[query, place]))
                before = found.get(number)
                found[number] = other if before is None else (before[0], f"{before[1]}, {mode.name}", before[2])
        return found

    def _of_mode(self, mode: SourceMode) -> dict[int, int]:
        """{image's place: the query behind it}"""
        mine = [q for q, source in enumerate(self.world.queries.sources) if source == mode.source]
        if mode.mode == "sample":
            pairs = [(p, q) for q in mine for p in self.neighbours(q, mode.neighbours, exact=self.exact)]
            self.actual[mode.name] = len(pairs)
            return {place: self._closest(place, [q for p, q in pairs if p == place]) for place, _ in pairs}
        if mode.mode == "cluster":
            return self._of_clusters(mode, mine)
        return {}

    def _of_clusters(self, mode: SourceMode, mine: Sequence[int]) -> dict[int, int]:
        keys = id_keys([f"{n:024x}" for n in self.world.pool.numbers], seed=self.config.seed)
        homes = {cell: [q for q in mine if self.probes[q, 0] == cell] for cell in range(len(self.world.centroids))}
        taken: list[int] = []
        for cell, inside in homes.items():
            if len(inside) > self.config.min_queries:
                members = sorted(np.flatnonzero(self.cells == cell).tolist(), key=lambda place: int(keys[place]))
                taken += members[: mode.per_cluster]
        self.actual[mode.name] = len(taken)
        taken = sorted(taken, key=lambda place: int(keys[place]))[: mode.cap]
        return {place: self._closest(place, homes[int(self.cells[place])]) for place in taken}

    def _closest(self, place: int, queries: Sequence[int]) -> int:
        return min(queries, key=lambda q: (-self.similarity[q, place], self.world.queries.numbers[q]))


def brought(manifest: Manifest) -> dict[int, tuple[int, str, float]]:
    """{image: (query, detail, similarity)} of the kept images."""
    rows = rows_of(manifest)
    assert {row["drop"] for row in rows} <= {None, "not_retrieved"}
    return {
        int(row["id"], 16): (int(row["other"], 16), row["detail"], row["value"]) for row in rows if row["drop"] is None
    }


def tables(manifest: Manifest, prefix: str) -> Iterator[pa.Table]:
    """The files of a stage that begin so, in order."""
    for entry in manifest.files:
        if entry.path.startswith(prefix) and entry.path.endswith(".parquet"):
            yield read_table(manifest.file(entry.path))


def stored(manifest: Manifest, prefix: str = "neighbours-") -> dict[str, list[tuple[str, float]]]:
    """{query's id: its (image's id, similarity), nearest first}"""
    names: dict[int, str] = {}
    for table in tables(manifest, "queries-"):
        names |= dict(zip(table["query"].to_pylist(), table["query_id"].to_pylist(), strict=True))
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in names.values()}
    for table in tables(manifest, prefix):
        for row in table.to_pylist():
            own = found[names[row["query"]]]
            assert row["rank"] == len(own)
            own.append((row["image_id"], row["similarity"]))
    return found
