"""The download beside img2dataset 1.47, from the same loopback web, in the same run.

Rows. `originals`: original bytes into tars, hashes and a table beside them (ours with robots.txt, reservations, policy,
the check of every file's marks, SHA-256 and MD5 of every file, SHA-256 of the tar; the peer with `resize_mode=no`,
`disable_all_reencoding`, `compute_hash=sha256`). `originals_sha256`: ours without the MD5, which the peer has not.
`copies`: originals, and a copy of every image whose shorter side is 256 pixels (the peer's `keep_ratio`), ours by the
packing's own function (bicubic, antialiased), the peer's by the mean of the area; `psnr_decibels`: of either side's
encoded copies, by two truths. These count images per second of processor of whole processes, from their start, the
web's own not counted: `times`. The peer's start (imports in three processes) is 5.7 s here, as much as 8,000 images, so
each also does 400 images, and `times_without_starts` has those taken off: what remains on a long crawl.
`hosts`: 1,000 hosts that answer after 50 ms, of which 2 % are dead and 1 % send a byte a second, by the clock; here the
peer's processes may use all cores, ours is one. The peer waits for the dripping ones as long as they drip and is
stopped in the end; `hosts_without_drip` leaves them out, so that there is a figure to compare.

Where an image's microseconds of processor go in ours, in `originals` (files of 45 KB, one core of a Zen 5; hashes, disk
and rows each alone in a loop; sockets and bytes moved by `perf`'s shares; the engine from both).
They sum to 90; a whole run, with the web on the same two cores, takes 119 without the MD5 and 152 with it:

    SHA-256 of the tar and of the file       31   the tar's chain alone is 24 (two rounds wait 4 cycles for the two
                                                  before: 128 a block), both together keep the SHA unit busy (160)
    MD5 of the file                           6   64 files in the lanes of AVX-512; one by one it is 60
    sockets, in the kernel                   15   a request sent, 45 KB copied out; loopback's other half is the web's
    engine: request, head, marks, limits     22   Python, 200 calls an image
    bytes of the body moved                   6   out of the loop's buffer, off the head, into the shard's buffer
    order, row, tar header, table             7   Python and Arrow
    shard to the disk                         3   past the page cache: 9 to 78 through it, as its pages are old or new

Before, with 195: SHA-256 52, MD5 38, page cache 50, Python 55. Eight times the peer without starts (550 to 670 by its
run) is 70 to 83. Both hashes and the kernel are 52 of that, so what is left for all else is 18 to 31 where Python needs
35: no more tuning of calls gives that, a client in C would (facts/packages.md, E: pycurl, one SHA-256 a file, tar
through the cache, no checks, no rows, no policy: 55). A start is imports, and numba's of the two hashes (0.4 s; a
part of fewer than 300 images does without).

The peer lives in a virtual environment of its own, made at the first run (or given by --peer-python).

    python -m bench.download [--images 8000] [--repeats 3] [--rows originals copies hosts ...]
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.copy_quality import copy_quality
from bench.measure import machine, save
from storage.filesystem import default_cache
from storage.images import encode_jpeg

PEER = "img2dataset==1.47.0"
TARGETS = {"originals": 8.0, "originals_sha256": 8.0, "copies": 2.2, "hosts": 3.0, "hosts_without_drip": 3.0}
_PICTURES = 300
_HOSTS = 1000
_GIVE_UP_SECONDS = 180
_START_IMAGES = 400  # enough for ours to load its compiled hashes, which a few images do without
_PEER_OF_THE_ISSUE = 722
"""Images per second of processor that the issue names for the peer (facts/packages.md, E)."""


def make_pictures(folder: Path, count: int = _PICTURES) -> float:
    """JPEGs of 512 x 384, smooth with grain; returns their mean size in KB (about 45)."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        smooth = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (512, 384), interpolation=cv2.INTER_CUBIC)
        grain = cv2.resize(random.normal(0, 1, (192, 256, 3)).astype(np.float32), (512, 384))
        pixels = np.clip(smooth + grain * random.uniform(8, 26), 0, 255).astype(np.uint8)
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(pixels, quality=int(random.integers(75, 92))))
    return sum(path.stat().st_size for path in folder.glob("*.jpg")) / count / 1000


@contextmanager
def serving(pictures: Path, *arguments: str) -> Iterator[int]:
    """The web, in processes of its own; its port."""
    command = [sys.executable, "-m", "bench.download_server", str(pictures), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the web has no pipes")
        yield int(process.stdout.readline())
        process.stdin.close()  # its sign to end; where the block fails, leaving it closes the pipe, too


def peer_python() -> str:
    """The peer's environment, made where there is none."""
    folder = Path(default_cache()) / "peers" / PEER.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER], check=True)
        (folder / "ready").touch()
    return str(python)


def urls_of(row: str, images: int, port: int) -> list[str]:
    """Of one host; in the row `hosts` of a thousand, each at an address of its own."""
    if not row.startswith("hosts"):
        return [f"http://127.0.0.1:{port}/{number}.jpg" for number in range(images)]
    hosts = [f"127.{1 + n // 250}.0.{1 + n % 250}" for n in range(_HOSTS)]
    return [f"http://{hosts[number % _HOSTS]}:{port}/{number}.jpg" for number in range(images)]


def ours_asked(row: str) -> dict[str, Any]:
    """As polite as it may be told to be to one's own server: no rate, many requests at a time."""
    fast = {"allow_networks": ["127.0.0.0/8"], "requests_per_second_per_domain": 100_000, "retry_seconds": 0.1}
    if row.startswith("hosts"):
        return fast | {"concurrency": 2000, "concurrency_per_domain": 4, "total_seconds": 10, "connect_seconds": 10}
    return fast | {"concurrency": 64, "concurrency_per_domain": 64, "md5": row != "originals_sha256"}


def measure(command: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """One process's own figures; `ended` is false where it had to be stopped."""
    shutil.rmtree(asked["folder"], ignore_errors=True)
    with subprocess.Popen(
        [*command, json.dumps(asked)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=_GIVE_UP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its worker processes, too
            return {"ended": False, "wall_seconds": _GIVE_UP_SECONDS}
    if process.returncode:
        raise RuntimeError(f"{command} ended with exit code {process.returncode}")
    figures: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return figures | {"ended": True}


def compare(row: str, *, folder: Path, peer: str, images: int, repeats: int, processes: int) -> dict[str, Any]:
    """Both on the same URLs, turn by turn; medians."""
    slow = ["--latency", "0.05", "--dead", "20"]
    web = {"hosts": [*slow, "--dripping", "10"], "hosts_without_drip": slow}.get(row, [])
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "img2dataset": []}
    with serving(folder / "pictures", "--processes", "2", *web) as port:
        listed = folder / "urls.txt"
        listed.write_text("\n".join(urls_of(row, images, port)))
        common = {"urls": str(listed), "folder": str(folder / "out"), "urls_per_part": 10_000,
                  "mode": "copies" if row == "copies" else "originals"}  # fmt: skip
        theirs = {"processes": processes, "threads": 64, "seconds": 10}
        ours, script = [sys.executable, "-m", "bench.download_ours"], str(Path(__file__).with_name("download_peer.py"))
        few = folder / "few.txt"
        few.write_text("\n".join(urls_of(row, _START_IMAGES, port)))
        start = {}
        if not row.startswith("hosts"):
            start["ours"] = measure(ours, common | {"urls": str(few), "config": ours_asked(row)})
            start["img2dataset"] = measure([peer, script], common | theirs | {"urls": str(few)})
        for _ in range(repeats):
            runs["ours"].append(measure(ours, common | {"config": ours_asked(row)}))
            if all(one["ended"] for one in runs["img2dataset"]):  # what did not end once is not waited for again
                runs["img2dataset"].append(measure([peer, script], common | theirs))
    result = summary(row, runs)
    if start:
        further = {who: [_after(one, start[who]) for one in found] for who, found in runs.items()}
        without = summary(row, further)
        result["images_per_cpu_second_without_starts"] = without["images_per_cpu_second"]
        result["times_without_starts"] = without["times"]
        if row.startswith("originals"):
            result["times_the_issues_722_without_starts"] = without["times_the_issues_722"]
        result["starts"] = start
    return result


def _after(figures: dict[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """A run without its start."""
    if not (figures["ended"] and start["ended"]):
        return figures
    return figures | {key: figures[key] - start[key] for key in ("images", "cpu_seconds")}


def summary(row: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and how many times ours is faster: per second of processor, or by the clock for `hosts`."""
    rates = {}
    for who, figures in runs.items():
        key = "wall_seconds" if row.startswith("hosts") else "cpu_seconds"
        ended = [one for one in figures if one["ended"]]
        rates[who] = statistics.median(one["images"] / one[key] for one in ended) if ended else 0.0
    times = round(rates["ours"] / rates["img2dataset"], 2) if rates["img2dataset"] else None
    unit = "images_per_second" if row.startswith("hosts") else "images_per_cpu_second"
    result = {unit: {who: round(rate, 1) for who, rate in rates.items()}, "times": times, "wanted": TARGETS[row]}
    if row.startswith("originals"):
        result["times_the_issues_722"] = round(rates["ours"] / _PEER_OF_THE_ISSUE, 2)
    print(row, result, flush=True)
    return result | {"runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--processes", type=int, default=2, help="the peer's processes")
    parser.add_argument("--peer-python", help="Python of an environment that has the peer")
    asked = parser.parse_args()
    peer = asked.peer_python or peer_python()
    folder = Path(tempfile.mkdtemp(prefix="bench-download-"))
    try:
        content: dict[str, Any] = {"machine": machine(), "peer": PEER, "images": asked.images}
        content["mean_kilobytes"] = round(make_pictures(folder / "pictures"), 1)
        for row in asked.rows:
            content[row] = compare(
                row, folder=folder, peer=peer, images=asked.images, repeats=asked.repeats, processes=asked.processes
            )
        if "copies" in asked.rows:
            some = [path.read_bytes() for path in sorted((folder / "pictures").glob("*.jpg"))[:40]]
            content["copies"]["psnr_decibels"] = copy_quality(some)
        save("download", content)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
