"""Edges come back as they were written, whatever the blocks; what is no list of edges is one clear error."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import UnreachableStorage
from storage.filesystem import read_bytes
from tasks.algorithms.self_join import Edges
from tasks.graph import files as edge_files
from tasks.graph.files import merge, read_edges, select, whole_blocks, write_edges


@pytest.fixture
def edges() -> Edges:
    random = np.random.default_rng(0)
    left = np.sort(random.integers(0, 2**33, 5_000))
    return Edges(left, left + random.integers(1, 2**33, 5_000), random.random(5_000, dtype=np.float32))


def cut(edges: Edges, *sizes: int) -> Iterator[Edges]:
    starts = np.cumsum([0, *sizes])
    yield from (select(edges, slice(start, end)) for start, end in zip(starts, [*starts[1:], None], strict=True))


def test_edges_come_back_from_several_files_in_their_order(
    edges: Edges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_files, "EDGES_AT_A_TIME", 512)
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    entries = [write_edges(path, [part]) for path, part in zip(paths, cut(edges, 1_700, 0), strict=True)]
    assert [entry.rows for entry in entries] == [1_700, 0, 3_300]
    blocks = list(read_edges(paths))
    assert max(len(block.left) for block in blocks) <= 512
    for found, written in zip(merge(blocks), edges, strict=True):
        assert np.array_equal(found, written)
        assert found.dtype == written.dtype


def test_equal_edges_make_equal_files_whatever_blocks_they_come_in(
    edges: Edges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_files, "EDGES_AT_A_TIME", 700)
    whole, pieces = str(tmp_path / "whole.parquet"), str(tmp_path / "pieces.parquet")
    first, second = write_edges(whole, [edges]), write_edges(pieces, cut(edges, 1, 0, 699, 3_000))
    assert read_bytes(whole) == read_bytes(pieces)
    assert first.sha256 == second.sha256
    assert [len(block.left) for block in whole_blocks([edges], 2_000)] == [2_000, 2_000, 1_000]


def test_a_threshold_leaves_the_edges_above_it(edges: Edges, tmp_path: Path) -> None:
    path = str(tmp_path / "edges.parquet")
    write_edges(path, [edges])
    found = merge(list(read_edges([path], threshold=0.75)))
    assert np.array_equal(found.left, edges.left[edges.similarity > 0.75])
    assert list(read_edges([path], threshold=1.0)) == []


def test_a_reader_that_stops_early_leaves_nothing_behind(edges: Edges, tmp_path: Path) -> None:
    path = str(tmp_path / "edges.parquet")
    write_edges(path, [edges])
    reader = read_edges([path] * 50)
    assert len(next(reader).left) == 5_000
    reader.close()  # type: ignore[attr-defined]  # warnings are errors here: a thread or file left open would be one


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no Parquet at all", None])
def test_a_file_that_is_no_list_of_edges_is_named(content: bytes | None, edges: Edges, tmp_path: Path) -> None:
    path = tmp_path / "edges.parquet"
    if content is None:
        pq.write_table(pa.table({"left": [1], "right": ["two"], "similarity": [0.5]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(UnreachableStorage, match=r"edges\.parquet.*Delete its stage's folder"):
        list(read_edges([str(path)]))
    write_edges(str(path), [edges])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreachableStorage, match=r"edges\.parquet"):
        list(read_edges([str(path)]))
