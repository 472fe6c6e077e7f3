"""The pairs of pool and benchmark nearest to the threshold, on both sides of it: for people to look at."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.filesystem import join
from storage.manifest import FileEntry, Manifest
from storage.tables import kept, read_table, write_table
from tasks.algorithms.self_join import Edges
from tasks.graph.files import merge, select

BORDERLINE = "borderline.parquet"
SCHEMA = pa.schema(
    [
        pa.field("benchmark", pa.string()),  # source/split
        pa.field("image", pa.string()),  # id in the pool
        pa.field("reference", pa.string()),  # id in the benchmark
        pa.field("similarity", pa.float32()),
        pa.field("above", pa.bool_()),  # linked, hence dropped
    ]
)


class Borderline:
    """For each benchmark and side of the threshold the `count` nearest pairs (of equals the smaller rows), whatever
    order they come in. Memory: 60 bytes for each of them."""

    def __init__(self, threshold: float, count: int, num_names: int) -> None:
        self.threshold, self.count = threshold, count
        self.nearest = [[merge([]), merge([])] for _ in range(num_names)]

    def add(self, pairs: Edges, name_of: npt.NDArray[np.int32]) -> None:
        """More pairs; `name_of` [references] says which benchmark a pair's right end belongs to."""
        names = name_of[pairs.right]
        for name in np.unique(names):
            mine = select(pairs, names == name)
            above = mine.similarity > self.threshold
            for side, which in enumerate((above, ~above)):
                self.nearest[name][side] = self._cut(merge([self.nearest[name][side], select(mine, which)]))

    def _cut(self, pairs: Edges) -> Edges:
        distance = np.abs(pairs.similarity.astype(np.float64) - self.threshold)
        return select(pairs, np.lexsort((pairs.right, pairs.left, distance))[: self.count])

    def counts(self) -> list[tuple[int, int]]:
        """(above, below) of each benchmark."""
        return [(len(above.left), len(below.left)) for above, below in self.nearest]


def write_borderline(
    path: str, borderline: Borderline, described: Manifest, reference_ids: npt.NDArray[np.bytes_], names: Sequence[str]
) -> FileEntry:
    """The table: by benchmark, from the most similar pair to the least."""
    rows = [pairs.left for sides in borderline.nearest for pairs in sides]
    ids = pool_ids(described, np.unique(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64))
    tables = []
    for name, (above, below) in zip(names, borderline.nearest, strict=True):
        pairs = merge([above, below])
        pairs = select(pairs, np.lexsort((pairs.right, pairs.left, -pairs.similarity)))
        columns = {
            "benchmark": [name] * len(pairs.left),
            "image": [ids[row] for row in pairs.left.tolist()],
            "reference": [reference_ids[row].decode() for row in pairs.right.tolist()],
            "similarity": pairs.similarity,
            "above": pairs.similarity > borderline.threshold,
        }
        tables.append(pa.table(columns, schema=SCHEMA))
    return write_table(path, pa.concat_tables([SCHEMA.empty_table(), *tables]))


def pool_ids(described: Manifest, rows: npt.NDArray[np.int64]) -> dict[int, str]:
    """Ids of some rows of the pool, increasing; only the parts that hold one are read."""
    entries = [entry for entry in described.files if entry.path.startswith("part-") and entry.path.endswith(".npy")]
    found: dict[int, str] = {}
    start = 0
    for entry in entries:
        mine = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + entry.rows)]
        if len(mine):
            table = join(described.directory, entry.path.removesuffix(".npy") + ".parquet")
            ids = kept(read_table(table, ["drop", "id"]))["id"]
            found |= {int(row): ids[int(row) - start].as_py() for row in mine}
        start += entry.rows
    return found
