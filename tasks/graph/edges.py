"""The edges of a finished copy graph, for every stage that needs pairs above some threshold of its own."""

from collections.abc import Iterator

from storage.filesystem import join
from storage.manifest import Manifest
from tasks.algorithms.self_join import Edges
from tasks.graph.files import read_edges

PREFIX = "edges-"


class ThresholdTooLow(ValueError):
    """Pairs are asked for that are less similar than any that the copy graph holds."""


def edge_paths(graph: Manifest) -> list[str]:
    """Absolute paths of the edge files, in order: left < right are pool rows, each file in increasing (left, right)."""
    return [join(graph.directory, entry.path) for entry in graph.files if entry.path.startswith(PREFIX)]


def graph_edges(graph: Manifest, threshold: float) -> Iterator[Edges]:
    """All edges of a copy graph with similarity > threshold, by blocks of at most a million; pool rows, left < right.

    The components they make are those of all pairs above the threshold. Raises ThresholdTooLow. Memory: three blocks.
    """
    least = float(graph.facts["threshold"])
    if threshold < least:
        raise ThresholdTooLow(
            f"pairs above {threshold} are wanted, but {graph.directory} holds those above {least} only. "
            f"Lower copy_graph.threshold to {threshold} or below."
        )
    return read_edges(edge_paths(graph), threshold=threshold)
