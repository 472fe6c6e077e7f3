"""Packing beside webdataset's ShardWriter and beside a plain copy of the tars that came out, on one disk.

A pool of images lies in tars as a download leaves them. All write the same samples (image and JSON) in the same
permuted order into shards of equal counts. Ours verifies every image's SHA-256, hashes every tar, writes indexes and
cards and syncs to disk; ShardWriter, in a process and a virtual environment of its own, gets the order, the open
files and the finished JSON for nothing and does none of that. "Unverified" leaves out the images' own hashes
(`Pack.verify`), which are taken in one pass with the tar's and which a careful storage makes needless. Both are
measured on one core's work (one thread, one process) and on two; processor seconds tell of a machine that others
load.

    python -m bench.pack [--images 20000] [--kilobytes 12 40 110] [--repeats 3]
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import webdataset

from bench.measure import machine, median_seconds, save
from storage.layout import Layout
from storage.manifest import Manifest, fingerprint, save_manifest
from storage.records import image_schema, verdict_schema
from storage.samples import Bookmark, SampleReader, SampleWriter
from storage.tables import read_table, write_table
from tasks.pack import Pack, pack
from tasks.shuffle import HISTORY_COLUMNS, Shuffle, shuffle
from tasks.workers import Workers, workers

PEER = Path(__file__).with_name("pack_webdataset.py")
IMAGES_PER_PART = 10_000
SAMPLES_PER_SHARD = 1_000
Times = tuple[float, float]
"""Seconds by the clock, and of processor."""


def make_pool(layout: Layout, num_images: int, kilobytes: int) -> dict[str, Manifest]:
    """Images of log-normal size (deviation 0.7 of the logarithm, as web photographs have), in tars of 10,000."""
    random = np.random.default_rng(kilobytes)
    sizes = np.maximum(2_000, random.lognormal(np.log(kilobytes * 1000) - 0.245, 0.7, num_images)).astype(int)
    tables: dict[str, list[pa.Table]] = {stage: [] for stage in ("retrieve", "download", "url_policy")}
    for part, start in enumerate(range(0, num_images, IMAGES_PER_PART)):
        rows = [
            _image(layout, f"pool-{part:05d}.tar", n, random.bytes(int(size)))
            for n, size in enumerate(sizes[start : start + IMAGES_PER_PART], start)
        ]
        with SampleWriter(f"{layout.root}/pool-{part:05d}.tar") as tar:
            for row in rows:
                row["image_offset"] = tar.add(row["id"], {"jpg": row.pop("data")})["jpg"][0]
        verdict = {"detail": "pets:sample", "value": 0.61803, "other": "0" * 24}
        page: dict[str, Any] = {
            "page_url": "https://an.example/gallery/page.html",
            "alt": "A photograph of something",
            "how": "img@src",
        }
        page |= {"crawl_file": "CC-MAIN-20260101-00001.warc.gz", "crawl_offset": 123456, "crawl_date": "2026-01-01"}
        tables["retrieve"].append(_table([row | verdict for row in rows], image_schema()))
        tables["download"].append(_table(rows, image_schema(pa.field("final_url", pa.string()))))
        types: dict[str, pa.DataType] = {"crawl_offset": pa.int64()}
        policy = verdict_schema(*(pa.field(n, types.get(n, pa.string())) for n in HISTORY_COLUMNS["url_policy"]))
        tables["url_policy"].append(_table([{"id": row["id"], **page} for row in rows], policy))
    tables["sources"] = [_table([], image_schema(pa.field("source", pa.string()), pa.field("split", pa.string())))]
    return {stage: _finished(layout, stage, parts) for stage, parts in tables.items()}


def _image(layout: Layout, file: str, number: int, data: bytes) -> dict[str, Any]:
    url = f"https://images.an.example/{number:09d}/photograph.jpg"
    shape: dict[str, Any] = {
        "width": 1024,
        "height": 768,
        "format": "JPEG",
        "image_file": file,
        "image_bytes": len(data),
    }
    key, sha256 = hashlib.sha256(url.encode()).hexdigest()[:24], hashlib.sha256(data).hexdigest()
    return {"id": key, "url": url, "sha256": sha256, "data": data, "final_url": url, **shape}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def _finished(layout: Layout, stage: str, tables: list[pa.Table]) -> Manifest:
    print_ = fingerprint(stage, 1, {}, {})
    folder, rows = layout.stage(stage, print_), sum(table.num_rows for table in tables)
    files = tuple(write_table(f"{folder}/part-{n:05d}.parquet", table) for n, table in enumerate(tables))
    manifest = Manifest(stage, 1, print_, folder, {}, {}, files, rows, rows, {})
    save_manifest(manifest)
    return manifest


def tars_of(dataset: Manifest) -> list[str]:
    """The dataset's shards, in order."""
    return sorted(dataset.file(entry.path) for entry in dataset.files if entry.path.endswith(".tar"))


def write_jobs(dataset: Manifest, layout: Layout, pool: dict[str, Manifest], path: Path) -> None:
    """What the peer is given: per sample the source file, offset, size, key and the finished JSON, in order."""
    places = {}
    for part in pool["retrieve"].paths(".parquet"):
        for row in read_table(part, ["id", "image_file", "image_offset", "image_bytes"]).to_pylist():
            places[row["id"]] = (layout.resolve(row["image_file"]), row["image_offset"], row["image_bytes"])
    with path.open("w", encoding="utf-8") as out:
        for sample in SampleReader(tars_of(dataset)):
            text = sample.members["json"].decode()
            out.write(json.dumps([sample.key, *places[sample.key], text]) + "\n")


def peer_python(folder: Path) -> str:
    """The interpreter of the peer's own environment, made once."""
    python = folder / "webdataset" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "webdataset")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "webdataset"], check=True)
    return str(python)


def run_peer(python: str, jobs: Path, out: Path, *, processes: int) -> dict[str, Any]:
    """Seconds of its writing alone, by the clock and of processor, and its version."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [python, str(PEER), str(jobs), str(out), str(SAMPLES_PER_SHARD), str(processes)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def copy(tars: list[str], out: Path, *, sync: bool) -> Times:
    """A plain copy of the shards, one after the other."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    started, busy = time.perf_counter(), time.process_time()
    for tar in tars:
        target = out / Path(tar).name
        shutil.copyfile(tar, target)
        if sync:
            with target.open("rb") as file:
                os.fsync(file.fileno())
    return time.perf_counter() - started, time.process_time() - busy


def measure_reading(tars: list[str], repeats: int) -> dict[str, float]:
    """Median seconds to read all samples (from the page cache), and to go on at the last sample of a shard."""
    last = Bookmark(0, SAMPLES_PER_SHARD - 1)
    ways: dict[str, Callable[[], int]] = {
        "SampleReader": lambda: sum(1 for _ in SampleReader(tars)),
        "SampleReader, checked": lambda: sum(1 for _ in SampleReader(tars, check=True)),
        "tarfile": lambda: sum(_with_tarfile(tar) for tar in tars) // 2,
        "webdataset": lambda: _with_webdataset(tars),
        "SampleReader, last sample of a shard": lambda: sum(1 for _ in SampleReader(tars[:1], last)),
        "tarfile, last sample of a shard": lambda: _with_tarfile(tars[0]) // 2 and 1,
    }
    counts = {name: way() for name, way in ways.items()}
    wanted = {name: 1 if "last" in name else SAMPLES_PER_SHARD * len(tars) for name in ways}
    if counts != wanted:
        raise RuntimeError(f"the readers disagree: {counts}, wanted {wanted}")
    return {name: round(median_seconds(way, repeats=repeats), 4) for name, way in ways.items()}


def _with_tarfile(path: str) -> int:
    count = 0
    with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            count += content is not None and content.read() is not None
    return count


def _with_webdataset(tars: list[str]) -> int:
    return sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))


def measure(folder: Path, python: str, *, num_images: int, kilobytes: int, repeats: int) -> dict[str, Any]:
    """Medians of every way, taken in turns so that a slow minute of the machine meets all of them."""
    shutil.rmtree(folder, ignore_errors=True)
    layout = Layout(str(folder / "run"))
    stages = make_pool(layout, num_images, kilobytes)
    history = {stage: stages[stage] for stage in HISTORY_COLUMNS}
    started = time.perf_counter()
    config = Shuffle(samples_per_shard=SAMPLES_PER_SHARD, shards_per_part=2)
    rows = shuffle.fn(stages["retrieve"], stages["sources"], as_is=(), history=history, config=config, layout=layout)
    shuffle_seconds = time.perf_counter() - started

    def ours(threads: int, *, verify: bool = True) -> tuple[Times, Manifest]:
        shutil.rmtree(folder / "run" / "datasets", ignore_errors=True)
        shutil.rmtree(folder / "run" / "receipts" / "pack", ignore_errors=True)
        begun, busy = time.perf_counter(), time.process_time()
        dataset = pack.fn(rows, composition=[], config=Pack(threads=threads, verify=verify), layout=layout)
        return (time.perf_counter() - begun, time.process_time() - busy), dataset

    def ours_by_workers(*, verify: bool = True) -> Times:
        with workers(Workers(num_workers=2)):
            ours(1)  # as a flow packs: its workers have done other stages before, and have imported what they need
            clock = ours(1, verify=verify)[0][0]
        return clock, 0.0  # their processors' time is not ours to see

    def theirs(processes: int) -> Times:
        told = run_peer(python, jobs, folder / "peer", processes=processes)
        return told["seconds"], told["processor_seconds"]

    _, dataset = ours(2)
    tars, jobs = tars_of(dataset), folder / "jobs.jsonl"
    write_jobs(dataset, layout, stages, jobs)
    version = run_peer(python, jobs, folder / "peer", processes=1)["version"]
    ways: dict[str, Callable[[], Times]] = {
        "ours, 1 thread": lambda: ours(1)[0],
        "ShardWriter, 1 process": lambda: theirs(1),
        "ours, 2 threads": lambda: ours(2)[0],
        "ours, 4 threads": lambda: ours(4)[0],
        "ours, 2 workers": ours_by_workers,
        "ours, 2 workers, unverified": lambda: ours_by_workers(verify=False),
        "ShardWriter, 2 processes": lambda: theirs(2),
        "plain copy": lambda: copy(tars, folder / "copy", sync=False),
        "plain copy, synced": lambda: copy(tars, folder / "copy", sync=True),
    }
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            os.sync()
            times[name].append(way())
    seconds = {name: [round(clock, 3) for clock, _ in values] for name, values in times.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    busy = {name: round(statistics.median(work for _, work in values), 3) or None for name, values in times.items()}
    mine = [name for name in ways if name.startswith("ours")]
    best = min(medians[name] for name in mine if "unverified" not in name)
    unverified = medians["ours, 2 workers, unverified"]
    num_bytes = sum(Path(tar).stat().st_size for tar in tars)
    reading = measure_reading(tars, repeats)
    shutil.rmtree(folder)
    return {
        "images": num_images,
        "mean_kilobytes": kilobytes,
        "bytes": num_bytes,
        "webdataset": version,
        "shuffle_seconds": round(shuffle_seconds, 3),
        "all_seconds": seconds,
        "median_seconds": medians,
        "median_processor_seconds": busy,
        "images_per_second": {name: round(num_images / value) for name, value in medians.items()},
        "times_shard_writer": {
            "one core": round(medians["ShardWriter, 1 process"] / medians["ours, 1 thread"], 2),
            "two cores": round(medians["ShardWriter, 2 processes"] / best, 2),
            "processor time": round((busy["ShardWriter, 1 process"] or 0) / (busy["ours, 1 thread"] or 1), 2),
            "as each comes": round(medians["ShardWriter, 1 process"] / best, 2),
            "as each comes, unverified as theirs": round(medians["ShardWriter, 1 process"] / unverified, 2),
        },
        "of_plain_copy": {
            "synced": round(medians["plain copy, synced"] / best, 3),
            "synced, unverified": round(medians["plain copy, synced"] / unverified, 3),
            "into the page cache": round(medians["plain copy"] / best, 3),
        },
        "reading_seconds": reading,
        "sha256_of_all_bytes_twice_seconds": round(2 * num_bytes / _sha256_bytes_per_second(), 3),
    }


def _sha256_bytes_per_second() -> float:
    data = os.urandom(1 << 24)
    started = time.perf_counter()
    for _ in range(16):
        hashlib.sha256(data).digest()
    return 16 * len(data) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kilobytes", type=int, nargs="+", default=[12, 40, 110])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "bench-pack")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "bench-pack-peers")
    parser.add_argument("--no-save", action="store_true")
    given = parser.parse_args()
    python, found, results = peer_python(given.peers), machine(), []
    for kilobytes in given.kilobytes:
        result = measure(given.folder, python, num_images=given.images, kilobytes=kilobytes, repeats=given.repeats)
        results.append(result)
        print(f"\n{given.images:,} images of {kilobytes} KB on average, {result['bytes'] / 1e6:,.0f} MB")
        for name, value in result["median_seconds"].items():
            rate = f"{result['images_per_second'][name]:9,d} images/s {result['bytes'] / value / 1e6:8,.0f} MB/s"
            busy = result["median_processor_seconds"][name]
            told = "" if busy is None else f"busy {busy:.2f} s"
            print(f"  {name:26s} {value:7.2f} s {told:13s} {rate}")
        for name, value in result["reading_seconds"].items():
            print(f"  read: {name:36s} {value:8.4f} s")
        ratios = {name: result[name] for name in ("times_shard_writer", "of_plain_copy")}
        print(f"  {ratios}")
        print(f"  SHA-256 alone, twice: {result['sha256_of_all_bytes_twice_seconds']} s of one core", flush=True)
    if not given.no_save:
        save("pack", {"machine": found, "samples_per_shard": SAMPLES_PER_SHARD, "results": results})


if __name__ == "__main__":
    main()
