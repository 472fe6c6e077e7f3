"""A pool and sources as the stages before packing leave them, for the tests of shuffle, pack and the cards."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from storage.records import image_schema, verdict_schema
from storage.samples import SampleReader, SampleWriter
from storage.tables import table_from_rows, write_table
from tasks.collect import Collect, Collection, collect
from tasks.pack import Pack, pack
from tasks.shuffle import HISTORY_COLUMNS, Shuffle, shuffle
from tests.helpers import jpeg

POLICY = verdict_schema(
    *(pa.field(name, pa.int64() if name == "crawl_offset" else pa.string()) for name in HISTORY_COLUMNS["url_policy"])
)
COMPOSITION = [{"source": "pets", "mode": "sample", "final": 20}]


def finished(stage: str, layout: Layout, tables: Sequence[pa.Table], *, salt: Any = None) -> Manifest:
    """A stage that holds these tables; `salt` tells it from another of the same name."""
    print_ = fingerprint(stage, 1, {"salt": salt}, {})
    folder = layout.stage(stage, print_)
    files = [write_table(f"{folder}/part-{n:05d}.parquet", table) for n, table in enumerate(tables)]
    rows_in = sum(table.num_rows for table in tables)
    rows_kept = sum(table["drop"].null_count for table in tables)
    drops = {"not_retrieved": rows_in - rows_kept}
    manifest = Manifest(stage, 1, print_, folder, {"salt": salt}, {}, tuple(files), rows_in, rows_kept, drops)
    save_manifest(manifest)
    return manifest


def pool(
    layout: Layout, parts: int, *, images: Sequence[int] = range(24), keep: Sequence[int] = range(20), query: str = "q"
) -> dict[str, Manifest]:
    """A pool of these images in `parts` parts as download and retrieve leave it, some of them retrieved by `query`."""
    rows: list[dict[str, Any]] = []
    name = f"pool-{fingerprint('pool', 1, {'images': list(images)}, {})[:8]}.tar"
    with SampleWriter(f"{layout.root}/{name}") as writer:
        for number in images:
            data, url = jpeg(number), f"http://a.test/{number}.jpg"
            key = hashlib.sha256(url.encode()).hexdigest()[:24]
            offset, size = writer.add(key, {"jpg": data})["jpg"]
            place = {"image_file": name, "image_offset": offset, "image_bytes": size}
            shape = {"width": 96, "height": 96, "format": "JPEG"}
            rows.append({"id": key, "url": url, "sha256": hashlib.sha256(data).hexdigest(), **place, **shape})
    verdict = {"detail": "pets:sample", "value": 0.75, "other": query * 24}
    dropped = {"drop": "not_retrieved"}
    chosen = [row | (verdict if number in keep else dropped) for row, number in zip(rows, images, strict=True)]
    page = {"page_url": "http://a.test/", "alt": 'a "cat"', "how": "img@src", "crawl_file": "c.warc", "crawl_offset": 7}
    policy = [{"id": row["id"], **page, "crawl_date": "2026-01-01"} for row in rows]
    download = image_schema(pa.field("final_url", pa.string()))
    tables = {"url_policy": (policy, POLICY), "download": (rows, download), "retrieve": (chosen, image_schema())}
    salt = [list(images), list(keep), query, parts]

    def chunks(all_rows: list[dict[str, Any]], schema: pa.Schema) -> list[pa.Table]:
        cut = np.array_split(np.array(all_rows, dtype=object), parts)
        return [table_from_rows(chunk.tolist(), schema) for chunk in cut]

    return {stage: finished(stage, layout, chunks(*content), salt=salt) for stage, content in tables.items()}


def sources(folder: Path, layout: Layout) -> Manifest:
    """Two curated sources, birds (4 images) and cars (3)."""
    for name, count in (("birds", 4), ("cars", 3)):
        (folder / name).mkdir(exist_ok=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(jpeg(100 + number + 10 * count))
    collections = [Collection(name=name, path=str(folder / name)) for name in ("birds", "cars")]
    return collect.fn("collect_sources", collections, Collect(), layout)


def packed(
    folder: Path,
    root: str,
    *,
    parts: int = 2,
    as_is: tuple[str, ...] = ("birds",),
    shuffling: Shuffle = Shuffle(samples_per_shard=5),
    packing: Pack = Pack(),
    base: Manifest | None = None,
    **of_pool: Any,
) -> Manifest:
    """A dataset of that pool and the as-is sources."""
    layout = Layout(str(folder / root))
    stages, curated = pool(layout, parts, **of_pool), sources(folder, layout)
    history = {stage: stages[stage] for stage in HISTORY_COLUMNS}
    rows = shuffle.fn(stages["retrieve"], curated, as_is=as_is, history=history, config=shuffling, layout=layout)
    return pack.fn(rows, composition=COMPOSITION, config=packing, layout=layout, base=base)


def tars(dataset: Manifest) -> list[str]:
    """Its shards, in order."""
    return [dataset.file(name) for name in sorted(e.path for e in dataset.files if e.path.endswith(".tar"))]


def samples(dataset: Manifest) -> list[tuple[str, dict[str, bytes]]]:
    """(key, members) of all its samples, in order, checked against the index."""
    return [(sample.key, dict(sample.members)) for sample in SampleReader(tars(dataset), check=True)]
