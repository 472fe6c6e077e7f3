"""A small run, from descriptors to retrieval, whose images are really there: what the inspection pages are made of."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from storage.filesystem import write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import kept, read_table, write_table
from tasks.algorithms.self_join import Edges
from tasks.copy_graph import CopyGraph, copy_graph
from tasks.inspect_run import Inspected
from tasks.link_benchmark import link_benchmark
from tasks.link_references import link_references
from tasks.relative_dedup import RelativeDedup, relative_dedup
from tasks.retrieve import Retrieve, SourceRule, retrieve
from tasks.self_dedup import SelfDedup, self_dedup
from tasks.stage import Outcome, Stage
from tests.helpers import jpeg
from tests.tasks.vector_stages import Made, image_row, made_stage, unit

DIM = 16
LOWEST, COPY, LEAK = 0.45, 0.6, 0.45
POOL, CLUSTERS = 72, 6
SOURCES = {"birds": 18, "cars": 14, "one": 1}
BENCHMARKS = {"flowers/test": 6, "flowers/train": 5}


def scattered(axes: np.ndarray, spread: float, seed: int) -> np.ndarray:
    """Unit vectors around these axes, float16 as they are stored."""
    noise = np.random.default_rng(seed).normal(size=(len(axes), DIM))
    return unit(np.eye(DIM)[axes] + spread * noise).astype(np.float16)


class Images:
    """One file that holds an image for every number."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.name, self._bytes = layout, "images.bin", b""

    def row(self, number: int, **more: Any) -> dict[str, Any]:
        data = jpeg(number, side=32)
        place = {"image_file": self.name, "image_offset": len(self._bytes), "image_bytes": len(data)}
        self._bytes += data
        return image_row(number, **place, **more)

    def write(self) -> None:
        write_bytes(self.layout.resolve(self.name), self._bytes)


@dataclass
class World:
    """The stages, and the arrays that they were made from."""

    layout: Layout
    run: Inspected
    descriptors: np.ndarray
    references: np.ndarray
    reference_names: list[str]
    edges: Edges
    embeddings: np.ndarray
    query_vectors: np.ndarray
    sources: list[str]
    clusters: np.ndarray
    config: Retrieve

    @property
    def without_benchmarks(self) -> Inspected:
        return replace(self.run, clean=None, references=(), links=())


def make_world(layout: Layout, *, address: str | None = None) -> World:
    """72 pool images, 33 queries of three sources, two benchmarks; `address` is every image's URL, if given."""
    images, url = Images(layout), ({"url": address} if address else {})
    descriptors = scattered(np.arange(POOL) % 12, 0.25, 1)
    rows = [images.row(number, **url) for number in range(POOL)]
    cut = 31
    described = made_stage(layout, "describe", [rows[:cut], rows[cut:]], [descriptors[:cut], descriptors[cut:]])
    edges = pairs_above(descriptors, LOWEST)
    graph = copy_graph.fn(described, CopyGraph(threshold=LOWEST), layout)
    unique = self_dedup.fn(described, graph, SelfDedup(threshold=COPY), layout)

    names = [name for name, count in BENCHMARKS.items() for _ in range(count)]
    references = scattered(np.arange(len(names)) % 4, 0.3, 2)
    split = [images.row(500 + n, source=s.split("/")[0], split=s.split("/")[1]) for n, s in enumerate(names)]
    known = [
        made_stage(layout, "describe_benchmarks", [[split[n] for n in mine]], [references[mine]])
        for mine in ([n for n, said in enumerate(names) if said == name] for name in BENCHMARKS)
    ]
    settings = RelativeDedup(threshold=LEAK, self_test=None)
    links = [link_benchmark.fn(described, one, settings, layout) for one in known]
    links.append(link_references.fn(known, settings, layout))
    clean = relative_dedup.fn(described, unique, graph, known, links, settings, layout)

    embeddings = scattered(np.arange(POOL) % CLUSTERS, 0.25, 3)
    embedded = made_stage(layout, "embed", [rows[:50], rows[50:]], [embeddings[:50], embeddings[50:]])
    clusters, clustered = made_clusters(layout, embedded, embeddings)
    sources = [name for name, count in SOURCES.items() for _ in range(count)]
    query_vectors = scattered(np.arange(len(sources)) % 4, 0.3, 4)
    asked = [images.row(900 + number, source=source, **url) for number, source in enumerate(sources)]
    queries = made_stage(layout, "embed_sources", [asked], [query_vectors])
    rules = (rule("birds", "sample", neighbours=5), rule("cars", "cluster"), rule("one", "as_is", "sample"))
    config = Retrieve(rules=rules, neighbours=3, per_cluster=7, cap=15, inspect_neighbours=12, inspect_queries=8)
    chosen = retrieve.fn(embedded, clustered, queries, config, layout)
    images.write()
    run = Inspected(described, graph, unique, embedded, clustered, chosen, queries, clean, known, links)
    arrays = (descriptors, references, names, edges, embeddings, query_vectors, sources, clusters)
    return World(layout, run, *arrays, config)


def rule(source: str, *modes: str, **numbers: int) -> SourceRule:
    return SourceRule.model_validate({"source": source, "modes": modes, **numbers})


def products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[left, right] products of float16 vectors, in float64."""
    return np.asarray(left.astype(np.float64) @ right.astype(np.float64).T)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[left, right] cosines: rounded to float16, vectors are not quite of length 1."""
    lengths = [np.linalg.norm(side.astype(np.float64), axis=1) for side in (left, right)]
    return np.asarray(products(left, right) / np.outer(*lengths))


def pairs_above(vectors: np.ndarray, threshold: float) -> Edges:
    """All pairs, by brute force."""
    similarity = cosines(vectors, vectors).astype(np.float32)
    left, right = np.nonzero(np.triu(similarity > threshold, 1))
    return Edges(left.astype(np.int64), right.astype(np.int64), similarity[left, right])


def made_clusters(layout: Layout, embedded: Manifest, embeddings: np.ndarray) -> tuple[np.ndarray, Manifest]:
    """([pool] clusters, the stage): the nearest axis is an image's cluster."""
    centroids = np.eye(DIM, dtype=np.float32)[:CLUSTERS]
    cosine = embeddings.astype(np.float32) @ centroids.T
    clusters = cosine.argmax(axis=1)
    stage = Stage("cluster", version=1, config=Made(), inputs={"embedded": embedded}, layout=layout)
    outcomes, start = [], 0
    for number, path in enumerate(embedded.paths(".parquet")):
        table = kept(read_table(path))
        here = slice(start, start + len(table))
        values = pa.array(cosine[here].max(axis=1).astype(np.float32))
        table = table.set_column(table.schema.get_field_index("value"), "value", values)
        table = table.append_column("cluster", [clusters[here].astype(np.int32)])
        entry = write_table(stage.path(f"part-{number:05d}.parquet"), table)
        outcomes.append(Outcome(len(table), len(table), {}, [entry]))
        start += len(table)
    buffer = io.BytesIO()
    np.save(buffer, centroids)
    write_bytes(stage.path("centroids.npy"), buffer.getvalue())
    entry = FileEntry("centroids.npy", CLUSTERS, len(buffer.getvalue()), "0" * 64)
    return clusters, stage.publish(outcomes, files=[entry], facts={"num_clusters": CLUSTERS})


def components(num_rows: int, links: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Connected components by flooding: slow, and nothing like a union-find."""
    beside: dict[int, set[int]] = {row: set() for row in range(num_rows)}
    for left, right in links:
        beside[left].add(right)
        beside[right].add(left)
    found, seen = [], set[int]()
    for row in range(num_rows):
        if row not in seen:
            reached, front = {row}, [row]
            while front:
                fresh = beside[front.pop()] - reached
                reached |= fresh
                front += fresh
            seen |= reached
            found.append(reached)
    return found
