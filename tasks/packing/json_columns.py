"""Rows of a table as JSON texts, column by column: dicts and Python's encoder would cost ten times as much a row."""

import json
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.compute as pc

_TEXT = pa.large_string()
_NEEDS_ESCAPES = r'[\x00-\x1f"\\]'


def json_objects(fields: Mapping[str, pa.ChunkedArray], *, raw: Collection[str] = ()) -> pa.ChunkedArray:
    """One JSON object per row, large_string [rows]: the fields by name, keys sorted, missing values null.

    Takes strings, integers, floats (NaN and infinities become null) and booleans; fields named in `raw` hold JSON
    already. Equal to `json.dumps(row, sort_keys=True, ensure_ascii=False)` as JSON. Memory: the texts three times.
    Raises TypeError for a column of another type.
    """
    parts: list[pa.ChunkedArray | pa.Scalar] = []
    for number, name in enumerate(sorted(fields)):
        text = fields[name].cast(_TEXT) if name in raw else json_values(fields[name])
        parts += [_literal(("{" if number == 0 else ", ") + f"{json.dumps(name, ensure_ascii=False)}: ")]
        parts += [pc.fill_null(text, _literal("null"))]
    return pc.binary_join_element_wise(*parts, _literal("}"), _literal(""))


def json_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Each value as JSON text, large_string; null stays null."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _quoted(column.cast(_TEXT))
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.cast(_TEXT)
    if pa.types.is_floating(column.type):
        finite = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        return finite.cast(_TEXT)
    if pa.types.is_null(column.type):
        return column.cast(_TEXT)
    raise TypeError(f"no JSON for a column of {column.type}: give text, numbers or booleans")


def _quoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """In quotes, escaped where a value needs it (few do, and those go by Python's own encoder)."""
    special = pc.fill_null(pc.match_substring_regex(column, _NEEDS_ESCAPES), False)
    if pc.any(special).as_py():
        escaped = [json.dumps(value, ensure_ascii=False)[1:-1] for value in column.filter(special).to_pylist()]
        column = pc.replace_with_mask(column.combine_chunks(), special.combine_chunks(), pa.array(escaped, _TEXT))
    return pc.binary_join_element_wise(_literal('"'), column, _literal('"'), _literal(""))


def _literal(text: str) -> pa.Scalar:
    return pa.scalar(text, _TEXT)
