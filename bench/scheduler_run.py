"""One size of `bench.scheduler`, in the process that it measures: python -m bench.scheduler_run PARTS FOLDER."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from prefect import flow

from storage.layout import Layout
from storage.manifest import FileEntry
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task
from tasks.workers import Workers, workers

NUM_WORKERS = 2
MOST_RESUMED = 20_000
"""Parts up to which the killed run is measured, too: a part that is done costs the same look whatever their number."""
_EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Nothing(StageConfig):
    """A stage whose parts do nothing."""

    num_parts: int


def nothing_part(part: str, out: str) -> Outcome:
    """Two empty files."""
    entries = []
    for suffix in ("tar", "npy"):
        path = Path(f"{out}.{suffix}")
        path.touch()
        entries.append(FileEntry(path.name, 0, 0, _EMPTY_SHA256))
    return Outcome(10_000, 9_000, {"too_small": 600, "truncated": 400}, entries)


@stage_task(name="nothing")
def nothing(config: Nothing, layout: Layout) -> dict[str, float]:
    """The stage; seconds of its steps."""
    started = time.perf_counter()
    stage = Stage("nothing", version=1, config=config, inputs={}, layout=layout)
    if stage.finished:
        stage.reuse()
        return {"reuse": time.perf_counter() - started}
    parts = [f"{layout.root}/stages/images/0123456789abcdef/part-{n:05d}.parquet" for n in range(config.num_parts)]
    outcomes = stage.map(nothing_part, parts)
    mapped = time.perf_counter()
    manifest = stage.publish(outcomes)
    size = Path(manifest.path).stat().st_size
    return {"map": mapped - started, "publish": time.perf_counter() - mapped, "manifest_bytes": size}


@flow(name="scheduler-bench", validate_parameters=False)
def run(config: Nothing, layout: Layout, address: str) -> dict[str, float]:
    """One run of the flow."""
    with workers(Workers(address=address)):
        return nothing(config, layout)


def main() -> None:
    """From nothing; with the manifest lost (where there are not too many parts); finished. Prints one line of JSON."""
    config, layout = Nothing(num_parts=int(sys.argv[1])), Layout(sys.argv[2] + "/run")
    with cluster(Path(sys.argv[2])) as (address, processes):
        pids = processes | {"flow": os.getpid()}
        start = {name: peak_megabytes(pid) for name, pid in pids.items()}
        busy = {name: processor_seconds(pid) for name, pid in pids.items()}
        first = run(config, layout, address)
        busy = {name: processor_seconds(pid) - busy[name] for name, pid in pids.items()}
        peak = {name: peak_megabytes(pid) for name, pid in pids.items()}
        resumed = None
        if config.num_parts <= MOST_RESUMED:
            (manifest,) = Path(layout.root).glob("stages/nothing/*/manifest.json")
            manifest.unlink()
            resumed = run(config, layout, address)["map"]
        reused = run(config, layout, address)
        peak_after_all = {name: peak_megabytes(pid) for name, pid in pids.items()}
    found: dict[str, Any] = {
        "parts": config.num_parts,
        "seconds": round(first["map"], 1),
        "milliseconds_per_part": round(1e3 * first["map"] / config.num_parts, 3),
        "milliseconds_per_part_resumed": None if resumed is None else round(1e3 * resumed / config.num_parts, 3),
        "processor_milliseconds_per_part": {
            name: round(1e3 * used / config.num_parts, 3) for name, used in busy.items()
        },
        "seconds_to_publish": round(first["publish"], 2),
        "seconds_reused": round(reused["reuse"], 2),
        "manifest_megabytes": round(first["manifest_bytes"] / 1e6, 2),
        "megabytes_at_start": start,
        "peak_megabytes": peak,
        "peak_megabytes_after_resume_and_reuse": peak_after_all,
    }
    print(json.dumps(found))


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """A scheduler and its workers as processes of their own: (address, process ids by name)."""
    with ExitStack() as stack:
        told = folder / "scheduler.json"
        flags = ["--no-dashboard", "--scheduler-file", str(told)]
        where = ["--host", "127.0.0.1", "--port", "0"]
        pids = {"scheduler": _started(stack, "dask_scheduler", [*where, *flags])}
        while not told.exists():
            time.sleep(0.1)
        for number in range(NUM_WORKERS):
            local = ["--nthreads", "1", "--memory-limit", "0", "--local-directory", str(folder / f"dask-{number}")]
            pids[f"worker_{number}"] = _started(stack, "dask_worker", [*flags, "--no-nanny", *local])
        yield json.loads(told.read_text())["address"], pids


def _started(stack: ExitStack, program: str, arguments: list[str]) -> int:
    command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    stack.callback(process.terminate)
    return process.pid


def peak_megabytes(pid: int) -> float:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024, 1)


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used, in the program and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
