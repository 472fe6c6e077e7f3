"""The dataset: one permutation whatever the parts, lineage beside every image, the same bytes every time."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.filesystem import read_bytes
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from storage.records import image_schema, verdict_schema
from storage.samples import SampleWriter, read_samples
from storage.tables import read_table, table_from_rows, write_table
from tasks.collect import Collect, Collection, collect
from tasks.pack import Pack, pack
from tasks.shuffle import HISTORY_COLUMNS, NothingChosen, Shuffle, permutation_keys, shuffle
from tests.helpers import jpeg

POLICY = verdict_schema(
    *(pa.field(name, pa.int64() if name == "crawl_offset" else pa.string()) for name in HISTORY_COLUMNS["url_policy"])
)


def _finished(stage: str, layout: Layout, tables: list[pa.Table], rows_kept: int) -> Manifest:
    print_ = fingerprint(stage, 1, {}, {})
    folder = layout.stage(stage, print_)
    files = [write_table(f"{folder}/part-{n:05d}.parquet", table) for n, table in enumerate(tables)]
    rows_in = sum(table.num_rows for table in tables)
    manifest = Manifest(
        stage, 1, print_, folder, {}, {}, tuple(files), rows_in, rows_kept, {"not_retrieved": rows_in - rows_kept}
    )
    save_manifest(manifest)
    return manifest


def _pool(layout: Layout, parts: int, *, images: int = 24, keep: int = 20) -> dict[str, Manifest]:
    """A pool of `images` in `parts` parts as download and retrieve leave it, `keep` of them retrieved."""
    rows: list[dict[str, Any]] = []
    with SampleWriter(f"{layout.root}/pool.tar") as writer:
        for number in range(images):
            data, url = jpeg(number), f"http://a.test/{number}.jpg"
            key = hashlib.sha256(url.encode()).hexdigest()[:24]
            offset, size = writer.add(key, {"jpg": data})["jpg"]
            place = {"image_file": "pool.tar", "image_offset": offset, "image_bytes": size}
            shape = {"width": 96, "height": 96, "format": "JPEG"}
            rows.append({"id": key, "url": url, "sha256": hashlib.sha256(data).hexdigest(), **place, **shape})
    chunks = [chunk.tolist() for chunk in np.array_split(np.array(rows, dtype=object), parts)]
    verdict = {"detail": "pets:sample", "value": 0.75, "other": "q" * 24}
    chosen = [[row | (verdict if rows.index(row) < keep else {"drop": "not_retrieved"}) for row in c] for c in chunks]
    page = {"page_url": "http://a.test/", "alt": "a cat", "how": "img@src", "crawl_file": "c.warc", "crawl_offset": 7}
    policy = [[{"id": row["id"], **page, "crawl_date": "2026-01-01"} for row in c] for c in chunks]
    download = image_schema(pa.field("final_url", pa.string()))
    return {
        "url_policy": _finished("url_policy", layout, [table_from_rows(c, POLICY) for c in policy], images),
        "download": _finished("download", layout, [table_from_rows(c, download) for c in chunks], images),
        "retrieve": _finished("retrieve", layout, [table_from_rows(c, image_schema()) for c in chosen], keep),
    }


def _sources(tmp_path: Path, layout: Layout) -> Manifest:
    for name, count in (("birds", 4), ("cars", 3)):
        (tmp_path / name).mkdir(exist_ok=True)
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").write_bytes(jpeg(100 + number + 10 * count))
    collections = [Collection(name=name, path=str(tmp_path / name)) for name in ("birds", "cars")]
    return collect.fn("collect_sources", collections, Collect(), layout)


def _pack(tmp_path: Path, root: str, parts: int, *, as_is: tuple[str, ...] = ("birds",), seed: int = 0) -> Manifest:
    layout = Layout(str(tmp_path / root))
    pool, sources = _pool(layout, parts), _sources(tmp_path, layout)
    history = {stage: pool[stage] for stage in HISTORY_COLUMNS}
    config = Shuffle(samples_per_shard=5, seed=seed)
    rows = shuffle.fn(pool["retrieve"], sources, as_is=as_is, history=history, config=config, layout=layout)
    return pack.fn(rows, composition=[{"source": "pets", "final": 20}], config=Pack(), layout=layout)


def _samples(dataset: Manifest) -> list[tuple[str, dict[str, bytes]]]:
    tars = sorted(entry.path for entry in dataset.files if entry.path.endswith(".tar"))
    return [sample for tar in tars for sample in read_samples(dataset.file(tar))]


def test_every_chosen_image_is_packed_once_with_its_own_bytes(tmp_path: Path) -> None:
    samples = _samples(_pack(tmp_path, "run", parts=3))
    found = Counter(members["jpg"] for _, members in samples)
    assert found == Counter([jpeg(n) for n in range(20)] + [jpeg(140 + n) for n in range(4)])


def test_the_json_beside_an_image_tells_its_whole_way(tmp_path: Path) -> None:
    rows = [json.loads(members["json"]) for _, members in _samples(_pack(tmp_path, "run", parts=2))]
    web = [row for row in rows if row["url"].startswith("http")]
    assert len(web) == 20
    assert {"page_url", "alt", "crawl_file", "crawl_date", "original_sha256"} <= set(web[0]["lineage"])
    assert web[0]["lineage"]["retrieved_by"] == "pets:sample"
    assert (web[0]["lineage"]["query"], web[0]["lineage"]["similarity"]) == ("q" * 24, 0.75)
    curated = [row for row in rows if not row["url"].startswith("http")]
    assert {(row["lineage"]["source"], row["lineage"]["as_is"]) for row in curated} == {("birds", True)}


def test_the_order_is_the_seeded_permutation_and_depends_on_nothing_else(tmp_path: Path) -> None:
    keys = [key for key, _ in _samples(_pack(tmp_path, "one", parts=1))]
    assert keys == [key for key, _ in _samples(_pack(tmp_path, "five", parts=5))]
    places = permutation_keys(keys, seed=0)
    assert (np.diff(places.astype(float)) > 0).all()
    assert keys != [key for key, _ in _samples(_pack(tmp_path, "other", parts=1, seed=1))]


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = _pack(tmp_path, "a", parts=2), _pack(tmp_path, "b", parts=2)
    assert first.fingerprint == second.fingerprint
    names = sorted(p.name for p in Path(first.directory).iterdir() if p.name != "timing.json")
    assert names == sorted(p.name for p in Path(second.directory).iterdir() if p.name != "timing.json")
    for name in names:
        assert (Path(first.directory) / name).read_bytes() == (Path(second.directory) / name).read_bytes(), name


def test_the_index_and_the_card_say_what_is_there(tmp_path: Path) -> None:
    dataset = _pack(tmp_path, "run", parts=2)
    card = json.loads(read_bytes(dataset.file("dataset.json")))
    assert card["num_images"] == dataset.rows_kept == 24
    for shard in card["shards"]:
        data = read_bytes(dataset.file(shard["file"]))
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        index = read_table(dataset.file(shard["file"].replace(".tar", ".parquet"))).to_pylist()
        assert len(index) == shard["samples"]
        for row in index:
            image = data[row["offset"] : row["offset"] + row["bytes"]]
            assert hashlib.sha256(image).hexdigest() == row["sha256"]


def test_nothing_to_pack_is_an_error_that_says_why(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "run"))
    pool, sources = _pool(layout, 1, keep=0), _sources(tmp_path, layout)
    history = {stage: pool[stage] for stage in HISTORY_COLUMNS}
    with pytest.raises(NothingChosen, match="no pool image was retrieved"):
        shuffle.fn(pool["retrieve"], sources, as_is=(), history=history, config=Shuffle(), layout=layout)


def test_an_image_that_changed_behind_our_back_is_not_packed(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "run"))
    pool, sources = _pool(layout, 1), _sources(tmp_path, layout)
    (tmp_path / "birds" / "0.jpg").write_bytes(jpeg(140)[:-3] + b"xyz")
    history = {stage: pool[stage] for stage in HISTORY_COLUMNS}
    rows = shuffle.fn(pool["retrieve"], sources, as_is=("birds",), history=history, config=Shuffle(), layout=layout)
    with pytest.raises(RuntimeError, match="changed since it was read"):
        pack.fn(rows, composition=[], config=Pack(), layout=layout)
