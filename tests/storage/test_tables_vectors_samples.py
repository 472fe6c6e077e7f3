"""Tables, vectors and tar shards give back what went in, block by block, and equal input gives equal bytes."""

import gc
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import UnreachableStorage
from storage.records import image_schema, verdict_schema
from storage.samples import SampleWriter, read_samples
from storage.tables import count_drops, kept, read_table, table_from_rows, write_table
from storage.vectors import Vectors, write_vectors


def test_kept_rows_are_those_without_a_reason(tmp_path: Path) -> None:
    rows = [{"id": "a"}, {"id": "b", "drop": "copy"}, {"id": "c", "drop": "copy"}, {"id": "d", "drop": "nsfw"}]
    entry = write_table(str(tmp_path / "part-00000.parquet"), table_from_rows(rows, verdict_schema()))
    table = read_table(str(tmp_path / "part-00000.parquet"))
    assert entry.rows == 4
    assert kept(table)["id"].to_pylist() == ["a"]
    assert count_drops(table) == {"copy": 2, "nsfw": 1}


def test_a_column_that_no_schema_names_is_an_error() -> None:
    with pytest.raises(ValueError, match="colour"):
        table_from_rows([{"id": "a", "colour": "red"}], image_schema())


def test_a_file_that_is_no_parquet_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UnreachableStorage, match="not a readable Parquet"):
        read_table(str(tmp_path / "x.parquet"))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5), rows=st.integers(1, 9))
def test_blocks_of_any_size_are_the_whole_matrix_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    whole = np.arange(sum(sizes) * 3, dtype=np.float16).reshape(-1, 3)
    paths, start = [], 0
    for number, size in enumerate(sizes):
        paths.append(str(folder / f"part-{number:05d}.npy"))
        write_vectors(paths[-1], whole[start : start + size])
        start += size
    vectors = Vectors(paths)
    blocks = list(vectors.blocks(rows))
    assert [first for first, _ in blocks] == list(range(0, len(whole), rows))
    assert np.array_equal(np.concatenate([b for _, b in blocks]) if blocks else whole, whole)
    picked = np.random.default_rng(0).permutation(len(whole))[:5]
    assert np.array_equal(vectors.take(picked), whole[picked])


def _write(path: Path, samples: dict[str, dict[str, bytes]]) -> SampleWriter:
    with SampleWriter(str(path)) as writer:
        for key, members in samples.items():
            writer.add(key, members)
    return writer


SAMPLES = {f"key{n}": {"jpg": bytes([n]) * (500 * n), "json": b'{"n": %d}' % n} for n in range(5)}


def test_shards_give_back_their_samples_from_any_start(tmp_path: Path) -> None:
    writer = _write(tmp_path / "s.tar", SAMPLES)
    assert writer.entry.rows == 5
    assert dict(read_samples(str(tmp_path / "s.tar"))) == SAMPLES
    assert [key for key, _ in read_samples(str(tmp_path / "s.tar"), start=3)] == ["key3", "key4"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its file to the GC
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_tarfile_and_webdataset_read_our_shards(tmp_path: Path) -> None:
    _write(tmp_path / "s.tar", SAMPLES)
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert len(tar.getnames()) == 10
    samples = list(wds.WebDataset(str(tmp_path / "s.tar"), shardshuffle=False, empty_check=False))
    gc.collect()
    assert [(s["__key__"], s["jpg"]) for s in samples] == [(k, v["jpg"]) for k, v in SAMPLES.items()]


def test_offsets_point_at_the_members_bytes(tmp_path: Path) -> None:
    with SampleWriter(str(tmp_path / "s.tar")) as writer:
        places = {key: writer.add(key, members) for key, members in SAMPLES.items()}
    data = (tmp_path / "s.tar").read_bytes()
    for key, members in SAMPLES.items():
        for extension, content in members.items():
            offset, size = places[key][extension]
            assert data[offset : offset + size] == content


def test_equal_samples_give_equal_bytes_and_a_failed_shard_leaves_nothing(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a.tar", SAMPLES), _write(tmp_path / "b.tar", SAMPLES)
    assert first.entry.sha256 == second.entry.sha256
    with pytest.raises(RuntimeError), SampleWriter(str(tmp_path / "c.tar")) as writer:
        writer.add("k", {"jpg": b"x"})
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "b.tar"]


def test_a_cut_shard_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "s.tar", SAMPLES)
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:3000])
    with pytest.raises(UnreachableStorage, match="not a whole tar"):
        list(read_samples(str(tmp_path / "s.tar")))


def test_long_keys_and_names_beyond_ascii_survive(tmp_path: Path) -> None:
    samples = {"bücher/" + "x" * 150: {"jpg": b"1"}}
    _write(tmp_path / "s.tar", samples)
    assert dict(read_samples(str(tmp_path / "s.tar"))) == samples
    assert io.BytesIO((tmp_path / "s.tar").read_bytes()).read(1)
