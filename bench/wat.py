"""WAT → URL rows (canonical URLs, ids, Parquet written) beside cc2dataset 1.5's own process_wat, without its Spark.

    python -m bench.wat [FOLDER] [--pages DIR] [--num-pages 4000] [--repeats 5]

FOLDER (by default bench-crawl among temporary files) keeps the peer's environment (1 GB, for it needs pyspark), the
pages and the crawl file, which has three records a page as Common Crawl's have. CPU seconds of processes of their own,
by turns.
"""

import argparse
import sys
from pathlib import Path

from bench.crawl_peers import (
    alternated,
    default_folder,
    in_process,
    page_files,
    peer_python,
    wat_records,
    write_records,
)
from bench.measure import machine, save

WANTED = 1.5
_RUN = Path(__file__).with_name("crawl_peer_run.py")


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--peer-python", type=Path, help="of an environment that has the peers")
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--num-pages", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    python = peer_python(options.peer_python, options.folder, ("cc2dataset==1.5.0",))
    pages = page_files(options.folder, options.pages)[: options.num_pages]
    path = options.folder / f"pages-{len(pages)}.warc.wat.gz"
    if not path.exists():
        write_records(path, wat_records(pages))
    runs = {
        "ours": lambda: in_process(sys.executable, ["-m", "bench.extract", str(options.folder), "--run", str(path)]),
        "cc2dataset": lambda: in_process(python, [str(_RUN), "cc2dataset", str(path)]),
    }
    found = alternated(runs, pages=len(pages), repeats=options.repeats)
    ratio = round(found["ours"]["pages_per_cpu_second"] / found["cc2dataset"]["pages_per_cpu_second"], 2)
    for name, one in found.items():
        print(f"{name}: {one['pages_per_cpu_second']} pages/CPU s, {one['rows']} rows")
    print(f"ours / cc2dataset: {ratio} (wanted: {WANTED})")
    sizes = {"pages": len(pages), "megabytes_gz": round(path.stat().st_size / 1e6, 1)}
    save("wat", {"machine": machine(), "sample": sizes, "runs": found, "times_the_peer": ratio, "wanted": WANTED})


if __name__ == "__main__":
    main()
