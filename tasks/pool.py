"""The kept rows of a manifest with their vectors, as arrays: what the stages read that look at all images at once.

Memory: 24 bytes per row for the ids, 8 per row for every number asked for; the vectors stay on disk.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.manifest import Manifest
from storage.records import VERDICT_FIELDS
from storage.tables import count_drops, kept, read_table, write_table
from storage.vectors import Vectors
from tasks.stage import Outcome, Stage

_VERDICT = {field.name: field.type for field in VERDICT_FIELDS if field.name != "id"}


class NoImages(ValueError):
    """A stage that compares images was given none."""


@dataclass(frozen=True)
class Pool:
    """Kept rows of all parts, in order: row r of `vectors` belongs to `ids[r]`. Raises NoImages when there are none."""

    manifest: Manifest

    def __post_init__(self) -> None:
        if self.manifest.rows_kept == 0:
            raise NoImages(
                f"no image is left of stage {self.manifest.stage} in {self.manifest.directory}: its drops are "
                f"{dict(self.manifest.drops)}. Give it more images or loosen the stages before."
            )

    @cached_property
    def vectors(self) -> Vectors:
        """[rows, dim] float16 on disk."""
        return Vectors.of(self.manifest)

    @cached_property
    def ids(self) -> npt.NDArray[np.bytes_]:
        """The id of every row, as bytes."""
        return np.asarray(self.strings("id"), dtype=np.bytes_)

    def numbers(self, name: str) -> npt.NDArray[np.int64]:
        """An integer column; missing values are 0."""
        parts = [np.asarray(table[name].fill_null(0).to_numpy(), dtype=np.int64) for table in self._tables(name)]
        return np.concatenate(parts)

    def strings(self, name: str) -> list[str]:
        """A column of strings; missing values are empty."""
        return [value or "" for table in self._tables(name) for value in table[name].to_pylist()]

    def _tables(self, *names: str) -> list[pa.Table]:
        return [kept(read_table(path, ["drop", *names])) for path in self.manifest.paths(".parquet")]


@dataclass(frozen=True)
class Verdicts:
    """A verdict for each row of a pool: what is null means nothing to say. `more` holds further columns."""

    drop: npt.NDArray[np.object_]
    detail: npt.NDArray[np.object_]
    value: npt.NDArray[np.float32]
    other: npt.NDArray[np.object_]

    @classmethod
    def keep(cls, num_rows: int) -> "Verdicts":
        """All rows kept, without a word; fill in the others."""
        empty = [np.full(num_rows, None, dtype=object) for _ in range(3)]
        return cls(empty[0], empty[1], np.full(num_rows, np.nan, dtype=np.float32), empty[2])


def write_verdicts(
    stage: Stage, tables: Manifest, verdicts: Verdicts, judged: Callable[[pa.Table], pa.Table] = kept
) -> list[Outcome]:
    """One table per part of `tables`: the rows that `judged` leaves of it, with the new verdicts for the old."""
    outcomes, start = [], 0
    for number, path in enumerate(tables.paths(".parquet")):
        rows = judged(read_table(path))
        written = with_verdicts(rows, verdicts, start)
        drops = count_drops(written)
        entry = write_table(stage.path(f"part-{number:05d}.parquet"), written)
        outcomes.append(Outcome(len(rows), len(rows) - sum(drops.values()), drops, [entry]))
        start += len(rows)
    if start != len(verdicts.drop):
        raise ValueError(f"{len(verdicts.drop)} verdicts for {start} rows of {tables.directory}")
    return outcomes


def with_verdicts(rows: pa.Table, verdicts: Verdicts, start: int = 0) -> pa.Table:
    """`rows` with verdicts[start:] in place of the verdict they came with; NaN becomes null."""
    here = slice(start, start + len(rows))
    columns: dict[str, Any] = {
        "drop": verdicts.drop[here],
        "detail": verdicts.detail[here],
        "value": [None if np.isnan(value) else value for value in verdicts.value[here].tolist()],
        "other": verdicts.other[here],
    }
    for name, type_ in _VERDICT.items():
        column = pa.array(list(columns[name]), type=type_)
        index = rows.schema.get_field_index(name)
        rows = rows.set_column(index, name, column) if index >= 0 else rows.append_column(name, column)
    return rows
