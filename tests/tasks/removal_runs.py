"""A small run with every kind of folder that a purge meets, made anew with whatever the ledger names."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage.filesystem import read_bytes
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, load_manifest, save_manifest
from storage.records import IMAGE_COLUMNS
from storage.samples import SampleWriter
from storage.tables import kept, read_table, table_from_rows, write_table
from storage.vectors import write_vectors
from tasks.config import StageConfig
from tasks.download import SCHEMA as DOWNLOADED
from tasks.hash_dedup import HashDedup, hash_dedup
from tasks.pack import Pack, pack
from tasks.removal import looks, purge
from tasks.removal.ledger import drop_removed, load_ledger
from tasks.shuffle import HISTORY_COLUMNS, Shuffle, shuffle
from tasks.stage import Outcome, Stage
from tasks.web.urls import name_url
from tests.helpers import jpeg
from tests.tasks.packing import COMPOSITION, POLICY, sources

NUM_IMAGES = 18


def url_of(number: int) -> str:
    """Three hosts, one of them below another."""
    return f"http://{('a.test', 'img.b.test', 'b.test')[number % 3]}/{number}.jpg"


def id_of(number: int) -> str:
    """The image's id."""
    return name_url(url_of(number)).id


class Nothing(StageConfig):
    """No settings."""


@dataclass(frozen=True)
class Run:
    """The manifests of one run that matter to the tests."""

    layout: Layout
    download: Manifest
    hashed: Manifest
    described: Manifest
    dataset: Manifest


def run(folder: Path, base: Manifest | None = None, *, seed: int = 0, root: str = "run") -> Run:
    """policy -> download -> hash_dedup -> drop_removed -> describe -> graph, shuffle -> pack, by the root's ledger."""
    layout = Layout(str(folder / root))
    history = {"url_policy": _policy(layout)}
    history["download"] = _download(layout, history["url_policy"])
    hashed = hash_dedup.fn(history["download"], HashDedup(method="phash"), layout)
    unique = drop_removed.fn(hashed, load_ledger(layout), layout, "merge", history=history)
    described = _described(layout, unique)
    _graph(layout, described)
    curated = drop_removed.fn(sources(folder, layout), load_ledger(layout), layout, "keep_sources")
    config = Shuffle(samples_per_shard=4, seed=seed)
    assert set(history) == set(HISTORY_COLUMNS)
    rows = shuffle.fn(described, curated, as_is=("birds",), history=history, config=config, layout=layout)
    dataset = pack.fn(rows, composition=COMPOSITION, config=Pack(), layout=layout, base=base)
    report = Path(layout.run("latest")) / "report.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("pictures")
    return Run(layout, history["download"], hashed, described, dataset)


def _chunks() -> Sequence[Sequence[int]]:
    return [range(NUM_IMAGES // 2), range(NUM_IMAGES // 2, NUM_IMAGES)]


def _policy(layout: Layout) -> Manifest:
    stage = Stage("url_policy", version=1, config=Nothing(), inputs={}, layout=layout)
    if stage.finished:
        return stage.reuse()
    tables = [table_from_rows([{"id": id_of(n)} for n in chunk], POLICY) for chunk in _chunks()]
    outcomes = []
    for number, table in enumerate(tables):
        entry = write_table(stage.path(f"part-{number:05d}.parquet"), table)
        outcomes.append(Outcome(table.num_rows, table.num_rows, files=[entry]))
    return stage.publish(outcomes)


def _download(layout: Layout, policy: Manifest) -> Manifest:
    stage = Stage("download", version=1, config=Nothing(), inputs={"urls": policy}, layout=layout)
    if stage.finished:
        return stage.reuse()
    outcomes = []
    for number, chunk in enumerate(_chunks()):
        tar = stage.path(f"part-{number:05d}.tar")
        with SampleWriter(tar) as writer:
            rows = [_row(writer, n, layout.relative(tar)) for n in chunk]
        entry = write_table(stage.path(f"part-{number:05d}.parquet"), table_from_rows(rows, DOWNLOADED))
        outcomes.append(Outcome(len(rows), len(rows), files=[entry, writer.entry]))
    return stage.publish(outcomes)


def _row(writer: SampleWriter, number: int, file: str) -> dict[str, object]:
    data = jpeg(number)
    offset, size = writer.add(id_of(number), {"jpg": data})["jpg"]
    shape = {"width": 96, "height": 96, "format": "JPEG"}
    hashes = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    place = {"image_file": file, "image_offset": offset, "image_bytes": size}
    return {"id": id_of(number), "url": url_of(number), **shape, **hashes, **place}


def vector_of(id_: str) -> np.ndarray:
    """A vector that only this image has: float16 [32]."""
    return np.random.default_rng(int(id_[:12], 16)).standard_normal(32).astype(np.float16)


def _described(layout: Layout, unique: Manifest) -> Manifest:
    """Tables of the kept images with their vectors beside them, as every encoder leaves them."""
    stage = Stage("describe", version=1, config=Nothing(), inputs={"images": unique}, layout=layout)
    if stage.finished:
        return stage.reuse()
    outcomes = []
    for number, path in enumerate(unique.paths(".parquet")):
        table = kept(read_table(path)).select(["drop", "detail", "value", "other", *IMAGE_COLUMNS])
        vectors = np.array([vector_of(id_) for id_ in table["id"].to_pylist()]).reshape(-1, 32)
        files = [
            write_table(stage.path(f"part-{number:05d}.parquet"), table),
            write_vectors(stage.path(f"part-{number:05d}.npy"), vectors),
        ]
        outcomes.append(Outcome(table.num_rows, table.num_rows, files=files))
    return stage.publish(outcomes)


def _graph(layout: Layout, described: Manifest) -> Manifest:
    """A stage whose tables know images by row number alone."""
    stage = Stage("copy_graph", version=1, config=Nothing(), inputs={"described": described}, layout=layout)
    if stage.finished:
        return stage.reuse()
    table = pa.table({"left": [0, 1], "right": [1, 2], "similarity": pa.array([0.5, 0.6], pa.float32())})
    entry = write_table(stage.path("edges-00000.parquet"), table)
    return stage.publish([Outcome(described.rows_kept, described.rows_kept, files=[entry])])


def record(url: str, data: bytes = b"x", **more: Any) -> dict[str, Any]:
    """A row of a URL whose file holds `data`."""
    hashes = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    return {"id": name_url(url).id, "url": url, "final_url": url} | hashes | more


def stage_of(layout: Layout, name: str, parts: Sequence[pa.Table]) -> Manifest:
    """A finished stage with these tables."""
    print_ = fingerprint(name, 1, {}, {})
    folder = layout.stage(name, print_)
    files = tuple(write_table(f"{folder}/part-{n:05d}.parquet", table) for n, table in enumerate(parts))
    rows = sum(table.num_rows for table in parts)
    manifest = Manifest(name, 1, print_, folder, {}, {}, files, rows, rows, {})
    save_manifest(manifest)
    return manifest


def holders(layout: Layout, needle: bytes) -> list[str]:
    """Files below the root, but for the ledger, in which these bytes stand."""
    root = Path(layout.root)
    files = [path for path in root.rglob("*") if path.is_file() and root / "ledger" not in path.parents]
    return sorted(str(path.relative_to(root)) for path in files if needle in path.read_bytes())


def middle(data: bytes) -> bytes:
    return data[len(data) // 2 - 32 : len(data) // 2 + 32]


def tree(layout: Layout) -> dict[str, str]:
    """Every file below the root with its hash; times apart."""
    root = Path(layout.root)
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def manifests(layout: Layout) -> list[Manifest]:
    found = [*Path(layout.root).glob("stages/*/*/manifest.json"), *Path(layout.root).glob("datasets/*/manifest.json")]
    return [load_manifest(str(path.parent)) for path in sorted(found)]


def assert_whole(layout: Layout) -> None:
    """Every remaining stage has exactly what its manifest promises."""
    for manifest in manifests(layout):
        for entry in manifest.files:
            data = read_bytes(f"{manifest.directory}/{entry.path}")
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256), entry.path


class Killed(BaseException):
    """The process dies."""


STEPS = [
    *((purge, name) for name in ("zero_places", "write_table", "save_manifest", "_delete")),
    *((looks, name) for name in ("write_table", "write_array")),
]
"""All that a purge does to files."""


def kill(patch: pytest.MonkeyPatch, after: int) -> None:
    """Every step of a purge counts; the one with number `after` does not happen."""
    done = 0

    def wrapped(real: Any) -> Any:
        def step(*arguments: Any) -> Any:
            nonlocal done
            if done == after:
                raise Killed
            done += 1
            return real(*arguments)

        return step

    for module, name in STEPS:
        patch.setattr(module, name, wrapped(getattr(module, name)))
