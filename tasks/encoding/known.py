"""Vectors that an earlier run's stage has already, for rows whose id and bytes (sha256) have not changed.

Found in an index on disk: (128-bit key of id and sha256, part, row), sorted, cut into buckets by the key. It is a sort
in two passes over the cluster: runs of about two million rows, then one bucket each from all runs. State: 24 bytes per
image of the earlier run on disk (29 GB at 1.2 billion), removed when the stage ends; memory: one run or bucket (50 MB)
per worker; a look-up of n rows reads n places of it.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystem import file_sha256, join, link_or_copy
from storage.manifest import FileEntry, Manifest
from storage.tables import read_table
from storage.vectors import read_array, write_array
from tasks.algorithms.sampling import id_keys
from tasks.pool import Verdicts
from tasks.stage import Outcome, Stage

INDEX_PREFIXES = ("run", "bucket")
_RUN_ROWS = 2_000_000
_ROW_BITS = 32
Places = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


class IncompatibleBase(ValueError):
    """An earlier stage was given to take vectors from that are not what this one would compute."""


@dataclass(frozen=True)
class KnownVectors:
    """An earlier stage's folder, and the index of its rows: <index>-00000.npy and so on."""

    directory: str
    index: str
    num_buckets: int

    def find(self, table: pa.Table) -> Places:
        """For every row its place (part << 32 | row of the part's table) in the earlier stage; -1 when it has none."""
        high, low, usable = row_keys(table)
        places = np.full(len(table), -1, dtype=np.int64)
        buckets = high >> np.uint64(64 - _bits(self.num_buckets)) if self.num_buckets > 1 else np.zeros_like(high)
        for bucket in np.unique(buckets[usable]).tolist():
            rows = np.flatnonzero(usable & (buckets == bucket))
            index = read_array(f"{self.index}-{bucket:05d}.npy")
            if index.shape[1]:
                at = np.minimum(np.searchsorted(index[0], high[rows]), index.shape[1] - 1)
                same = (index[0][at] == high[rows]) & (index[1][at] == low[rows])
                places[rows[same]] = index[2][at[same]].astype(np.int64)
        return places

    def take(self, places: Places, vectors: npt.NDArray[np.floating], verdicts: Verdicts) -> None:
        """Fill in vectors [rows, dim] and verdicts of the rows that have a place."""
        parts = places >> _ROW_BITS
        for part in np.unique(parts[places >= 0]).tolist():
            here = np.flatnonzero(parts == part)
            rows = places[here] & ((1 << _ROW_BITS) - 1)
            judged = read_table(f"{self._part(part)}.parquet", ["drop", "detail"])
            drop, detail = (np.array(judged[name].to_pylist(), dtype=object) for name in ("drop", "detail"))
            stays = judged["drop"].is_null().to_numpy()
            verdicts.drop[here], verdicts.detail[here] = drop[rows], detail[rows]
            matrix_row = np.cumsum(stays) - 1
            left = stays[rows]
            vectors[here[left]] = read_array(f"{self._part(part)}.npy")[matrix_row[rows[left]]]

    def whole_part(self, places: Places) -> str | None:
        """The earlier part (path without suffix) whose rows these are, all of them and in its order; else None."""
        if len(places) == 0 or places[0] < 0:
            return None
        path = self._part(int(places[0]) >> _ROW_BITS)
        expected = (places[0] >> _ROW_BITS << _ROW_BITS) + np.arange(len(places))
        if not np.array_equal(places, expected) or read_table(f"{path}.parquet", ["drop"]).num_rows != len(places):
            return None
        return path

    def dim(self, places: Places) -> int:
        """Length of the vectors there. At least one row must have a place."""
        part = int(places[places >= 0][0]) >> _ROW_BITS
        return int(read_array(f"{self._part(part)}.npy").shape[1])

    def _part(self, number: int) -> str:
        return join(self.directory, f"part-{number:05d}")


def adopt_vectors(part: str, out: str) -> FileEntry:
    """The matrix of an earlier part as one of this stage: a hard link where that can be."""
    link_or_copy(f"{part}.npy", f"{out}.npy")
    size, digest = file_sha256(f"{out}.npy")
    return FileEntry(f"{posixpath.basename(out)}.npy", len(read_array(f"{out}.npy")), size, digest)


def index_vectors(stage: Stage, base: Manifest) -> KnownVectors:
    """The index of an earlier stage's rows, as files INDEX_PREFIXES-... of `stage`: remove them when it is done."""
    entries = [entry for entry in base.files if entry.path.startswith("part-") and entry.path.endswith(".parquet")]
    groups, held = [[base.directory]], 0
    for entry in entries:
        if held + entry.rows > _RUN_ROWS and held:
            groups, held = [*groups, [base.directory]], 0
        groups[-1].append(entry.path)
        held += entry.rows
    num_buckets = 1 << _bits(-(-sum(entry.rows for entry in entries) // _RUN_ROWS))
    run, bucket = INDEX_PREFIXES
    stage.map(write_run, groups, prefix=run)
    plain = {"runs": stage.path(run), "num_runs": len(groups), "num_buckets": num_buckets}
    stage.map(write_bucket, range(num_buckets), prefix=bucket, **plain)
    return KnownVectors(base.directory, stage.path(bucket), num_buckets)


def write_run(group: Sequence[str], out: str) -> Outcome:
    """Keys and places of some parts' rows, sorted: [3, rows] uint64 (key's halves, place). `group`: folder, names."""
    directory, *names = group
    found = []
    for name in names:
        number = int(name.removeprefix("part-").removesuffix(".parquet"))
        table = read_table(join(directory, name), ["id", "sha256"])
        high, low, usable = row_keys(table)
        places = (np.uint64(number) << np.uint64(_ROW_BITS)) + np.arange(len(table), dtype=np.uint64)
        found.append(np.stack([high, low, places])[:, usable])
    return _write_sorted(out, found)


def write_bucket(bucket: int, out: str, *, runs: str, num_runs: int, num_buckets: int) -> Outcome:
    """One bucket of all runs' rows, sorted."""
    width = 2**64 // num_buckets
    found = []
    for number in range(num_runs):
        run = read_array(f"{runs}-{number:05d}.npy")
        first = np.searchsorted(run[0], np.uint64(bucket * width))
        last = np.searchsorted(run[0], np.uint64((bucket + 1) * width)) if bucket + 1 < num_buckets else run.shape[1]
        found.append(run[:, first:last])
    return _write_sorted(out, found)


def _write_sorted(out: str, found: Sequence[Keys]) -> Outcome:
    rows = np.concatenate(found, axis=1) if found else np.zeros((3, 0), dtype=np.uint64)
    rows = rows[:, np.lexsort((rows[1], rows[0]))]
    return Outcome(rows.shape[1], rows.shape[1], files=[write_array(f"{out}.npy", rows)])


def row_keys(table: pa.Table) -> tuple[Keys, Keys, npt.NDArray[np.bool_]]:
    """(halves of a 128-bit key of id and sha256, whether the row has both)."""
    usable = np.asarray(pc.and_(pc.is_valid(table["id"]), pc.is_valid(table["sha256"])))
    columns = [table[name].fill_null("") for name in ("id", "sha256")]
    text = pc.binary_join_element_wise(*columns, "/").to_pylist()
    return id_keys(text, seed=1), id_keys(text, seed=2), usable


def _bits(count: int) -> int:
    """Smallest b with 2**b >= count."""
    return max(0, count - 1).bit_length()
