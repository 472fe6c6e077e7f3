"""Peak memory of a worker in the first half of the chain, at two sizes of the crawl: it must not grow with the crawl.

Rows: `download` (parts of 5,000 URLs one after the other in one process), `screen` (geometry and thumbnails of what was
downloaded) and `safety` (NSFW and faces of the first images of it). Each in a process of its own; the peak is the
kernel's high-water mark of that process. Wanted: at most 1.5 GB, and no more at the larger size.

    python -m bench.memory [--images 10000 40000] [--rows download screen safety]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.download import make_pictures, ours_asked, serving, urls_of
from bench.download_ours import peak_kilobytes
from bench.measure import machine, save
from storage.layout import Layout
from tasks.filters import Faces, Geometry, Nsfw
from tasks.hashing.looks import Kind
from tasks.image_filter import ImageFilter, filter_part

WANTED_MEGABYTES = 1500
URLS_PER_PART = 5_000
ROWS = ("download", "screen", "safety")
_GROWTH = 1.1


def filtered(folder: str, row: str, parts: int) -> dict[str, float]:
    """Run a filter stage's parts on a finished download."""
    config = ImageFilter(filters=(Geometry(),) if row == "screen" else (Nsfw(), Faces()))
    hashes: Kind | None = "thumbnails" if row == "screen" else None
    images = 0
    for number in range(parts):
        part, out = f"{folder}/part-{number:05d}.parquet", f"{folder}/{row}-{number:05d}"
        images += filter_part(part, out, config=config, root=Layout(folder).root, hashes=hashes).rows_in
    return {"images": images, "peak_megabytes": peak_kilobytes() / 1024}


def child(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def measure(images: int, rows: list[str], folder: Path) -> dict[str, Any]:
    """Peaks at one size."""
    with serving(folder / "pictures", "--processes", "1") as port:
        listed, out = folder / f"urls-{images}.txt", folder / f"out-{images}"
        listed.write_text("\n".join(urls_of("originals", images, port)))
        asked = {"urls": str(listed), "folder": str(out), "urls_per_part": URLS_PER_PART, "mode": "originals"}
        found = {"download": child(["bench.download_ours", json.dumps(asked | {"config": ours_asked("originals")})])}
    parts = -(-images // URLS_PER_PART)
    for row in rows:
        if row != "download":
            found[row] = child(["bench.memory", "--child", row, "--folder", str(out), "--parts", str(parts)])
    shutil.rmtree(out)
    peaks = {row: round(found[row]["peak_megabytes"], 1) for row in rows}
    print(images, peaks, flush=True)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=[10_000, 40_000])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS[:2]))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(filtered(asked.folder, asked.child, asked.parts)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-memory-"))
    try:
        make_pictures(folder / "pictures")
        small, large = (measure(images, asked.rows, folder) for images in asked.images)
    finally:
        shutil.rmtree(folder)
    flat = {row: large[row] <= max(_GROWTH * small[row], small[row] + 50) for row in asked.rows}
    content = {
        "machine": machine(),
        "images": asked.images,
        "peak_megabytes": {row: [small[row], large[row]] for row in asked.rows},
        "flat": flat,
        "wanted_megabytes": WANTED_MEGABYTES,
    }
    save("memory", content)


if __name__ == "__main__":
    main()
