"""What an earlier copy graph spares: pairs of images that it knew are taken from it, only new images are compared.

An image is known when its id and the SHA-256 of its bytes are. An image that the earlier graph had more than
`neighbours` pairs of counts as new where its component has lost an image, or where images have changed their order: of
its pairs some were left out there for others that may be gone. So the graph is the one that a run without it makes.

Memory: 8 bytes per earlier image and 1 per image for the match; where images are gone, 12 bytes more per earlier image
for its components. Disk: 24 bytes per image, earlier or not. Tasks: one per span of rows, one per 2**24 images.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.manifest import Manifest
from tasks.algorithms.blocks import Rows
from tasks.algorithms.components import Components
from tasks.algorithms.edge_limit import join_blocks
from tasks.algorithms.sampling import id_keys
from tasks.algorithms.self_join import Edges
from tasks.graph.edges import edge_paths, graph_edges
from tasks.graph.files import read_edges
from tasks.graph.limit import Ranges, write_pairs
from tasks.graph.rows import PoolFiles, Span, read_columns, take_vectors
from tasks.graph.scratch import Array, Files, load_array, read_bucket, save_array, scratch_map, whole, write_buckets
from tasks.stage import Outcome, Stage

_KEY = np.dtype([("id", "<u8"), ("sha256", "<u8"), ("row", "<i8")])
_PARTITION_ROWS = 1 << 24
_COMPARED_ROWS = 256


class Base(NamedTuple):
    """An earlier run's descriptors and the graph of them."""

    described: Manifest
    graph: Manifest


class Known(NamedTuple):
    """What can be taken over: `moved` [earlier rows] is each image's row now, or -1; the rows to be compared; a reason
    when nothing can."""

    moved: Rows
    new_rows: Rows
    unused: str | None = None


def find_known(stage: Stage, pool: PoolFiles, base: Base, *, threshold: float, neighbours: int, rows: int) -> Known:
    """Which images the earlier graph knew, and which must be compared all the same.

    Raises ValueError when the graph is not of those descriptors. A graph with a higher threshold or fewer neighbours,
    or of other vectors, spares nothing.
    """
    if base.graph.inputs.get("described") != base.described.reference:
        raise ValueError(
            f"{base.graph.directory} is the graph of {base.graph.inputs.get('described')}, not of "
            f"{base.described.directory}. Give the two as one earlier run left them."
        )
    everything = np.arange(pool.num_rows)
    facts = base.graph.facts
    if facts["threshold"] > threshold or facts["neighbours"] < neighbours:
        return Known(np.zeros(0, np.int64), everything, "its threshold is higher, or its neighbours are fewer")
    earlier = PoolFiles(base.described)
    moved = match_rows(stage, earlier, pool, rows)
    if not _same_vectors(earlier, pool, moved):
        return Known(np.zeros(0, np.int64), everything, "its descriptors are others (encoder or whitening)")
    moved[_doubtful(base.graph, moved, int(facts["neighbours"]))] = -1
    known = np.zeros(pool.num_rows, dtype=np.bool_)
    known[moved[moved >= 0]] = True
    return Known(moved, np.flatnonzero(~known))


def match_rows(stage: Stage, earlier: PoolFiles, pool: PoolFiles, rows: int) -> Rows:
    """For every earlier row the row of the same image (id and SHA-256) now, or -1."""
    num_partitions = 1 + max(earlier.num_rows, pool.num_rows) // _PARTITION_ROWS
    sides = [
        scratch_map(stage, f"keys-{name}", key_span, files.spans(rows), num_partitions=num_partitions)[1]
        for name, files in (("earlier", earlier), ("now", pool))
    ]
    parts = [(partition, num_partitions) for partition in range(num_partitions)]
    _, matched = scratch_map(stage, "match", match_partition, parts, sides=sides)
    moved = np.full(earlier.num_rows, -1, dtype=np.int64)
    for path in matched.paths(".npy"):
        pairs = load_array(path)
        moved[pairs[0]] = pairs[1]
    return moved


def key_span(span: Span, out: str, *, num_partitions: int) -> Outcome:
    """Hashes of id and SHA-256 of one span's images, by partitions of the ids' hashes."""
    table = read_columns(span, ["id", "sha256"])
    keys = np.empty(len(table), dtype=_KEY)
    keys["row"] = np.arange(span.first, span.last)
    for name in ("id", "sha256"):
        keys[name] = id_keys(table[name].to_pylist(), seed=0)
    partition = (keys["id"] % np.uint64(num_partitions)).astype(np.int64)
    sizes = np.bincount(partition, minlength=num_partitions)
    return whole(len(keys), [write_buckets(f"{out}.keys", sizes, [keys[np.argsort(partition, kind="stable")]])])


def match_partition(part: tuple[int, int], out: str, *, sides: Sequence[Files]) -> Outcome:
    """The images of one partition (of so many) that both sides have: [2, images], earlier row and row now."""
    keys = [_partition(files, *part) for files in sides]
    side = np.repeat([0, 1], [len(part) for part in keys])
    both = np.concatenate(keys)
    order = np.lexsort((both["row"], side, both["sha256"], both["id"]))
    both, side = both[order], side[order]
    equal = (both["id"][1:] == both["id"][:-1]) & (both["sha256"][1:] == both["sha256"][:-1])
    met = np.flatnonzero(equal & (side[1:] > side[:-1]))
    pairs = np.stack([both["row"][met], both["row"][met + 1]])
    return whole(0, [save_array(f"{out}.npy", pairs)])


def _partition(files: Files, partition: int, num_partitions: int) -> Array:
    blocks = [read_bucket(path, partition, num_buckets=num_partitions, dtype=_KEY) for path in files.paths(".keys")]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=_KEY)


def _same_vectors(earlier: PoolFiles, pool: PoolFiles, moved: Rows) -> bool:
    """Whether images that both have are described alike, seen on some of them."""
    rows = np.flatnonzero(moved >= 0)
    rows = rows[:: max(1, len(rows) // _COMPARED_ROWS)]
    if len(rows) == 0:
        return True
    before = take_vectors(earlier.span(0, earlier.num_rows), rows)
    order = np.argsort(moved[rows])
    now = take_vectors(pool.span(0, pool.num_rows), moved[rows][order])
    return bool(before.shape == now.shape and np.array_equal(before[order], now))


def _doubtful(graph: Manifest, moved: Rows, neighbours: int) -> npt.NDArray[np.bool_]:
    """Earlier rows whose pairs the earlier graph may lack: saturated, in a component that is not whole any more."""
    gone = moved < 0
    reordered = bool((np.diff(moved[~gone]) < 0).any())
    if not gone.any() and not reordered:
        return gone
    forest, degrees = Components(len(moved)), np.zeros(len(moved), dtype=np.int32)
    for edges in graph_edges(graph, float(graph.facts["threshold"])):
        forest.add(edges.left, edges.right)
        for rows in (edges.left, edges.right):
            np.add.at(degrees, rows, 1)
    labels = forest.labels()
    broken = np.full(len(moved), reordered)
    broken[labels[gone]] = True
    return np.asarray((degrees >= neighbours) & broken[labels])


def known_pairs(stage: Stage, base: Base, known: Known, *, ranges: Ranges, threshold: float) -> Files:
    """The earlier graph's pairs of known images, by their rows now."""
    moved = stage.path("scratch-moved.npy")
    save_array(moved, known.moved)
    plain: dict[str, Any] = {"moved": moved, "ranges": ranges, "threshold": threshold}
    key = {"base": base.graph.reference}
    return scratch_map(stage, "known", move_pairs, edge_paths(base.graph), **plain, **key)[1]


def move_pairs(path: str, out: str, *, moved: str, ranges: Ranges, threshold: float, base: str) -> Outcome:
    """The pairs of one of the earlier graph's files (of the graph `base`) whose images are both known."""
    rows_now = np.asarray(load_array(moved))
    pairs = join_blocks(list(_moved(read_edges([path], threshold=threshold), rows_now)))
    return whole(0, [write_pairs(f"{out}.pairs", pairs, ranges)])


def _moved(blocks: Iterator[Edges], rows_now: Rows) -> Iterator[Edges]:
    for edges in blocks:
        left, right = rows_now[edges.left], rows_now[edges.right]
        known = (left >= 0) & (right >= 0)
        left, right = left[known], right[known]
        yield Edges(np.minimum(left, right), np.maximum(left, right), edges.similarity[known])
