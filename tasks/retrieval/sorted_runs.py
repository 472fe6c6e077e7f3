"""Arrays of one part sorted by group, on disk: what one task writes for many others, each of which reads its groups.

An exchange between any number of writers and readers with one file per writer and column: a run. Readers fetch ranges
of bytes, so that storage may be remote. Runs are scratch: a stage removes them before it publishes.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.errors import UnreachableStorage
from storage.filesystem import join, open_read
from storage.vectors import remove_files, write_array
from tasks.stage import Outcome

Array = npt.NDArray[Any]
_OFFSETS = ".offsets.npy"


def write_run(out: str, groups: npt.NDArray[np.integer], num_groups: int, columns: Mapping[str, Array]) -> Outcome:
    """Columns [n, ...] sorted (stably) by group [n] in 0..num_groups, one .npy each, and where each group begins.

    Memory: one sorted copy of a column at a time, twice.
    """
    order = np.argsort(groups, kind="stable")
    offsets = np.searchsorted(groups[order], np.arange(num_groups + 1)).astype(np.int64)
    entries = [write_array(f"{out}.{name}.npy", column[order]) for name, column in columns.items()]
    return Outcome(len(groups), len(groups), files=[*entries, write_array(f"{out}{_OFFSETS}", offsets)])


def run_offsets(run: str, first: int, last: int) -> Array:
    """Where the groups first..last (exclusive) of a run begin, and where the last ends: [last - first + 1]."""
    return read_rows(f"{run}{_OFFSETS}", first, last + 1)


def read_groups(run: str, name: str, first: int, last: int) -> Array:
    """One column of the groups first..last (exclusive) of a run, group after group."""
    ends = run_offsets(run, first, last)
    return read_rows(f"{run}.{name}.npy", int(ends[0]), int(ends[-1]))


def gather_groups(runs: Sequence[str], names: Iterable[str], first: int, last: int) -> tuple[dict[str, Array], Array]:
    """Columns of the groups first..last (exclusive) of several runs, run after run, and every row's group from 0 on.

    Raises ValueError without runs: the columns' types would not be known.
    """
    ends = [run_offsets(run, first, last) for run in runs]
    # A run without rows may not have known the shape of a column: it has no say when there are others.
    full = [number for number, end in enumerate(ends) if end[0] < end[-1]] or [0]
    runs, ends = [runs[number] for number in full], [ends[number] for number in full]
    groups = np.concatenate([np.repeat(np.arange(last - first), np.diff(end)) for end in ends])
    columns = {
        name: np.concatenate(
            [read_rows(f"{run}.{name}.npy", int(end[0]), int(end[-1])) for run, end in zip(runs, ends, strict=True)]
        )
        for name in names
    }
    return columns, groups


def read_rows(path: str, start: int, stop: int) -> Array:
    """Rows start..stop of a .npy file, by one read of their bytes. Raises UnreachableStorage for a short file."""
    with open_read(path) as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        row_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        file.seek(file.tell() + start * row_bytes)
        data = file.read((stop - start) * row_bytes)
    if len(data) != (stop - start) * row_bytes:
        raise UnreachableStorage(
            f"{path} ends before row {stop}. Delete the stage's folder and its receipts, run again."
        )
    return np.frombuffer(data, dtype=dtype).reshape(stop - start, *shape[1:])


def runs_of(directory: str, outcomes: Iterable[Outcome]) -> list[str]:
    """Path prefixes of the runs that `write_run` left, in order."""
    names = (entry.path for outcome in outcomes for entry in outcome.files if entry.path.endswith(_OFFSETS))
    return [join(directory, name.removesuffix(_OFFSETS)) for name in names]


def remove_scratch(directory: str, outcomes: Iterable[Outcome]) -> None:
    """Removes what those parts wrote. A run that is killed later does them anew: their receipts promise the files."""
    remove_files(posixpath.join(directory, entry.path) for outcome in outcomes for entry in outcome.files)
