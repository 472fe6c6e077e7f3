"""Order and bytes survive any order of arrival, whatever fits in memory."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.in_order import InOrder
from tasks.web.shuffle import bucket_of_id, split_by_bucket
from tasks.web.urls import url_id


@given(st.permutations(range(12)), st.sampled_from([0, 10, 1000]))
def test_results_leave_in_order_whatever_the_order_of_arrival(order: list[int], memory_bytes: int) -> None:
    bodies = [None if number % 4 == 3 else bytes([number]) * number for number in range(12)]
    seen: list[tuple[int, bytes | None]] = []
    with InOrder[int](lambda item, body: seen.append((item, body)), memory_bytes=memory_bytes) as in_order:
        for number in order:
            in_order.put(number, number, bodies[number])
    assert seen == list(enumerate(bodies))


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 7, 1000])
def test_buckets_are_ranges_of_ids_of_about_equal_size(num_buckets: int) -> None:
    ids = pa.array(sorted(url_id(str(number)) for number in range(3000)))
    buckets = bucket_of_id(ids, num_buckets)
    assert buckets.min() >= 0
    assert buckets.max() < num_buckets
    assert (buckets[1:] >= buckets[:-1]).all()  # sorted ids, sorted buckets
    expected = [int(key[:8], 16) * num_buckets // 2**32 for key in ids.to_pylist()]
    assert buckets.tolist() == expected


def test_splitting_keeps_every_row_once_and_in_order() -> None:
    table = pa.table({"id": [url_id(str(number)) for number in range(500)], "row": range(500)})
    parts = split_by_bucket(table, 7)
    assert len(parts) == 7
    assert sorted(row for part in parts for row in part["row"].to_pylist()) == list(range(500))
    assert all(part["row"].to_pylist() == sorted(part["row"].to_pylist()) for part in parts)
    assert [part.num_rows for part in split_by_bucket(table.slice(0, 0), 3)] == [0, 0, 0]
