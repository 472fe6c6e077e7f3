"""Rows are found whatever the parts they lie in; a bucket comes back as it was written, whole or in pieces."""

from pathlib import Path

import numpy as np
import pytest

from storage.layout import Layout
from tasks.graph.rows import PoolFiles, read_columns, read_vectors, take_vectors
from tasks.graph.scratch import bucket_size, read_bucket, write_buckets
from tests.tasks.vector_stages import image_row, made_stage

SIZES = [0, 3, 1, 0, 0, 6, 2, 0]


@pytest.fixture
def files(layout: Layout) -> PoolFiles:
    """Twelve images in parts of these sizes, a dropped one before each part; row i has the vector (i, i)."""
    rows, vectors, start = [], [], 0
    for size in SIZES:
        rows.append([image_row(99, drop="truncated"), *(image_row(row) for row in range(start, start + size))])
        vectors.append(np.repeat(np.arange(start, start + size, dtype=np.float16)[:, None], 2, axis=1))
        start += size
    return PoolFiles(made_stage(layout, "describe", rows, vectors))


@pytest.mark.parametrize("rows", [1, 2, 5, 12, 100])
def test_spans_hold_every_row_once_with_its_vector_and_its_record(files: PoolFiles, rows: int) -> None:
    spans = files.spans(rows)
    assert (files.num_rows, files.dim) == (12, 2)
    assert [span.last - span.first for span in spans] == [min(rows, 12 - first) for first in range(0, 12, rows)]
    assert np.concatenate([read_vectors(span) for span in spans])[:, 0].tolist() == list(range(12))
    ids = [identity for span in spans for identity in read_columns(span, ["id"])["id"].to_pylist()]
    assert [int(identity, 16) for identity in ids] == list(range(12))


def test_some_rows_of_a_wide_span_are_read_in_their_order(files: PoolFiles) -> None:
    wanted = np.array([0, 3, 4, 9, 11])
    assert take_vectors(files.span(0, 12), wanted)[:, 1].tolist() == wanted.tolist()


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_batches_are_whole_parts_in_order_the_empty_ones_too(files: PoolFiles, rows: int) -> None:
    batches = files.batches(rows)
    assert [start for batch in batches for start in batch.starts] == np.cumsum([0, *SIZES[:-1]]).tolist()
    assert [batch.first for batch in batches[1:]] == [batch.last for batch in batches[:-1]]
    assert batches[-1].last == 12


def test_a_bucket_is_read_without_the_others(tmp_path: Path) -> None:
    path, records = str(tmp_path / "file"), np.arange(10, dtype=np.int64)
    entry = write_buckets(path, np.array([4, 0, 6]), [records[:7], records[7:]])
    assert (entry.rows, entry.bytes) == (10, Path(path).stat().st_size)
    read = [read_bucket(path, bucket, num_buckets=3, dtype=records.dtype).tolist() for bucket in range(3)]
    assert read == [[0, 1, 2, 3], [], [4, 5, 6, 7, 8, 9]]
    assert [bucket_size(path, bucket) for bucket in range(3)] == [4, 0, 6]
    assert read_bucket(path, 2, num_buckets=3, dtype=records.dtype, start=2, stop=4).tolist() == [6, 7]
    assert read_bucket(path, 2, num_buckets=3, dtype=records.dtype, start=5, stop=99).tolist() == [9]
