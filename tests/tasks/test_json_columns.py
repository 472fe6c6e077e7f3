"""JSON made by column is the JSON that Python makes of each row."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.packing.json_columns import json_objects

TEXT = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
ROWS = st.lists(
    st.tuples(TEXT, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), st.one_of(st.none(), st.booleans())),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_every_row_is_what_json_dumps_says(rows: list[tuple[object, ...]], numbers: list[float]) -> None:
    names = ["text", "count", 'a "flag"']
    types = [pa.string(), pa.int64(), pa.bool_()]
    table = {
        name: pa.chunked_array([pa.array([row[i] for row in rows], type_)])
        for i, (name, type_) in enumerate(zip(names, types, strict=True))
    }
    table["number"] = pa.chunked_array([pa.array(numbers[: len(rows)], pa.float64())])
    found = [json.loads(text) for text in json_objects(table).to_pylist()]
    wanted = [
        {**dict(zip(names, row, strict=True)), "number": number} for row, number in zip(rows, numbers, strict=False)
    ]
    assert found == wanted
    assert [list(row) for row in found] == [sorted(row) for row in wanted]


def test_chunks_and_json_within_json_and_numbers_that_json_lacks() -> None:
    texts = pa.chunked_array([["a\nb", "c"], [None], ['"']], pa.string())
    inner = pa.chunked_array([['{"x": 1}'] * 4], pa.large_string())
    values = pa.chunked_array([[float("nan"), float("inf"), None, 0.5]], pa.float64())
    found = [json.loads(t) for t in json_objects({"t": texts, "r": inner, "v": values}, raw=["r"]).to_pylist()]
    assert [row["t"] for row in found] == ["a\nb", "c", None, '"']
    assert all(row["r"] == {"x": 1} for row in found)
    assert [row["v"] for row in found] == [None, None, None, 0.5]


def test_a_column_that_json_has_no_form_for_is_refused() -> None:
    with pytest.raises(TypeError, match="list"):
        json_objects({"x": pa.chunked_array([[[1]]])})
