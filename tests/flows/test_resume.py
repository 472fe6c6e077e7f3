"""kill -9 anywhere, start again: the dataset is, to the byte, the one of an uninterrupted run."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import Finished, Served, write_config

# What must be on disk before each kill: in the middle of a stage's parts, between stages, and in the training.
POINTS: list[tuple[str, Callable[[Path], bool]]] = [
    ("download", lambda root: len(list(root.glob("receipts/download/*/part-*.json"))) >= 2),
    ("safety", lambda root: len(list(root.glob("receipts/safety/*/part-*.json"))) >= 1),
    ("cluster", lambda root: any(root.glob("stages/embed/*/manifest.json"))),
    ("training", lambda root: any(root.glob("stages/pretrain/*/checkpoints/step-*/run.json"))),
]


def dataset_bytes(root: Path) -> dict[str, bytes]:
    files = [path for path in root.glob("datasets/*/*") if path.name != "timing.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def start(config: Path, api: str) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "flows.command_line", "run", str(config)]
    log = config.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PREFECT_API_URL": api})


def kill_when(process: "subprocess.Popen[bytes]", reached: Callable[[Path], bool], root: Path) -> bool:
    """SIGKILL as soon as the point is reached; False when the run ended before."""
    while process.poll() is None:
        if reached(root):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    return False


@pytest.mark.timeout(280)
def test_killed_at_several_points_the_run_ends_in_the_same_bytes(
    finished: Finished, served: Served, prefect_server: str, tmp_path: Path
) -> None:
    root = tmp_path / "lvd"
    config = write_config(served.config(root), tmp_path / "run.yaml")
    for name, reached in POINTS:
        process = start(config, prefect_server)
        killed = kill_when(process, reached, root)
        assert killed, f"{name}: ended with {process.returncode}\n{config.with_suffix('.log').read_text()[-3000:]}"
    process = start(config, prefect_server)
    assert process.wait() == 0, config.with_suffix(".log").read_text()[-3000:]
    expected, found = dataset_bytes(finished.root), dataset_bytes(root)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    teachers = [next(folder.glob("stages/pretrain/*/teacher.safetensors")) for folder in (root, finished.root)]
    assert teachers[0].read_bytes() == teachers[1].read_bytes()
