"""Parts in chunks: every kept row once, in order, with its vector, however the parts are cut."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from storage.layout import Layout
from tasks.pool import Pool
from tasks.retrieval.part_chunks import bytes_of, chunks_of, concatenated, strings_of
from tests.tasks.vector_stages import image_row, made_stage


@pytest.mark.parametrize("rows", [1, 4, 7, 1000])
def test_chunks_hold_every_kept_row_once_with_its_vector(layout: Layout, rows: int) -> None:
    sizes = [3, 0, 5, 1, 1, 4, 2]
    numbers = iter(range(100))
    parts = [[image_row(900, drop="gone"), *(image_row(next(numbers)) for _ in range(size))] for size in sizes]
    vectors = [np.random.default_rng(size).normal(size=(size, 6)).astype(np.float16) for size in sizes]
    pool = made_stage(layout, "embed", parts, vectors)
    chunks = chunks_of(pool, rows)
    assert np.array_equal(np.concatenate([chunk.ids() for chunk in chunks]), Pool(pool).ids)
    filled = [chunk for chunk in chunks if chunk.num_rows]
    assert np.array_equal(np.concatenate([chunk.vectors() for chunk in filled]), np.concatenate(vectors))
    assert [chunk.first_row for chunk in chunks] == np.cumsum([0, *(c.num_rows for c in chunks[:-1])]).tolist()
    assert [path for chunk in chunks for path in chunk.tables] == pool.paths(".parquet")
    assert all(len(chunk.tables) == 1 or chunk.num_rows <= rows for chunk in chunks)


def test_vectors_at_some_places_open_only_the_files_that_hold_them(layout: Layout) -> None:
    parts = [[image_row(10 * part + place) for place in range(4)] for part in range(5)]
    vectors = [np.random.default_rng(part).normal(size=(4, 3)).astype(np.float16) for part in range(5)]
    (chunk,) = chunks_of(made_stage(layout, "embed", parts, vectors), 100)
    for part in (0, 2, 3):
        Path(chunk.matrices[part]).unlink()
    places = np.array([18, 5, 16, 5])
    assert np.array_equal(chunk.vectors(places), np.concatenate(vectors)[places])
    assert chunk.vectors(np.zeros(0, dtype=np.int64)).shape == (0, 0)


@pytest.mark.parametrize("texts", [["abc", "xyz"], ["a", None, "long one", ""], [], ["same", "size", "text"]])
def test_strings_as_bytes_and_back(texts: list[str | None]) -> None:
    column = pa.chunked_array([pa.array(texts[:1], pa.string()), pa.array(texts[1:], pa.string())])
    ids = bytes_of(column)
    assert [one.decode() for one in ids.tolist()] == [text or "" for text in texts]
    assert strings_of(ids).to_pylist() == [text or "" for text in texts]
    assert strings_of(ids).type == pa.string()


def test_a_slice_of_a_column_is_that_slice() -> None:
    column = pa.chunked_array([["aa", "bb", "cc"], ["dd"]]).slice(1, 2)
    assert bytes_of(column).tolist() == [b"bb", b"cc"]


def test_ids_of_several_widths_go_together() -> None:
    assert concatenated([np.array([b"a"]), np.array([b"bcd"]), np.zeros(0, "S9")]).tolist() == [b"a", b"bcd"]
    assert len(concatenated([])) == 0
