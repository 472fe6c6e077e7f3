"""WARC → URL rows (every way of naming an image, canonical URLs, ids, Parquet written) beside FastWARC + selectolax
taking img@src alone and warcio + lxml; memory at two sizes of a crawl file; a million URLs through the policy.

    python -m bench.extract [FOLDER] [--pages DIR] [--num-pages 4000] [--repeats 5] [--num-urls 1000000]

FOLDER (by default bench-crawl among temporary files) keeps the peers' environment, the pages and the crawl files. CPU
seconds of processes of their own, by turns. The sample is `--num-pages` of the packages' 8,705 pages.

A documentation page takes 130 us here, the first peer 155. On a loaded machine, where it took 155, they went to:
reading and decompressing 39, charset 7, the pass that finds the image tags 32, lexbor and attributes of these tags
alone 23, URLs, ids and rows 25, Arrow and Parquet 4; the rest is load. While lexbor built the tree of every page
(100, its walk 55, marks of images 28, limits 20) a page took 232. Peers build that tree too, and lxml's is three
times as dear.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.crawl_peers import (
    alternated,
    default_folder,
    in_process,
    page_files,
    peer_python,
    warc_records,
    write_records,
)
from bench.measure import machine, peak_megabytes, save
from tasks.extract import SCHEMA, Extract, extract_part
from tasks.url_policy import UrlPolicy, deduplicate_bucket, judge_run
from tasks.web.crawl_files import CrawlFile, Kind
from tasks.web.urls import url_id

_PEERS = ("fastwarc>=2.0", "selectolax>=1.0", "warcio", "lxml")
WANTED = {"fastwarc_selectolax": 0.8, "warcio_lxml": 3.0}
_RUN = Path(__file__).with_name("crawl_peer_run.py")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--peer-python", type=Path, help="of an environment that has the peers")
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--num-pages", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-urls", type=int, default=1_000_000)
    parser.add_argument("--run", help="(inner) read this crawl file once and print the CPU seconds")
    options = parser.parse_args()
    if options.run:
        print(json.dumps(ours(options.run)))
        return
    found = speeds(options)
    result = {"machine": machine(), **found, "memory": memory(options), "policy": policy(options.num_urls)}
    save("extract", result)


def ours(path: str) -> dict[str, Any]:
    """The stage's own part function on one crawl file; the second of two runs, as with the peers."""
    kind: Kind = "wat" if ".wat" in path else "warc"
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            started = time.process_time()
            outcome = extract_part(CrawlFile(path, kind), f"{folder}/part", config=Extract(crawl=(path,)))
    return {"rows": outcome.rows_in, "cpu_seconds": time.process_time() - started, "pages": outcome.facts["pages"]}


def speeds(options: argparse.Namespace) -> dict[str, Any]:
    """Pages per CPU second of us and of both peers."""
    python = peer_python(options.peer_python, options.folder, _PEERS)
    pages = page_files(options.folder, options.pages)[: options.num_pages]
    path = options.folder / f"pages-{len(pages)}.warc.gz"
    if not path.exists():
        write_records(path, warc_records(pages))
    runs = {
        "ours": lambda: in_process(sys.executable, ["-m", "bench.extract", str(options.folder), "--run", str(path)]),
        "fastwarc_selectolax": lambda: in_process(python, [str(_RUN), "fastwarc_selectolax", str(path)]),
        "warcio_lxml": lambda: in_process(python, [str(_RUN), "warcio_lxml", str(path)]),
    }
    found = alternated(runs, pages=len(pages), repeats=options.repeats)
    rate = {name: one["pages_per_cpu_second"] for name, one in found.items()}
    ratios = {name: round(rate["ours"] / rate[name], 2) for name in rate if name != "ours"}
    for name, one in found.items():
        print(f"{name}: {one['pages_per_cpu_second']} pages/CPU s, {one['rows']} rows")
    print(f"ours / peers: {ratios} (wanted: 0.8 and 3)")
    sizes = {"pages": len(pages), "megabytes_gz": round(path.stat().st_size / 1e6, 1)}
    return {"sample": sizes, "runs": found, "times_the_peer": ratios, "wanted": WANTED}


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak of the part function on a crawl file, and on one eight times as large."""
    pages = page_files(options.folder, options.pages)[: max(1, options.num_pages // 4)]
    found = {}
    for times in (1, 8):
        path = options.folder / f"pages-{len(pages)}-times-{times}.warc.gz"
        if not path.exists():
            write_records(path, warc_records(pages * times))
        result, megabytes = peak_megabytes(ours, str(path))
        found[f"{len(pages) * times} pages"] = {"rows": result["rows"], "peak_megabytes": round(megabytes)}
        path.unlink()
    print(f"memory: {found}")
    return found


def policy(num_urls: int) -> dict[str, Any]:
    """CPU seconds of judging and of deduplicating URLs of 100,000 hosts, a tenth of them twice, and the peaks."""
    with tempfile.TemporaryDirectory() as folder:
        part = f"{folder}/part-00000.parquet"
        _write_urls(part, num_urls)
        judged, judging = peak_megabytes(_judge, part, f"{folder}/judged")
        (buckets, seconds), deduplicating = peak_megabytes(_deduplicate, f"{folder}/judged.parquet", f"{folder}/bucket")
    found = {
        "urls": num_urls,
        "urls_per_cpu_second": round(num_urls / (judged + seconds)),
        "judge_cpu_seconds": round(judged, 2),
        "judge_peak_megabytes": round(judging),
        "deduplicate_cpu_seconds": round(seconds, 2),
        "deduplicate_peak_megabytes": round(deduplicating),
        "kept": buckets,
    }
    print(f"policy: {found}")
    return found


def _judge(part: str, out: str) -> float:
    started = time.process_time()
    config = UrlPolicy(blocked_patterns=("[?&]pixel=",), blocked_extensions=frozenset({"svg"}))
    judge_run([part], out, config=config, lists="", num_buckets=1)
    return time.process_time() - started


def _deduplicate(judged: str, out: str) -> tuple[int, float]:
    started = time.process_time()
    outcome = deduplicate_bucket(0, out, judged=[judged], urls_per_part=10_000)
    return outcome.rows_kept, time.process_time() - started


def _write_urls(path: str, num_urls: int) -> None:
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    hosts, names = rng.zipf(1.3, num_urls) % 100_000, rng.integers(0, 9 * num_urls // 10, num_urls)
    urls = [
        f"https://img.host{host}.example.com/media/2026/photo-{name}.jpg"
        for host, name in zip(hosts, names, strict=True)
    ]
    columns = {"id": [url_id(url) for url in urls], "url": urls}
    columns |= {"page_url": [f"https://www.host{host}.example.com/articles/{n % 9999}" for n, host in enumerate(hosts)]}
    columns |= {"how": ["img@src"] * num_urls, "crawl_file": ["CC-MAIN-2026-01-00000.warc.wat.gz"] * num_urls}
    table = pa.table({field.name: columns.get(field.name, [None] * num_urls) for field in SCHEMA}, schema=SCHEMA)
    pq.write_table(table, path, compression="zstd")


if __name__ == "__main__":
    main()
