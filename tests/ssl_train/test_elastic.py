"""What becomes of a training whose processes are killed: one history of three lives, from which each law is read."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from storage.samples import SampleWriter
from tests.ssl_train import dies

DIES_BEFORE, KILLED_AFTER, STEPS = 2, 4, 6


@dataclass(frozen=True)
class History:
    """One of two processes dies before its third step, torchrun after step 4, and another torchrun goes on."""

    output: Path
    marker: Path
    first: str
    """What the first torchrun and its processes said, until all of them had let go of its output."""
    between: Mapping[str, Any]
    """By name: is there a `teacher.json` after the first, and was a line of step 4 seen?"""
    second: str
    code: int


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    return subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def history(photographs: str, tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("elastic")
    output, marker, shard = folder / "run", folder / "died", str(folder / "part-00000.tar")
    with SampleWriter(shard) as writer:
        for path in sorted(Path(photographs).iterdir()):
            writer.add(path.stem, {"jpg": path.read_bytes(), "json": b"{}"})
    settings = (
        "debug",
        f"data.shards={shard}",
        f"output_dir={output}",
        f"num_steps={STEPS}",
        "model.image_size=32",
        "augment={global_pixels: 32, local_pixels: 16, num_local: 1}",
        "data.batch_images=4",
        "method.group_images=2",
        "method.dino_head={num_prototypes: 32, hidden_dim: 32, bottleneck_dim: 16}",
        f"checkpoint={{every_steps: 1, export_every_steps: {KILLED_AFTER}, asynchronous: true}}",
        "metrics.print_seconds=0",
    )
    said = []
    with torchrun(dies.__file__, "at-step", str(DIES_BEFORE), str(marker), *settings) as first:
        assert first.stdout is not None
        for line in first.stdout:  # ends only when all processes have let go of it
            said.append(line)
            if line.startswith(f"step {KILLED_AFTER}/{STEPS}"):
                first.kill()  # torchrun alone: its processes must not outlive it
    between = {
        "finished": (output / "teacher.json").exists(),
        "killed": any(line.startswith(f"step {KILLED_AFTER}/{STEPS}") for line in said),
    }
    with torchrun("-m", "ssl_train.train", *settings) as second:
        text, _ = second.communicate(timeout=120)
    return History(output, marker, "".join(said), between, text, second.returncode)


def test_when_a_process_dies_all_are_started_again_and_go_on_from_the_newest_whole_checkpoint(history: History) -> None:
    assert history.marker.exists()
    assert history.first.count(f"starting at step 0/{STEPS}") == 1, history.first
    resumed = [f"resuming at step {step}/{STEPS}" for step in range(1, DIES_BEFORE + 1)]
    assert any(line in history.first for line in resumed), history.first


def test_when_torchrun_is_killed_its_processes_do_not_outlive_it(history: History) -> None:
    assert history.between == {"finished": False, "killed": True}, history.first


def test_a_second_torchrun_goes_on_and_finishes_and_every_step_is_told_once(history: History) -> None:
    assert history.code == 0, history.second
    assert "resuming at step" in history.second
    assert [line["step"] for line in read_metrics(str(history.output))] == list(range(1, STEPS + 1))
    facts = json.loads((history.output / "teacher.json").read_text())
    assert facts["step"] == STEPS
    assert load_backbone(facts["path"], facts["sha256"]).dim == 128
    assert (history.output / "exports" / f"teacher-{KILLED_AFTER:09d}.json").exists()
