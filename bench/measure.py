"""What every benchmark shares: which machine it is, medians, the peak memory of a piece of work, JSON of it."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "faiss-cpu", "numpy", "numba", "scipy", "pyarrow", "webdataset")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions and commit: what a figure means nothing without."""
    model = next((line.split(":", 1)[1].strip() for line in _cpu_info() if line.startswith("model name")), "unknown")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit.stdout.strip(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def median_seconds(function: Callable[[], object], *, repeats: int = 3) -> float:
    """Median wall seconds of `repeats` calls; what must be warm is the caller's to warm."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_megabytes(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """(result, MB): what `function` returns, run in a process of its own, and by how much its memory rose at most.

    Function, arguments and result must be picklable. Raises RuntimeError when the process dies.
    """
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(there, function, arguments))
    process.start()
    there.close()
    try:
        result, megabytes = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode} and no result") from None
    process.join()
    return result, megabytes


def save(name: str, content: dict[str, Any], folder: Path = RESULTS) -> Path:
    """bench/results/<name>.json, readable."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


def _measured(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew, after the imports
    before = _status("VmRSS")
    result = function(*arguments)
    pipe.send((result, (_status("VmHWM") - before) / 1024))


def _status(field: str) -> int:
    """KiB by /proc, not by getrusage: that one inherits the peak of the process that forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
