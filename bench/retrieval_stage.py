"""The whole `retrieve` stage from disk to verdicts: seconds by step, memory, and what an earlier run saves.

    python -m bench.retrieval_stage [--sizes 100000x10000 250000x25000] [--dim 384] [--name retrieval_stage]

Four sources: three of a fifth of the queries in mode sample (N = 4, one of them 32), the rest in mode cluster.
Neighbours are searched by cells (no exact search), 100,000 images and 16,384 queries a task, in one process, so that
its memory is that of a task. Then a tenth of new images comes to the pool, searched with the first run as `base` and
without. The two must end in the same files.
"""

import argparse
import shutil
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.kmeans import embeddings
from bench.measure import machine, peak_megabytes, save
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, load_manifest
from storage.records import image_schema
from storage.tables import write_table
from storage.vectors import write_array, write_vectors
from tasks.algorithms.blocks import InMemory
from tasks.algorithms.kmeans import assign, fit_kmeans
from tasks.cluster import CENTROIDS
from tasks.config import StageConfig
from tasks.retrieval.steps import Work
from tasks.retrieve import Retrieve, SourceRule, retrieve
from tasks.stage import Outcome, Stage

_PART = 10_000
_SOURCES = ("first", "second", "third", "rest", "rest")
CONFIG = Retrieve(
    rules=(
        SourceRule(source="first", modes=("sample",)),
        SourceRule(source="second", modes=("sample",)),
        SourceRule(source="third", modes=("sample",), neighbours=32),
        SourceRule(source="rest", modes=("cluster",), per_cluster=200, cap=100_000),
    ),
    exact_up_to=0,
    num_probes=16,
    images_per_task=100_000,
    queries_per_task=16_384,
)


class Written(StageConfig):
    """What distinguishes one of these stages from another."""

    content: str


def write_images(layout: Layout, name: str, vectors: np.ndarray, first: int, *, sources: bool = False) -> Manifest:
    """An `embed` stage: ids from `first` on."""
    shown = Stage(
        f"{name}_images", version=1, config=Written(content=f"{first} {len(vectors)}"), inputs={}, layout=layout
    )
    stage = Stage(
        name, version=1, config=Written(content="encoder"), inputs={"images": shown.publish([])}, layout=layout
    )
    schema = image_schema(pa.field("source", pa.string()), pa.field("crawl_date", pa.string()))
    outcomes = []
    for number, start in enumerate(range(0, len(vectors), _PART)):
        rows = np.arange(first + start, first + min(start + _PART, len(vectors)))
        ids = pa.array([f"{row:024x}" for row in rows])
        columns = {name: pa.nulls(len(rows), schema.field(name).type) for name in schema.names}
        columns |= {"id": ids, "sha256": ids, "url": ids}
        if sources:
            columns["source"] = pa.array([_SOURCES[row % 5] for row in rows])
        files = [
            write_table(stage.path(f"part-{number:05d}.parquet"), pa.table(columns, schema=schema)),
            write_vectors(stage.path(f"part-{number:05d}.npy"), vectors[start : start + _PART]),
        ]
        outcomes.append(Outcome(len(rows), len(rows), files=files))
    return stage.publish(outcomes)


def write_clusters(layout: Layout, embedded: Manifest, vectors: np.ndarray, centroids: np.ndarray) -> Manifest:
    """A `cluster` stage with these centroids."""
    stage = Stage("cluster", version=1, config=Written(content=""), inputs={"embedded": embedded}, layout=layout)
    entry = write_array(stage.path(CENTROIDS), centroids)
    labels = np.concatenate([block for _, block, _ in assign(InMemory(vectors), centroids)]).astype(np.int32)
    outcomes = []
    for number, start in enumerate(range(0, len(labels), _PART)):
        part = labels[start : start + _PART]
        table = pa.table({"drop": pa.nulls(len(part), pa.string()), "cluster": part})
        outcomes.append(
            Outcome(len(part), len(part), files=[write_table(stage.path(f"part-{number:05d}.parquet"), table)])
        )
    return stage.publish(outcomes, files=[FileEntry(CENTROIDS, len(centroids), entry.bytes, entry.sha256)])


def run(root: str, inputs: list[str], base: str | None) -> dict[str, Any]:
    """The stage in this process; seconds by step."""
    steps: dict[str, float] = defaultdict(float)
    original = Work.map

    def timed(self: Work, prefix: str, *arguments: Any, **more: Any) -> list[Outcome]:
        started = time.perf_counter()
        outcomes = original(self, prefix, *arguments, **more)
        steps[prefix.split("-")[0]] += time.perf_counter() - started
        return outcomes

    Work.map = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    embedded, clustered, queries = (load_manifest(folder) for folder in inputs)
    try:
        found = retrieve.fn(embedded, clustered, queries, CONFIG, Layout(root), load_manifest(base) if base else None)
    finally:
        Work.map = original  # type: ignore[method-assign]
    seconds = time.perf_counter() - started
    facts = {name: found.facts[name] for name in ("recall", "recall_queries", "reused")}
    files = {e.path: e.sha256 for e in found.files if not e.path.startswith("truth-")}
    rounded = {name: round(value, 2) for name, value in steps.items()}
    return {
        "seconds": round(seconds, 2),
        "steps": rounded,
        **facts,
        "kept": found.rows_kept,
        "folder": found.directory,
        "files": files,
    }


def measured(root: str, inputs: list[Manifest], base: str | None = None, *, apart: bool = True) -> dict[str, Any]:
    """`run` in a process of its own, with its peak memory; not `apart`: in this one, without."""
    folders = [manifest.directory for manifest in inputs]
    if not apart:
        return run(root, folders, base)
    found, megabytes = peak_megabytes(run, root, folders, base)
    return {**found, "peak_megabytes": round(megabytes)}


def compare(folder: Path, num_pool: int, num_queries: int, dim: int, *, apart: bool = True) -> dict[str, Any]:
    """One size: a run, and the grown pool with and without it."""
    layout, new = Layout(str(folder / "run")), num_pool // 10
    drawn = embeddings(num_pool + new + num_queries, dim)
    centroids = fit_kmeans(
        InMemory(drawn[:num_pool]), num_clusters=round(num_pool**0.5), seed=0, iterations=6
    ).centroids
    queries = write_images(layout, "embed_sources", drawn[num_pool + new :], 10**9, sources=True)
    pools = []
    for rows in (num_pool, num_pool + new):
        embedded = write_images(layout, "embed", drawn[:rows], 0)
        pools.append([embedded, write_clusters(layout, embedded, drawn[:rows], centroids), queries])
    del drawn
    first = measured(layout.root, pools[0], apart=apart)
    grown = measured(layout.root, pools[1], first["folder"], apart=apart)
    alone = measured(str(folder / "alone"), pools[1], apart=apart)
    same = grown.pop("files") == alone.pop("files")
    first.pop("files")
    return {
        "pool": num_pool,
        "queries": num_queries,
        "dim": dim,
        "first": first,
        "grown": grown,
        "grown_alone": alone,
        "same": same,
    }


def main() -> None:
    """Every size in turn; a table and bench/results/<name>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["100000x10000", "250000x25000"], help="images x queries")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--name", default="retrieval_stage")
    options = parser.parse_args()
    content: dict[str, Any] = {"machine": machine(), "config": CONFIG.model_dump(mode="json"), "runs": []}
    for size in options.sizes:
        num_pool, num_queries = (int(number) for number in size.split("x"))
        folder = Path(tempfile.mkdtemp(prefix="retrieval-stage-"))
        try:
            found = compare(folder, num_pool, num_queries, options.dim)
        finally:
            shutil.rmtree(folder)
        content["runs"].append(found)
        save(options.name, content)
        for kind in ("first", "grown", "grown_alone"):
            row = found[kind]
            said = f"{row['seconds']:>7.2f} s, {row['peak_megabytes']:>6,} MB, recall {row['recall']}"
            print(f"{num_pool:>9,} {kind:>12}: {said}, {row['reused']:,} reused, {row['steps']}")
        print(
            f"{'':>10}with and without the earlier run: {'the same files' if found['same'] else 'DIFFERENT FILES'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
