"""Connected components from disk, beside scipy's: time from the first byte read to the labels, and peak memory.

python -m bench.components [--sizes 2500000,5000000,10000000,20000000] [--repeats 3] [--folder /tmp]

Two graphs of 5 edges per node. `random`: pairs at random, which is one giant component and the worst case for the
caches. `copies`: scattered groups of 16 images, as a copy graph has them. Each as Parquet (the copy graph's files, in
the copy graph's order) and raw (int64 pairs in random order). Every run is a process of its own; labels are compared.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bench.measure import machine, peak_megabytes, save
from tasks.algorithms.components import Components, components_of
from tasks.algorithms.self_join import Edges
from tasks.graph.files import read_edges, write_edges

EDGES_PER_NODE = 5
GROUP = 16
NUM_FILES = 8
_RAW_PAIRS = 1 << 20
Labels = npt.NDArray[np.integer]


def random_pairs(num_nodes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ends of edges at random, the smaller first."""
    ends = np.random.default_rng(0).integers(0, num_nodes, size=(2, num_nodes * EDGES_PER_NODE))
    return np.minimum(*ends), np.maximum(*ends)


def copy_pairs(num_nodes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ends of edges inside groups of 16 nodes that lie anywhere."""
    random = np.random.default_rng(0)
    place = random.permutation(num_nodes)
    one = random.integers(0, num_nodes // GROUP * GROUP, size=num_nodes * EDGES_PER_NODE)
    other = one // GROUP * GROUP + random.integers(0, GROUP, size=len(one))
    return np.minimum(place[one], place[other]), np.maximum(place[one], place[other])


def write_graph(kind: str, num_nodes: int, folder: Path) -> None:
    """The graph as edges-*.parquet and as edges.raw."""
    left, right = {"random": random_pairs, "copies": copy_pairs}[kind](num_nodes)
    with (folder / "edges.raw").open("wb") as file:
        for start in range(0, len(left), _RAW_PAIRS):
            here = slice(start, start + _RAW_PAIRS)
            file.write(np.stack([left[here], right[here]], axis=1).tobytes())
    similarity = np.random.default_rng(1).random(len(left), dtype=np.float32)
    for number, rows in enumerate(np.array_split(np.arange(len(left)), NUM_FILES)):
        rows = rows[np.lexsort((right[rows], left[rows]))]
        write_edges(str(folder / f"edges-{number:05d}.parquet"), [Edges(left[rows], right[rows], similarity[rows])])


def ours_parquet(folder: Path, num_nodes: int) -> Labels:
    """The union-find on the copy graph's files."""
    edges = read_edges(sorted(str(path) for path in folder.glob("*.parquet")))
    return components_of(num_nodes, ((block.left, block.right) for block in edges))


def ours_raw(folder: Path, num_nodes: int) -> Labels:
    """The union-find on raw pairs."""

    def pairs() -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        with (folder / "edges.raw").open("rb") as file:
            while len(block := np.fromfile(file, dtype=np.int64, count=2 * _RAW_PAIRS)):
                yield block[0::2], block[1::2]

    return components_of(num_nodes, pairs())


def scipy_parquet(folder: Path, num_nodes: int) -> Labels:
    """scipy on the same files, read at once by all cores, rows in 4 bytes and weights in one."""
    table = pa.concat_tables(
        [pq.read_table(path, columns=["left", "right"]) for path in sorted(folder.glob("*.parquet"))]
    )
    ends = [table[name].to_numpy().astype(np.int32) for name in ("left", "right")]
    del table
    return _scipy(ends[0], ends[1], num_nodes)


def scipy_raw(folder: Path, num_nodes: int) -> Labels:
    """scipy on raw pairs."""
    pairs = np.fromfile(folder / "edges.raw", dtype=np.int64).reshape(-1, 2).astype(np.int32)
    return _scipy(pairs[:, 0], pairs[:, 1], num_nodes)


def _scipy(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32], num_nodes: int) -> Labels:
    weights = np.ones(len(left), dtype=np.int8)
    graph = coo_matrix((weights, (left, right)), shape=(num_nodes, num_nodes)).tocsr()
    return np.asarray(connected_components(graph, directed=False)[1])


METHODS: dict[str, Callable[[Path, int], Labels]] = {
    "ours_parquet": ours_parquet,
    "scipy_parquet": scipy_parquet,
    "ours_raw": ours_raw,
    "scipy_raw": scipy_raw,
}


def timed(method: str, folder: Path, num_nodes: int) -> tuple[float, Labels]:
    """(seconds, labels); the union-find's machine code is loaded before."""
    Components(2).add(np.array([0]), np.array([1]))
    started = time.perf_counter()
    labels = METHODS[method](folder, num_nodes)
    return time.perf_counter() - started, labels


def profile(folder: Path, num_nodes: int) -> dict[str, float]:
    """Where the seconds go: edges read and not used; edges in memory joined, in order and in random order."""
    Components(2).add(np.array([0]), np.array([1]))
    paths = sorted(str(path) for path in folder.glob("*.parquet"))
    started = time.perf_counter()
    blocks = [(block.left, block.right) for block in read_edges(paths)]
    read = time.perf_counter() - started
    started = time.perf_counter()
    components_of(num_nodes, blocks)
    joined = time.perf_counter() - started
    pairs = np.fromfile(folder / "edges.raw", dtype=np.int64).reshape(-1, 2)
    ends = [np.ascontiguousarray(pairs[:, side]) for side in (0, 1)]
    started = time.perf_counter()
    components_of(num_nodes, [(ends[0], ends[1])])
    return {
        "read": round(read, 3),
        "join_sorted": round(joined, 3),
        "join_shuffled": round(time.perf_counter() - started, 3),
    }


def partition(labels: Labels) -> str:
    """Equal for equal partitions, however they are numbered: of every node's smallest companion."""
    smallest = np.empty(int(labels.max()) + 1, dtype=np.int64)
    smallest[labels[::-1]] = np.arange(len(labels) - 1, -1, -1)
    return hashlib.sha256(smallest[labels].tobytes()).hexdigest()[:16]


def measure(kind: str, num_nodes: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Medians of seconds and peaks of every method on one graph, taken in turns."""
    write_graph(kind, num_nodes, folder)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    megabytes: dict[str, list[float]] = {name: [] for name in METHODS}
    found = set()
    for _ in range(repeats):
        for name in METHODS:
            (elapsed, labels), peak = peak_megabytes(timed, name, folder, num_nodes)
            seconds[name].append(elapsed)
            megabytes[name].append(peak)
            found.add((partition(labels), len(np.unique(labels))))
    if len(found) != 1:
        raise AssertionError(f"{kind}, {num_nodes} nodes: the methods disagree: {sorted(found)}")
    result: dict[str, Any] = {"graph": kind, "nodes": num_nodes, "edges": num_nodes * EDGES_PER_NODE}
    result["components"] = next(iter(found))[1]
    for name in METHODS:
        result[name] = {
            "seconds": round(statistics.median(seconds[name]), 3),
            "all_seconds": [round(value, 3) for value in seconds[name]],
            "peak_mb": round(statistics.median(megabytes[name]), 1),
        }
    result["profile_seconds"] = peak_megabytes(profile, folder, num_nodes)[0]
    for source in ("parquet", "raw"):
        ours, peer = result[f"ours_{source}"], result[f"scipy_{source}"]
        result[f"speedup_{source}"] = round(peer["seconds"] / ours["seconds"], 2)
        result[f"memory_share_{source}"] = round(ours["peak_mb"] / peer["peak_mb"], 3)
    return result


def main() -> None:
    """Measure, print a table, write bench/results/components.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="2500000,5000000,10000000,20000000", help="nodes; edges are 5 times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where the edges are written (2.3 GB at 20 million nodes)")
    arguments = parser.parse_args()
    content = {"machine": machine(), "command": "python -m bench.components"}
    rows: list[dict[str, Any]] = []
    print(
        f"{'graph':8}{'nodes':>10}{'source':>9}{'ours s':>9}{'scipy s':>9}{'speedup':>9}{'ours MB':>9}{'scipy MB':>10}"
    )
    for num_nodes in (int(size) for size in arguments.sizes.split(",")):
        for kind in ("random", "copies"):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                row = measure(kind, num_nodes, Path(folder), arguments.repeats)
            rows.append(row)
            for source in ("parquet", "raw"):
                ours, peer = row[f"ours_{source}"], row[f"scipy_{source}"]
                print(
                    f"{kind:8}{num_nodes:>10,}{source:>9}{ours['seconds']:>9.2f}{peer['seconds']:>9.2f}"
                    f"{row[f'speedup_{source}']:>9.2f}{ours['peak_mb']:>9.0f}{peer['peak_mb']:>10.0f}",
                    flush=True,
                )
            print(f"        of ours: {row['profile_seconds']}", flush=True)
            save("components", content | {"results": rows})  # after each: the last ones take minutes


if __name__ == "__main__":
    main()
