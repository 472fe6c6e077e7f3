"""From the pairs that tasks found to the graph's files: pairs meet again by ranges of rows, and are bounded there.

Every task that finds pairs writes them twice, under the range of their left and of their right row. Then, per range:
1. rank: with all pairs of its rows at hand, where the edges of rows with too many of them end (`find_cuts`);
2. spare: the pairs that neither end keeps, thinned to a forest;  3. edges: the pairs that one end keeps -> a file.
The forest of all spare pairs is the last file. The result depends on the pairs alone, not on how they came.

Disk: 40 bytes per pair found. Memory of a task: 100 bytes per pair of its range and 20 per image with too many pairs
anywhere; of the last step 80 bytes per such image. Without such images, steps 2 and the last have nothing to do.
1.2 billion images: 573 ranges of 2**21 rows, three tasks each, which read one range of every task's file.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage.manifest import FileEntry
from tasks.algorithms.blocks import Rows
from tasks.algorithms.edge_limit import (
    Cuts,
    ForestBuilder,
    among_first,
    by_rows,
    find_cuts,
    join_blocks,
    spanning_forest,
    split,
)
from tasks.algorithms.self_join import Edges
from tasks.graph.edges import PREFIX
from tasks.graph.files import write_edges
from tasks.graph.scratch import (
    Files,
    load_array,
    read_bucket,
    save_array,
    scratch_map,
    whole,
    write_buckets,
)
from tasks.stage import Outcome, Stage

_PAIR = np.dtype([("left", "<i8"), ("right", "<i8"), ("similarity", "<f4")])
_CUT = np.dtype([("row", "<i8"), ("other", "<i8"), ("similarity", "<f4")])


class Ranges(NamedTuple):
    """The rows of a pool in ranges of `rows` rows."""

    num_rows: int
    rows: int

    @property
    def num(self) -> int:
        """Number of ranges."""
        return max(1, -(-self.num_rows // self.rows))

    def parts(self) -> list[tuple[int, int, int]]:
        """(number, first row, last row) of each."""
        return [(n, n * self.rows, min((n + 1) * self.rows, self.num_rows)) for n in range(self.num)]


class Limited(NamedTuple):
    """The finished edge files, how many rows have more than `neighbours` pairs, and the sampled rows' edges."""

    outcomes: list[Outcome]
    files: list[FileEntry]
    num_saturated: int
    found: npt.NDArray[Any]
    """Of the sampled rows the edges they keep themselves: row, other, similarity."""


def write_pairs(path: str, pairs: Edges, ranges: Ranges) -> FileEntry:
    """Pairs of pool rows (left < right) for `limit_pairs`: by the range of the left row, then by that of the right."""
    records = _records(_PAIR, pairs.left, pairs.right, pairs.similarity)
    sections = [np.asarray(rows // ranges.rows) for rows in (pairs.left, pairs.right)]
    sizes = np.concatenate([np.bincount(section, minlength=ranges.num) for section in sections])
    blocks = (records[np.argsort(section, kind="stable")] for section in sections)
    return write_buckets(path, sizes, blocks)


def _records(dtype: np.dtype[Any], *columns: npt.NDArray[Any]) -> npt.NDArray[Any]:
    records = np.empty(len(columns[0]), dtype=dtype)
    for name, column in zip(dtype.names or (), columns, strict=True):
        records[name] = column
    return records


def limit_pairs(
    stage: Stage, sources: Sequence[Files], ranges: Ranges, *, neighbours: int, sampled: Sequence[int]
) -> Limited:
    """The bounded graph of the pairs in `sources` (files of `write_pairs`; a pair may be there more than once)."""
    plain: dict[str, Any] = {"sources": list(sources), "ranges": ranges}
    ranked, files = scratch_map(
        stage, "rank", rank_range, ranges.parts(), neighbours=neighbours, sampled=sampled, **plain
    )
    num_saturated = sum(outcome.facts["saturated"] for outcome in ranked)
    found = np.concatenate([load_array(path) for path in files.paths(".found.npy")])
    if not num_saturated:
        return Limited(stage.map(keep_range, ranges.parts(), prefix=PREFIX[:-1], cuts=None, **plain), [], 0, found)
    cuts = f"{files.prefix}-cuts.npy"
    save_array(cuts, np.concatenate([load_array(path) for path in files.paths(".cuts.npy")]))
    _, spare = scratch_map(stage, "spare", spare_range, ranges.parts(), cuts=cuts, **plain)
    outcomes = stage.map(keep_range, ranges.parts(), prefix=PREFIX[:-1], cuts=cuts, **plain)
    forest = ForestBuilder()
    for path in spare.paths(".npy"):
        forest.add(_edges(load_array(path)))
    last = write_edges(stage.path(f"{PREFIX}{ranges.num:05d}.parquet"), [forest.result()])
    return Limited(outcomes, [last], num_saturated, found)


def rank_range(
    part: tuple[int, int, int],
    out: str,
    *,
    sources: Sequence[Files],
    ranges: Ranges,
    neighbours: int,
    sampled: Sequence[int],
) -> Outcome:
    """The cuts of the rows of one range, and the edges that its sampled rows keep."""
    number, first, last = part
    pairs = by_rows(join_blocks([_pairs(sources, ranges, bucket) for bucket in (number, ranges.num + number)]))
    cuts = find_cuts(pairs, neighbours=neighbours, first_row=first, last_row=last)
    entries = [
        save_array(f"{out}.cuts.npy", _records(_CUT, cuts.rows, cuts.others, cuts.similarity)),
        save_array(f"{out}.found.npy", _kept_by(pairs, cuts, np.array(sampled, np.int64), first, last)),
    ]
    return whole(last - first, entries, saturated=len(cuts.rows))


def _kept_by(pairs: Edges, cuts: Cuts, sampled: Rows, first: int, last: int) -> npt.NDArray[Any]:
    wanted = sampled[(sampled >= first) & (sampled < last)]
    blocks = []
    for rows, others in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
        mine = np.isin(rows, wanted)
        mine[mine] = among_first(cuts, rows[mine], others[mine], pairs.similarity[mine])
        blocks.append(_records(_CUT, rows[mine], others[mine], pairs.similarity[mine]))
    return np.concatenate(blocks)


def spare_range(
    part: tuple[int, int, int], out: str, *, sources: Sequence[Files], ranges: Ranges, cuts: str
) -> Outcome:
    """The forest of the pairs of one range (by their left row) that neither end keeps."""
    _, over = split(by_rows(_pairs(sources, ranges, part[0])), _cuts(cuts))
    forest = spanning_forest(over)
    return whole(0, [save_array(f"{out}.npy", _records(_PAIR, *forest))])


def keep_range(
    part: tuple[int, int, int], out: str, *, sources: Sequence[Files], ranges: Ranges, cuts: str | None
) -> Outcome:
    """The edges of one range (by their left row) that one of their ends keeps, as a file of the graph."""
    number, first, last = part
    pairs = by_rows(_pairs(sources, ranges, number))
    first_edges = pairs if cuts is None else split(pairs, _cuts(cuts))[0]
    return whole(last - first, [write_edges(f"{out}.parquet", [first_edges])])


def _pairs(sources: Sequence[Files], ranges: Ranges, bucket: int) -> Edges:
    blocks = [
        _edges(read_bucket(path, bucket, num_buckets=2 * ranges.num, dtype=_PAIR))
        for files in sources
        for path in files.paths(".pairs")
    ]
    return join_blocks(blocks)


def _edges(records: npt.NDArray[Any]) -> Edges:
    left, right, similarity = (np.ascontiguousarray(records[name]) for name in ("left", "right", "similarity"))
    return Edges(left, right, similarity)


def _cuts(path: str) -> Cuts:
    records = load_array(path)
    return Cuts(*(np.ascontiguousarray(records[name]) for name in ("row", "similarity", "other")))
