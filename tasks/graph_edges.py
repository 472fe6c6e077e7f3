"""Edge files of a copy graph: Parquet, left < right pool rows, each file sorted; read as a stream of blocks."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.filesystem import file_sha256, join, open_read, write_atomic
from storage.manifest import FileEntry, Manifest
from tasks.algorithms.self_join import Edges

SCHEMA = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float32())])
_BLOCK_EDGES = 1 << 20


class ThresholdTooLow(ValueError):
    """Pairs are asked for that are less similar than any that the copy graph holds."""


def write_edges(path: str, edges: Edges) -> FileEntry:
    """The edges as Parquet, in the order given."""
    with write_atomic(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for start in range(0, len(edges.left), _BLOCK_EDGES):
            writer.write_table(pa.table([column[start : start + _BLOCK_EDGES] for column in edges], schema=SCHEMA))
    size, digest = file_sha256(path)
    return FileEntry(path.rsplit("/", 1)[-1], len(edges.left), size, digest)


def read_edges(path: str, threshold: float) -> Iterator[Edges]:
    """The edges with similarity > threshold, by blocks of at most a million."""
    with open_read(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(_BLOCK_EDGES):
            edges = Edges(*(np.asarray(column) for column in batch.columns))
            above = edges.similarity > threshold
            yield edges if above.all() else Edges(*(column[above] for column in edges))


def edge_paths(graph: Manifest) -> list[str]:
    """Absolute paths of the edge files, in order."""
    return [join(graph.directory, entry.path) for entry in graph.files if entry.path.startswith("edges-")]


def graph_edges(graph: Manifest, threshold: float) -> Iterator[Edges]:
    """All edges of a copy graph with similarity > threshold, by blocks of at most a million; pool rows, left < right.

    The components they make are those of all pairs above the threshold. Raises ThresholdTooLow. Memory: one block.
    """
    least = float(graph.facts["threshold"])
    if threshold < least:
        raise ThresholdTooLow(
            f"pairs above {threshold} are wanted, but {graph.directory} holds those above {least} only. "
            f"Lower copy_graph.threshold to {threshold} or below."
        )
    return (edges for path in edge_paths(graph) for edges in read_edges(path, threshold))
