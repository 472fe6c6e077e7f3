"""The dataset: one permutation whatever the parts, lineage beside every image, the same bytes every time."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storage.errors import ChecksumMismatch
from storage.filesystem import read_bytes
from storage.images import decode_rgb, encode_jpeg, probe
from storage.layout import Layout
from storage.samples import SampleReader
from storage.tables import read_table
from tasks.algorithms.sampling import id_keys
from tasks.pack import Pack, pack
from tasks.packing.images import Bounded, Row
from tasks.shuffle import HISTORY_COLUMNS, NothingChosen, Shuffle, shuffle
from tests.helpers import jpeg
from tests.tasks.packing import COMPOSITION, packed, pool, samples, sources, tars


def test_every_chosen_image_is_packed_once_with_its_own_bytes(tmp_path: Path) -> None:
    found = Counter(members["jpg"] for _, members in samples(packed(tmp_path, "run", parts=3)))
    assert found == Counter([jpeg(n) for n in range(20)] + [jpeg(140 + n) for n in range(4)])


def test_the_json_beside_an_image_tells_its_whole_way(tmp_path: Path) -> None:
    rows = [json.loads(members["json"]) for _, members in samples(packed(tmp_path, "run"))]
    web = [row for row in rows if row["url"].startswith("http")]
    assert len(web) == 20
    assert web[0]["lineage"] == {
        "page_url": "http://a.test/",
        "alt": 'a "cat"',
        "how": "img@src",
        "crawl_file": "c.warc",
        "crawl_offset": 7,
        "crawl_date": "2026-01-01",
        "final_url": None,
        "original_sha256": web[0]["sha256"],
        "retrieved_by": "pets:sample",
        "query": "q" * 24,
        "similarity": 0.75,
    }
    curated = [row for row in rows if not row["url"].startswith("http")]
    assert {(row["lineage"]["source"], row["lineage"]["as_is"]) for row in curated} == {("birds", True)}
    assert all(row["lineage"]["original_sha256"] == row["sha256"] for row in curated)


def test_the_order_is_the_seeded_permutation_and_depends_on_nothing_else(tmp_path: Path) -> None:
    keys = [key for key, _ in samples(packed(tmp_path, "one", parts=1))]
    assert keys == [key for key, _ in samples(packed(tmp_path, "five", parts=5))]
    assert (np.diff(id_keys(keys, seed=0).astype(float)) > 0).all()
    other = Shuffle(samples_per_shard=5, seed=1)
    assert keys != [key for key, _ in samples(packed(tmp_path, "other", parts=1, shuffling=other))]


def test_shards_differ_by_one_sample_at_most(tmp_path: Path) -> None:
    for per_shard in (5, 7, 23, 24, 25):
        config = Shuffle(samples_per_shard=per_shard, shards_per_part=2)
        dataset = packed(tmp_path, f"run{per_shard}", shuffling=config)
        sizes = [entry.rows for entry in dataset.files if entry.path.endswith(".tar")]
        assert len(sizes) == -(-24 // per_shard)
        assert max(sizes) - min(sizes) <= 1


def test_the_bytes_do_not_depend_on_parts_threads_verification_or_how_rows_were_exchanged(tmp_path: Path) -> None:
    first = packed(tmp_path, "a", parts=2)
    small = Shuffle(samples_per_shard=5, rows_per_exchange=3, shards_per_part=1)
    second = packed(tmp_path, "b", parts=2, shuffling=small, packing=Pack(threads=2, verify=False))
    assert first.fingerprint == second.fingerprint
    names = sorted(p.name for p in Path(first.directory).iterdir() if p.name != "timing.json")
    assert names == sorted(p.name for p in Path(second.directory).iterdir() if p.name != "timing.json")
    for name in names:
        assert (Path(first.directory) / name).read_bytes() == (Path(second.directory) / name).read_bytes(), name


def test_a_killed_pack_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Shuffle(samples_per_shard=5, shards_per_part=1)
    whole = packed(tmp_path, "whole", shuffling=config)
    layout = Layout(str(tmp_path / "killed"))
    stages, curated = pool(layout, 2), sources(tmp_path, layout)
    history = {stage: stages[stage] for stage in HISTORY_COLUMNS}
    rows = shuffle.fn(stages["retrieve"], curated, as_is=("birds",), history=history, config=config, layout=layout)
    written: list[str] = []
    real = pack.fn.__globals__["write_shard"]

    def killed_at_the_third(images: object, tar: str, *rest: object, **plain: object) -> object:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(tar)
        return real(images, tar, *rest, **plain)

    with monkeypatch.context() as patch:
        patch.setitem(pack.fn.__globals__, "write_shard", killed_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            pack.fn(rows, composition=COMPOSITION, config=Pack(), layout=layout)
    resumed = pack.fn(rows, composition=COMPOSITION, config=Pack(), layout=layout)
    assert [read_bytes(tar) for tar in tars(resumed)] == [read_bytes(tar) for tar in tars(whole)]


def test_the_index_and_the_card_say_what_is_there(tmp_path: Path) -> None:
    dataset = packed(tmp_path, "run")
    card = json.loads(read_bytes(dataset.file("dataset.json")))
    assert card["num_images"] == dataset.rows_kept == 24
    for shard in card["shards"]:
        data = read_bytes(dataset.file(shard["file"]))
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        index = read_table(dataset.file(shard["file"].replace(".tar", ".parquet"))).to_pylist()
        assert len(index) == shard["samples"]
        for row in index:
            image = data[row["offset"] : row["offset"] + row["bytes"]]
            assert hashlib.sha256(image).hexdigest() == row["sha256"] == row["input_sha256"]


def test_bounded_copies_are_small_jpegs_that_say_what_they_are_copies_of(tmp_path: Path) -> None:
    whole = dict(samples(packed(tmp_path, "whole")))
    bounded = packed(tmp_path, "bounded", packing=Pack(images=Bounded(max_side=48, quality=80)))
    for key, members in samples(bounded):
        original, told = whole[key]["jpg"], json.loads(members["json"])
        info = probe(members["jpg"])
        assert (info.format, max(info.width, info.height)) == ("JPEG", 48)
        assert (told["width"], told["height"], told["format"]) == (info.width, info.height, "JPEG")
        assert told["sha256"] == hashlib.sha256(members["jpg"]).hexdigest()
        assert told["bounded_from"]["sha256"] == hashlib.sha256(original).hexdigest()
        assert told["lineage"]["original_sha256"] == told["bounded_from"]["sha256"]
        near = np.abs(decode_rgb(members["jpg"]).mean() - decode_rgb(original).mean())
        assert near < 3


def test_images_within_the_bound_stay_byte_for_byte(tmp_path: Path) -> None:
    roomy = packed(tmp_path, "bounded", packing=Pack(images=Bounded(max_side=96)))
    assert samples(roomy) == samples(packed(tmp_path, "whole"))


def test_a_copy_keeps_the_shape_of_its_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 900, 3), dtype=np.uint8)
    data = encode_jpeg(pixels, quality=90)
    row = Row(0, "a", '"u"', "s", 900, 300, "JPEG", "f", 0, len(data), "{}")
    info = probe(Bounded(max_side=200).encode(data, row))
    assert (info.width, info.height) == (200, 67)


def test_nothing_to_pack_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(NothingChosen, match="no pool image was retrieved"):
        packed(tmp_path, "run", as_is=(), keep=())


def test_a_history_of_another_pool_is_refused(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "run"))
    stages, curated = pool(layout, 2), sources(tmp_path, layout)
    other = pool(layout, 2, images=range(100, 124))
    history = {stage: other[stage] for stage in HISTORY_COLUMNS}
    with pytest.raises(RuntimeError, match="not this pool's history"):
        shuffle.fn(stages["retrieve"], curated, as_is=(), history=history, config=Shuffle(), layout=layout)


def test_an_image_that_changed_behind_our_back_is_not_packed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "run"))
    stages, curated = pool(layout, 1), sources(tmp_path, layout)
    (tmp_path / "birds" / "0.jpg").write_bytes(jpeg(140)[:-3] + b"xyz")
    history = {stage: stages[stage] for stage in HISTORY_COLUMNS}
    rows = shuffle.fn(stages["retrieve"], curated, as_is=("birds",), history=history, config=Shuffle(), layout=layout)
    with pytest.raises(RuntimeError, match="changed since it was read"):
        pack.fn(rows, composition=[], config=Pack(), layout=layout)
    # left to the storage, it is packed under the checksum that it was judged by, and the index gives it away
    dataset = pack.fn(rows, composition=[], config=Pack(verify=False), layout=layout)
    (tar,) = tars(dataset)
    with pytest.raises(ChecksumMismatch):
        list(SampleReader([tar], check=True))
