"""The images that have a copy, their keepers and their groups, by files: no process holds all of them.

The flow leaves the rows that are in a group, batch by batch of whole parts, with their component and their largest
similarity. From there on, tasks:

1. records (a batch): what the keeper rule looks at, sent to the range of rows that the component's first row lies in;
2. keepers (a range): the best record of each component, over the files of all batches; then every row's verdict, sent
   back to the row's batch;
3. verdicts (a batch): those of its rows, in order.

1.2 billion images, a quarter of them with a copy: 1,150 batches of 2**20 rows, 286 ranges of 2**22. Memory of a task: 1
and 3: 150 bytes per image of its batch that has a copy (160 MB if all have); 2: 250 bytes per component of its range
and a section of a file, however many images the components have (0.5 GB if all are pairs). Disk, until the stage is
done: 190 bytes per image that has a copy.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.algorithms.components import Integers
from tasks.algorithms.groups import best_of_each
from tasks.graph.keeper_rule import Keeper, preference, read_records
from tasks.graph.rows import Span
from tasks.graph.scratch import (
    Array,
    Files,
    bucket_size,
    load_array,
    read_bucket,
    save_array,
    scratch_map,
    whole,
    write_buckets,
)
from tasks.stage import Outcome, Stage

_MEMBER = np.dtype([("row", "<i8"), ("label", "<i8")])
_AT_ONCE = 1 << 18


class Widths(NamedTuple):
    """Bytes of the longest id and of the longest date."""

    id: int
    date: int


class Verdict(NamedTuple):
    """Of an image in a group: its row, whether another is kept, its largest similarity, that one's id, its group's."""

    row: int
    copy: bool
    value: float
    other: bytes
    group: bytes


def record_type(widths: Widths) -> np.dtype[Any]:
    """What a row sends to its component's range."""
    numbers = [("label", "<i8"), ("row", "<i8"), ("value", "<f4"), *((name, "<i8") for name in _NUMBERS)]
    return np.dtype([*numbers, ("id", f"S{widths.id}"), ("date", f"S{widths.date}")])


_NUMBERS = ("pixels", "quality", "bytes")


def verdict_type(id_width: int) -> np.dtype[Any]:
    """A `Verdict` as it is stored."""
    return np.dtype(
        [("row", "<i8"), ("copy", "?"), ("value", "<f4"), ("other", f"S{id_width}"), ("group", f"S{id_width}")]
    )


def write_members(stage: Stage, batches: Sequence[Span], labels: Integers, sizes: Integers) -> list[str]:
    """A file per batch: its rows in components of more than one, with their labels. Memory: a batch."""
    paths = []
    for number, batch in enumerate(batches):
        mine = labels[batch.first : batch.last]
        places = np.flatnonzero(sizes[mine] > 1)
        members = np.empty(len(places), dtype=_MEMBER)
        members["row"], members["label"] = places + batch.first, mine[places]
        paths.append(stage.path(f"scratch-members-{number:05d}.npy"))
        save_array(paths[-1], members)
    return paths


def write_values(paths: Sequence[str], best: npt.NDArray[np.float32]) -> list[str]:
    """Beside each file of members, their entries of `best` [rows of the pool]."""
    found = []
    for path in paths:
        found.append(path.replace("scratch-members-", "scratch-values-"))
        save_array(found[-1], best[load_array(path)["row"]])
    return found


def find_keepers(
    stage: Stage,
    batches: Sequence[Span],
    members: Sequence[str],
    values: Sequence[str],
    *,
    keeper: Keeper,
    range_rows: int,
) -> list[str]:
    """A file per batch: the verdicts (`verdict_type`) of its rows that are in groups, by row."""
    num_ranges = max(1, -(-(batches[-1].last if batches else 0) // range_rows))
    parts = list(zip(batches, members, values, strict=True))
    plain: dict[str, Any] = {"range_rows": range_rows, "num_ranges": num_ranges}
    outcomes, records = scratch_map(stage, "records", send_records, parts, **plain)
    widths = [Widths(*outcome.facts["widths"]) for outcome in outcomes]
    id_width = max((width.id for width in widths), default=1)
    more: dict[str, Any] = {"records": records, "widths": widths, "id_width": id_width, "num_ranges": num_ranges}
    _, chosen = scratch_map(stage, "keepers", choose_keepers, list(range(num_ranges)), keeper=keeper, **more)
    numbers = list(range(len(batches)))
    _, files = scratch_map(
        stage, "verdicts", gather_verdicts, numbers, chosen=chosen, num_batches=len(batches), id_width=id_width
    )
    return files.paths(".npy")


def send_records(part: tuple[Span, str, str], out: str, *, range_rows: int, num_ranges: int) -> Outcome:
    """The records of one batch's rows that are in groups, by the range of their component's first row."""
    batch, members_path, values_path = part
    members = np.asarray(load_array(members_path))
    described = read_records(batch, members["row"])
    widths = Widths(described["id"].dtype.itemsize, described["date"].dtype.itemsize)
    records = np.empty(len(members), dtype=record_type(widths))
    for name in ("row", "label"):
        records[name] = members[name]
    records["value"] = load_array(values_path)
    for name in (*_NUMBERS, "id", "date"):
        records[name] = described[name]
    target = records["label"] // range_rows
    sizes = np.bincount(target, minlength=num_ranges)
    entry = write_buckets(f"{out}.records", sizes, [records[np.argsort(target, kind="stable")]])
    return whole(len(records), [entry], widths=list(widths))


def choose_keepers(
    number: int,
    out: str,
    *,
    records: Files,
    widths: Sequence[Widths],
    id_width: int,
    num_ranges: int,
    keeper: Keeper,
) -> Outcome:
    """The verdicts of all rows whose component begins in one range, by the batch that the row lies in."""

    def sections() -> Iterator[Array]:
        for path, width in zip(records.paths(".records"), widths, strict=True):
            yield read_bucket(path, number, num_buckets=num_ranges, dtype=record_type(Widths(*width)))

    kept, firsts = _reduced(sections(), keeper)

    def verdicts() -> Iterator[Array]:
        for section in sections():
            place = np.searchsorted(kept["label"], section["label"])
            found = np.empty(len(section), dtype=verdict_type(id_width))
            found["row"], found["value"] = section["row"], section["value"]
            found["copy"] = kept["row"][place] != section["row"]
            found["other"], found["group"] = kept["id"][place], firsts[place]
            yield found

    sizes = np.array([bucket_size(path, number) for path in records.paths(".records")], dtype=np.int64)
    return whole(int(sizes.sum()), [write_buckets(f"{out}.verdicts", sizes, verdicts())])


def _reduced(sections: Iterator[Array], keeper: Keeper) -> tuple[Array, Array]:
    """(the best record of each component, by label; the id of each component's first row).

    Sections are taken in as soon as they are as many as the components known so far: each is sorted a few times at
    most, and no component is held whole.
    """
    firsts, held = list[Array](), list[Array]()
    num_kept = num_held = 0
    for section in sections:
        firsts.append(section[section["row"] == section["label"]][["label", "id"]])
        held.append(section)
        num_held += len(section)
        if num_held >= num_kept + max(_AT_ONCE, num_kept):
            held = [_best(held, keeper)]
            num_kept = num_held = len(held[0])
    first = np.concatenate(firsts)
    return _best(held, keeper), first["id"][np.argsort(first["label"])]


def _best(records: Sequence[Array], keeper: Keeper) -> Array:
    some = np.concatenate(records)
    return np.asarray(some[best_of_each(some["label"], [*preference(some, keeper), some["row"]])])


def gather_verdicts(number: int, out: str, *, chosen: Files, num_batches: int, id_width: int) -> Outcome:
    """The verdicts of one batch's rows, from all ranges, by row."""
    dtype = verdict_type(id_width)
    paths = chosen.paths(".verdicts")
    found = np.concatenate([read_bucket(path, number, num_buckets=num_batches, dtype=dtype) for path in paths])
    return whole(len(found), [save_array(f"{out}.npy", found[np.argsort(found["row"])])])
