"""Our download of a list of URLs, for bench.download and bench.download_memory: a process of its own.

`python -m bench.download_ours '{"urls": "urls.txt", "folder": "out", "mode": "originals", ...}'` prints a line of JSON.
It runs what a worker of the stage runs: the part's rows in, policy and politeness on, tar and table out.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.layout import Layout
from storage.tables import kept, read_table, write_table
from tasks.packing.images import Bounded, Row, write_shard
from tasks.web.part import Download, download_part
from tasks.web.policy_config import UrlPolicy
from tasks.web.urls import url_id

COPIES = Bounded(max_side=341, quality=95)
"""Of pictures of 512 x 384 these are 341 x 256; the quality is the peer's default."""
_COLUMNS = ("id", "sha256", "width", "height", "format", "image_file", "image_offset", "image_bytes")


def write_parts(urls: list[str], folder: Path, urls_per_part: int) -> list[str]:
    """Tables as the URL policy leaves them."""
    paths = []
    for start in range(0, len(urls), urls_per_part):
        some = urls[start : start + urls_per_part]
        nothing, page = pa.nulls(len(some), pa.string()), ["https://page.example/"] * len(some)
        table = pa.table(
            {"id": [url_id(url) for url in some], "drop": nothing, "url": some, "page_url": page,
             "alt": ["a photograph"] * len(some), "crawl_date": ["2026-11-01"] * len(some)}
        )  # fmt: skip
        paths.append(str(folder / f"urls-{start}.parquet"))
        write_table(paths[-1], table)
    return paths


def copies(out: str, layout: Layout) -> int:
    """Of every image of a part a copy whose shorter side is 256 pixels, as the peer's `keep_ratio` makes, by what packs
    datasets of bounded images: a JSON beside each, an index, the SHA-256 of all.

    The images' own are not compared again: they were hashed a moment ago. Ours are made smaller by an antialiased
    bicubic filter, the peer's by the mean of the area; how near either comes to the truth: `bench.copy_quality`.
    Of 1.25 ms an image 0.53 are libjpeg-turbo's decode, 0.24 torch's filter and 0.26 the encode at quality 95; OpenCV
    takes 1.53 for the peer's three (0.58, 0.69, 0.26), so that the ratio rests on what stands around them.
    """
    found = kept(read_table(f"{out}.parquet")).to_pylist()
    rows = [
        Row(order, lineage="{}", **{name: row[name] for name in _COLUMNS}, url=json.dumps(row["url"]))
        for order, row in enumerate(found)
    ]
    return write_shard(rows, f"{out}.copies.tar", COPIES, layout, verify=False).rows_kept


def peak_kilobytes() -> int:
    """The kernel's high-water mark; getrusage would tell the peak of the process that started this one, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def run(asked: dict[str, Any]) -> dict[str, float]:
    folder = Path(asked["folder"])
    folder.mkdir(parents=True)
    config = Download(**asked["config"])
    layout = Layout(str(folder))
    parts = write_parts(Path(asked["urls"]).read_text().split(), folder, asked["urls_per_part"])
    started = time.perf_counter()
    images = 0
    for number, part in enumerate(parts):
        out = str(folder / f"part-{number:05d}")
        work = {"urls": part, "earlier": None}
        policy = UrlPolicy(allow_networks=config.allow_networks)
        outcome = download_part(work, out, config=config, policy=policy, lists="", root=layout.root)
        images += outcome.rows_kept
        if asked["mode"] == "copies":
            copies(out, layout)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images": images,
        "cpu_seconds": after.ru_utime + after.ru_stime,  # from the start of the process, as the peer's
        "wall_seconds": time.perf_counter() - started,
        "peak_megabytes": peak_kilobytes() / 1024,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
