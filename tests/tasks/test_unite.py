"""Several generations of a pool are one: every kept row once, in order, parts side by side with their history."""

from pathlib import Path

import pyarrow as pa
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table, write_table
from tasks.unite import unite

SCHEMA = pa.schema([("id", pa.string()), ("drop", pa.string())])


def generation(folder: Path, stage: str, parts: list[list[tuple[str, str | None]]]) -> Manifest:
    entries = [
        write_table(
            f"{folder}/part-{number:05d}.parquet",
            pa.Table.from_pylist([{"id": key, "drop": drop} for key, drop in part], schema=SCHEMA),
        )
        for number, part in enumerate(parts)
    ]
    rows = [drop for part in parts for _, drop in part]
    kept = sum(drop is None for drop in rows)
    return Manifest(stage, 1, (folder.name * 64)[:64], str(folder), {}, {}, tuple(entries), len(rows), kept, {})


def test_every_kept_row_of_every_generation_is_there_once_and_in_order(tmp_path: Path, layout: Layout) -> None:
    first = generation(tmp_path / "a", "safety", [[("1", None), ("2", "nsfw")], [("3", None)]])
    second = generation(tmp_path / "b", "safety", [[], [("4", None), ("5", "nsfw")]])
    pool = unite.fn("pool", [first, second], layout)
    parts = [read_table(path)["id"].to_pylist() for path in pool.paths(".parquet")]
    assert parts == [["1"], ["3"], [], ["4"]]
    assert (pool.rows_in, pool.rows_kept, dict(pool.drops)) == (3, 3, {})
    assert pool.facts["generations"] == {first.reference: 2, second.reference: 1}
    third = unite.fn("pool", [pool, generation(tmp_path / "c", "safety", [[("6", None)]])], layout)
    assert [key for path in third.paths(".parquet") for key in read_table(path)["id"].to_pylist()] == [*"1346"]


def test_a_generation_named_twice_is_refused(tmp_path: Path, layout: Layout) -> None:
    first = generation(tmp_path / "a", "safety", [[("1", None)]])
    with pytest.raises(ValueError, match="named twice"):
        unite.fn("pool", [first, first], layout)
