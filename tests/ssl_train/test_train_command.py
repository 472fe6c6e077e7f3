import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from ssl_train.process import stop_on_sigterm
from ssl_train.train import main
from storage.samples import SampleWriter


@pytest.fixture
def shard(photographs: str, tmp_path: Path) -> str:
    with SampleWriter(str(tmp_path / "part-00000.tar")) as writer:
        for path in sorted(Path(photographs).iterdir()):
            writer.add(path.stem, {"jpg": path.read_bytes(), "json": b"{}"})
    return writer.path


def start_torchrun(*settings: str) -> subprocess.Popen[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*torchrun, "-m", "ssl_train.train", "debug", *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_torchrun_is_killed_and_a_second_one_finishes(shard: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = (
        f"data.shards={shard}",
        f"output_dir={output}",
        "num_steps=6",
        "checkpoint={every_steps: 2, export_every_steps: 2}",
        "metrics.print_seconds=0",
        "data.batch_images=4",
        "method.group_images=2",
        "method.dino_head={num_prototypes: 32, hidden_dim: 32, bottleneck_dim: 16}",
    )
    said = []
    with start_torchrun(*settings) as first:
        assert first.stdout is not None
        for line in first.stdout:  # ends only when all processes have let go of it
            said.append(line)
            if line.startswith("step 3/6"):
                first.kill()  # torchrun alone: its processes must not outlive it
    assert any(line.startswith("step 3/6") for line in said), "".join(said)
    assert not (output / "teacher.json").exists(), "".join(said)
    with start_torchrun(*settings) as second:
        text, _ = second.communicate(timeout=120)
    assert second.returncode == 0, text
    assert "resuming at step" in text
    assert [line["step"] for line in read_metrics(str(output))] == list(range(1, 7))
    facts = json.loads((output / "teacher.json").read_text())
    assert load_backbone(facts["path"], facts["sha256"]).dim == 128
    assert (output / "exports" / "teacher-000000004.json").exists()


def test_sigterm_asks_for_a_stop_and_the_old_handler_comes_back() -> None:
    stop, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm(stop):
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["debug", "data.shard=x"], "did you mean 'shards'?"),
        (["debug"], "output_dir is empty"),
        (["debug", "output_dir={tmp}/run", "data.shards={tmp}/none-*.tar"], "no tars match"),
    ],
)
def test_a_mistake_ends_with_one_message_and_nothing_written(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("run/[!.]*"))


def test_without_arguments_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "vitl14_long" in capsys.readouterr().out
