"""Any stretch of the permutation, read from any number of files, is the slice of all rows sorted by key."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.packing.exchange import (
    ORDER,
    count_ranges,
    plan_shards,
    range_bounds,
    read_stretch,
    take_ranks,
    write_ordered,
)


def _files(folder: Path, keys: list[int], num_files: int, num_ranges: int) -> list[str]:
    paths = []
    for number in range(num_files):
        mine = list(range(number, len(keys), num_files))
        table = pa.table(
            {
                ORDER: pa.array([keys[i] for i in mine], pa.uint64()),
                "id": pa.array([f"{i:04d}" for i in mine], pa.string()),
            }
        )
        paths.append(str(folder / f"part-{number:05d}.parquet"))
        write_ordered(paths[-1], table, num_ranges=num_ranges)
    return paths


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(
        st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 7, 2**63, 2**64 - 1])), min_size=1, max_size=40
    ),
    num_files=st.integers(1, 3),
    num_ranges=st.integers(1, 6),
    per_shard=st.integers(1, 12),
)
def test_shards_are_equal_slices_of_all_rows_in_order(
    tmp_path_factory: pytest.TempPathFactory, keys: list[int], num_files: int, num_ranges: int, per_shard: int
) -> None:
    paths = _files(tmp_path_factory.mktemp("exchange"), keys, num_files, num_ranges)

    def source(first: int, last: int, columns: list[str] | None) -> pa.Table:
        return pa.concat_tables([read_stretch(path, first, last, columns) for path in paths])

    counts = count_ranges(np.array(keys, dtype=np.uint64), num_ranges).tolist()
    stretches = plan_shards(counts, samples_per_shard=per_shard)
    ids = [value for stretch in stretches for value in take_ranks(source, stretch)["id"].to_pylist()]
    assert ids == [f"{i:04d}" for _, i in sorted((key, i) for i, key in enumerate(keys))]
    shards = [shard for stretch in stretches for shard in stretch.shards]
    assert [number for number, _, _ in shards] == list(range(-(-len(keys) // per_shard)))
    sizes = [stop - start for _, start, stop in shards]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= per_shard


def test_ranges_cover_every_key_once() -> None:
    for num in (1, 3, 7, 444):
        bounds = range_bounds(num)
        assert (bounds[0][0], bounds[-1][1]) == (0, 2**64 - 1)
        assert all(high + 1 == low for (_, high), (low, _) in pairwise(bounds))


def test_a_stretch_of_a_large_file_costs_a_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    path = _files(tmp_path, keys, 1, 100)[0]
    groups: list[int] = []
    whole = pa.parquet.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pa.parquet.ParquetFile,
        "read_row_groups",
        lambda self, wanted, columns=None: groups.extend(wanted) or whole(self, wanted, columns=columns),
    )
    first, last = range_bounds(100)[42]
    table = read_stretch(path, first, last)
    assert table.num_rows == sum(first <= key <= last for key in keys) > 0
    assert len(groups) <= 2
