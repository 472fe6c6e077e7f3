"""All that waits for a GPU, by one command: the tests marked `gpu`, then every benchmark that has a row for one.

    python -m bench.on_gpu [--only train_step dcnv3 ...] [--out FOLDER] [--list]

Each is a process of its own with a time limit, so that one that hangs or fails costs the others nothing. What is not
installed is named and its job left out: the tests of `ssl_train`, `train_step`, `methods`, `dcnv3`, `gpu_join` and
`gpu_kmeans` need no package but those of the core (and pytest). JSON goes to bench/results/ and, with `--out`, into
that folder too, with the log of each. Exit code 1 when a job failed, or a target of one was missed.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.measure import RESULTS

REPOSITORY = Path(__file__).parent.parent
_SHOWN_LINES = 12


@dataclass(frozen=True)
class Job:
    """A command of this Python, the packages that it needs beside the core, and the most that it may take."""

    name: str
    arguments: tuple[str, ...]
    limit_seconds: int
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.needs if find_spec(package) is None]


def _bench(name: str, limit_seconds: int, *options: str, needs: tuple[str, ...] = ()) -> Job:
    return Job(name, ("-m", f"bench.{name}", *options), limit_seconds, needs)


JOBS = (
    Job("tests", ("-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"), 600, ("pytest", "xdist", "prefect", "faiss")),
    Job(
        "training_tests",
        ("-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-m", "gpu", "tests/ssl_train"),
        600,
        ("pytest",),
    ),
    _bench("train_step", 1500),
    _bench("dcnv3", 420),
    _bench("gpu_join", 240),
    _bench("gpu_kmeans", 240),
    _bench("methods", 420),
    _bench("loader", 300, needs=("skimage", "webdataset")),
    _bench("encoding", 300, needs=("skimage", "onnxruntime")),
    _bench("nsfw", 300, needs=("onnxruntime", "nudenet", "skimage")),
)
"""By what a figure of it is worth: a machine may be taken back at any time."""


def run_job(job: Job, log: Path) -> str:
    """Run it, its output into `log`; `done`, `failed (exit code)`, `over its limit`, or what is `not installed`."""
    missing = job.missing()
    if missing:
        return f"not installed: {', '.join(missing)}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        command = [sys.executable, *job.arguments]
        try:
            code = subprocess.run(
                command, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, timeout=job.limit_seconds, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return f"over its limit of {job.limit_seconds} s"
    return "done" if code == 0 else f"failed ({code})"


def run_all(jobs: Sequence[Job], out: Path) -> dict[str, str]:
    """How each ended; its log, and the results that it wrote, lie in `out`."""
    ends = {}
    for job in jobs:
        started, clock = time.time(), time.perf_counter()
        log = out / f"{job.name}.log"
        ends[job.name] = run_job(job, log)
        print(f"{job.name}: {ends[job.name]}, {time.perf_counter() - clock:.0f} s", flush=True)
        if log.exists():
            print("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]))
        for result in RESULTS.glob("*.json"):
            if result.stat().st_mtime >= started:
                shutil.copy(result, out / result.name)
    return ends


def main(arguments: Sequence[str]) -> int:
    """Run the wanted jobs; 1 when one of them did not end well."""
    names = [job.name for job in JOBS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--list", action="store_true", help="say what would run, and what is not installed for it")
    options = parser.parse_args(arguments)
    jobs = [job for job in JOBS if job.name in options.only]
    if "tests" in options.only and not JOBS[0].missing():
        jobs = [job for job in jobs if job.name != "training_tests"]  # they are among all tests
    if options.list:
        for job in jobs:
            missing = ", ".join(job.missing())
            told = f"not installed: {missing}" if missing else f"at most {job.limit_seconds} s"
            print(f"{job.name:16s} {' '.join(job.arguments):60s} {told}")
        return 0
    if not _has_gpu():
        print("error: torch sees no GPU here. Run this on a machine with one.", file=sys.stderr)
        return 2
    ends = run_all(jobs, options.out)
    return 1 if any(end.startswith(("failed", "over")) for end in ends.values()) else 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
