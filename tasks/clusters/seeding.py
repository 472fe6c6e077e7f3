"""k-means|| over many workers: each operation of `kmeans_seeding.SeedPasses` as one task per group of rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats
from tasks.algorithms.kmeans_nearest import Precision
from tasks.algorithms.kmeans_seeding import Near, Rows, SeedShard
from tasks.clusters.points import Group, part_keys, read_array, write_array, write_blocks
from tasks.graph.scratch import Files, scratch_map
from tasks.stage import Outcome, Stage


@dataclass(frozen=True)
class Compute:
    """Seed, and what may change the speed: the precision of products and the device."""

    seed: int
    precision: Precision = "auto"
    device: str = "cpu"


def sample_rows(group: Group, out: str, *, kind: str, threshold: int, seed: int) -> Outcome:
    """The rows with keys up to `threshold`, with their keys. Memory: 8 bytes per row of the group, and a part."""
    keys = [part_keys(part, seed=seed) for part in group]
    rows = [np.flatnonzero(mine <= np.uint64(threshold)) for mine in keys]
    shape, dtype = _joint_shape(group)
    num = sum(map(len, rows))
    blocks = (read_array(part[0])[mine] for part, mine in zip(group, rows, strict=True) if len(mine))
    chosen = np.concatenate([mine[which] for mine, which in zip(keys, rows, strict=True)])
    files = [
        write_blocks(f"{out}-{kind}.npy", (num, shape[1]), dtype, blocks),
        write_array(f"{out}-{kind}-keys.npy", chosen),
    ]
    return Outcome(shape[0], num, {}, files)


def _joint_shape(group: Group) -> tuple[tuple[int, int], np.dtype[Any]]:
    arrays = [read_array(part[0]) for part in group]
    filled = [array for array in arrays if len(array)] or arrays
    return (sum(map(len, arrays)), filled[0].shape[1]), filled[0].dtype


class SeedTasks:
    """The rows that seeding looks at, in the files that `sample_rows` left (`SeedPasses` over the cluster)."""

    def __init__(self, stage: Stage, prefix: str, rows: Files, compute: Compute) -> None:
        self.stage, self.prefix, self.rows, self.compute = stage, prefix, rows, compute
        self.near: Files | None = None
        self.seen = 0

    def first(self) -> Rows:
        rows = _joined(self._map("first", find_first)[1])
        return rows.at(np.argsort(rows.keys, kind="stable")[:1])

    def lower(self, added: Floats, offset: int) -> int:
        path = self.stage.path(f"scratch-{self.prefix}-added-{self.seen}.npy")
        write_array(path, added)
        self.seen += 1
        outcomes, self.near = self._map("near", find_near, added=path, offset=offset)
        return sum(int(outcome.facts["total"]) for outcome in outcomes)

    def choose(self, expected: float, total: int, turn: int) -> Rows:
        return _joined(self._map("chosen", find_chosen, expected=expected, total=total, turn=turn)[1])

    def weights(self, num_candidates: int) -> npt.NDArray[np.int64]:
        weights = np.zeros(num_candidates, dtype=np.int64)
        for path in self._map("weights", find_weights, num=num_candidates)[1].paths("-weights.npy"):
            weights += read_array(path)
        return weights

    def farthest(self, num: int) -> Rows:
        return _joined(self._map("farthest", find_farthest, num=num)[1]).farthest(num)

    def _map(self, name: str, function: Callable[..., Outcome], **plain: Any) -> tuple[list[Outcome], Files]:
        vectors, keys = self.rows.paths("-seeds.npy"), self.rows.paths("-seeds-keys.npy")
        near: Sequence[str | None] = self.near.paths(".npy") if self.near else [None] * len(keys)
        parts = [list(part) for part in zip(vectors, keys, near, strict=True)]
        compute = [self.compute.seed, self.compute.precision, self.compute.device]
        return scratch_map(self.stage, f"{self.prefix}-{name}", function, parts, compute=compute, **plain)


def _shard(part: list[str], compute: list[Any]) -> SeedShard:
    vectors, keys, state = part
    seed, precision, device = compute
    shard = SeedShard(read_array(vectors), np.array(read_array(keys)), seed=seed, precision=precision, device=device)
    if state is not None:
        saved = np.array(read_array(state))
        shard.near = Near(np.ascontiguousarray(saved["distance"]), np.ascontiguousarray(saved["owner"]))
    return shard


_NEAR = np.dtype([("distance", np.float32), ("owner", np.int32)])


def find_first(part: list[str], out: str, *, compute: list[Any]) -> Outcome:
    """The row with the smallest key."""
    return _rows_outcome(out, _shard(part, compute).first())


def find_near(part: list[str], out: str, *, compute: list[Any], added: str, offset: int) -> Outcome:
    """What is near each row once the added candidates count too; the total of the distances."""
    shard = _shard(part, compute)
    total = shard.lower(np.array(read_array(added)), offset)
    saved = np.empty(len(shard.keys), dtype=_NEAR)
    saved["distance"], saved["owner"] = shard.near
    return Outcome(len(saved), len(saved), {}, [write_array(f"{out}.npy", saved)], {"total": total})


def find_chosen(part: list[str], out: str, *, compute: list[Any], expected: float, total: int, turn: int) -> Outcome:
    """The rows that the dice choose as candidates."""
    return _rows_outcome(out, _shard(part, compute).choose(expected, total, turn))


def find_weights(part: list[str], out: str, *, compute: list[Any], num: int) -> Outcome:
    """How many rows each candidate stands for."""
    weights = _shard(part, compute).weights(num)
    return Outcome(num, num, {}, [write_array(f"{out}-weights.npy", weights)])


def find_farthest(part: list[str], out: str, *, compute: list[Any], num: int) -> Outcome:
    """The rows farthest from any candidate."""
    return _rows_outcome(out, _shard(part, compute).farthest(num))


def _rows_outcome(out: str, rows: Rows) -> Outcome:
    files = [write_array(f"{out}-{name}.npy", array) for name, array in rows._asdict().items()]
    return Outcome(len(rows.keys), len(rows.keys), {}, files)


def _joined(files: Files) -> Rows:
    columns = [[np.asarray(read_array(path)) for path in files.paths(f"-{name}.npy")] for name in Rows._fields]
    return Rows.joined([Rows(*shard) for shard in zip(*columns, strict=True)])
