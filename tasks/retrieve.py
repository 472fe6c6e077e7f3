"""Images of the pool that resemble the curated sources: by each query's neighbours, or by the clusters queries fall in.

DINOv2 (arXiv 2304.07193, App. A.4): sources of more than a million images take N neighbours of each; smaller ones take
M images of every cluster that holds more than 3 of theirs, up to a million.

What the stage leaves (row: place among the kept rows of `embedded`, over all its parts in order; query: place among the
kept rows of `queries`, likewise; cluster: row of centroids.npy):

part-*.parquet        a row per pool image, as `embedded` has it; drop null or not_retrieved, detail "birds:cluster,
                      cars:sample", other the query's id, value their cosine
queries-*.parquet     query int64, query_id, sha256, source, cluster int32 (its nearest centroid), depth int32
                      (neighbours stored: N in mode sample, else 0), inspect bool (one of the queries drawn for the
                      pages: depth is at least `inspect_neighbours`, whatever the mode), recall bool (one of the sample
                      on which recall is measured)
neighbours-*.parquet  query int64, rank int32 (0 is the nearest), row int64, similarity float32, image_id; sorted by
                      query, rank; file i holds the queries of queries-i
truth-*.parquet       as neighbours-*: those of the recall sample in the whole pool, where it was measured
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

The similarity of two images is one number, whatever the blocks and the order (see algorithms.neighbours); equal ones
come in the order of the images' ids. So the images are the same for any size of parts and tasks, any number of workers
and any order of the pool, given the same clusters. Where the pool is larger than `exact_up_to`, queries look into
`num_probes` clusters, and the run ends if the recall, measured on a sample, is below `min_recall`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.filesystem import write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from storage.tables import write_table
from storage.vectors import Vectors
from tasks.cluster import CENTROIDS, load_centroids
from tasks.pool import Pool
from tasks.retrieval.choose import choose
from tasks.retrieval.rules import NeighboursMissed, Retrieve, SourceRule, UnknownSource
from tasks.retrieval.steps import Work
from tasks.stage import Stage, stage_task

__all__ = ["NeighboursMissed", "Retrieve", "SourceRule", "UnknownSource", "retrieve"]

VERSION = 2


@stage_task(name="retrieve")
def retrieve(
    embedded: Manifest,
    clustered: Manifest,
    queries: Manifest,
    config: Retrieve,
    layout: Layout,
    base: Manifest | None = None,
) -> Manifest:
    """Keeps the images of the pool that some source brings in; `other` is the query, `detail` every source and mode.

    `embedded` and `clustered` are the pool's, `queries` the curated sources' embeddings, with a `source` column; `base`
    is an earlier `retrieve` of another pool: its neighbours are taken over (see retrieval.base). facts: `composition`,
    `as_is` (sources whose own images belong to the dataset), `recall` (of the search by clusters), `reused` queries.
    Raises NoImages when the pool or the sources are empty, UnknownSource, NeighboursMissed, and ValueError for vectors
    of other dimensions or clusters of another pool.
    """
    inputs = {"embedded": embedded, "clustered": clustered, "queries": queries}
    stage = Stage("retrieve", version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        manifest = stage.reuse()
        check_recall(manifest.facts, config)
        return manifest
    _check_dims(embedded, clustered, queries)
    work = Work(stage, embedded, clustered, queries, config)
    work.ask()
    work.search(base)
    check_recall(work.facts, config)
    chosen = choose(work)
    facts = work.facts | chosen.facts
    files = [*chosen.files, *write_composition(stage, facts["composition"])]
    tables = {entry.path for outcome in chosen.verdicts for entry in outcome.files}
    files += [entry for entry in work.finish() if entry.path not in tables]
    return stage.publish(chosen.verdicts, files=files, facts=facts)


def write_composition(stage: Stage, rows: Sequence[Mapping[str, Any]]) -> list[FileEntry]:
    """composition.parquet and composition.json of a stage."""
    table = pa.Table.from_pylist([dict(row) for row in rows])
    data = json.dumps(list(rows), indent=1).encode()
    write_bytes(stage.path("composition.json"), data)
    entry = FileEntry("composition.json", len(rows), len(data), hashlib.sha256(data).hexdigest())
    return [write_table(stage.path("composition.parquet"), table), entry]


def check_recall(facts: Mapping[str, Any], config: Retrieve) -> None:
    """Raises NeighboursMissed when the search by clusters found too few of the sample's true neighbours."""
    if facts["recall"] < config.min_recall:
        raise NeighboursMissed(
            f"retrieve: of the true neighbours of {facts['recall_queries']} queries, {facts['recall']:.4f} were found "
            f"in {config.num_probes} clusters, less than retrieve.min_recall = {config.min_recall}. Raise "
            "retrieve.num_probes, or exact_up_to, or lower the floor (then nothing is computed anew)."
        )


def _check_dims(embedded: Manifest, clustered: Manifest, queries: Manifest) -> None:
    pool, asking = Pool(embedded), Pool(queries)
    dims = {"the pool": Vectors.of(pool.manifest).shape[1], "the sources": Vectors.of(asking.manifest).shape[1]}
    dims["the centroids"] = load_centroids(clustered.file(CENTROIDS)).shape[1]
    if len(set(dims.values())) > 1:
        said = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        raise ValueError(f"retrieve: vectors of several dimensions: {said}. Embed all with one encoder.")
    if clustered.rows_kept != embedded.rows_kept:
        raise ValueError(
            f"{clustered.directory} has clusters of {clustered.rows_kept} images, the pool has {embedded.rows_kept}."
        )
