import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ssl_train.checkpoint import Checkpointing, Checkpoints
from ssl_train.config import TrainConfig, dump_config
from ssl_train.distributed import World
from ssl_train.errors import CheckpointError
from ssl_train.metrics import read_metrics
from ssl_train.trainer import Trainer
from tests.ssl_train import dies

Configure = Callable[..., TrainConfig]
ALONE = World(0, 1, torch.device("cpu"))
BEHIND = "checkpoint.asynchronous=true"


def whole_steps(output_dir: str) -> list[int]:
    """The checkpoints that are whole; anything else in the folder fails the test."""
    folders = sorted((Path(output_dir) / "checkpoints").iterdir())
    assert all((folder / "run.json").exists() for folder in folders), folders
    return [int(folder.name.removeprefix("step-")) for folder in folders]


def checkpoints_of(trainer: Trainer, **settings: object) -> Checkpoints:
    """The checkpoints of the trainer's folder under other settings."""
    return Checkpoints(trainer.config.output_dir, Checkpointing(**settings), facts={}, world=ALONE)  # type: ignore[arg-type]


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell: longer files cannot be written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_behind_the_steps_is_what_is_written_while_they_wait(
    tiny_run: Configure, tmp_path: Path
) -> None:
    runs = [
        Trainer(tiny_run(f"output_dir={tmp_path / name}", f"checkpoint.asynchronous={name}"), ALONE)
        for name in ("false", "true")
    ]
    states = []
    for run in runs:
        assert run.run()
        assert whole_steps(run.config.output_dir) == [2, 4]
        fresh = Trainer(run.config, ALONE)
        fresh.checkpoints.load(2, fresh.networks, fresh.optimizer)  # weights have moved on since it was begun
        states.append({"networks": fresh.networks.state_dict(), "optimizer": fresh.optimizer.state_dict()})
    assert_close(states[0], states[1], rtol=0, atol=0)
    teachers = [Path(run.config.output_dir) / "teacher.safetensors" for run in runs]
    assert teachers[0].read_bytes() == teachers[1].read_bytes()


def test_a_kill_in_the_middle_of_a_save_goes_on_from_the_one_before_bit_for_bit(
    tiny_run: Configure, tmp_path: Path
) -> None:
    whole = Trainer(tiny_run(f"output_dir={tmp_path / 'whole'}"), ALONE)
    assert whole.run()
    config = tiny_run(BEHIND)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    killed = subprocess.run(
        [sys.executable, dies.__file__, "while-saving", "4", str(tmp_path / "run.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (Path(config.output_dir) / "checkpoints" / "step-000000004.tmp").exists()
    resumed = Trainer(config, ALONE)
    assert resumed.checkpoints.newest() == 2
    assert resumed.run()
    assert whole_steps(config.output_dir) == [2, 4]
    assert_close(resumed.networks.state_dict(), whole.networks.state_dict(), rtol=0, atol=0)
    assert_close(resumed.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert [line["step"] for line in read_metrics(config.output_dir)] == [1, 2, 3, 4]


def test_a_checkpoint_has_no_place_before_a_step_finds_it_written(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    checkpoints = checkpoints_of(trainer, asynchronous=True)
    checkpoints.save(1, trainer.networks, trainer.optimizer)
    assert checkpoints._writing is not None
    checkpoints._writing.written.result()
    assert checkpoints.newest() is None
    checkpoints.settle()
    assert checkpoints.newest() == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_of_the_writer_is_raised_and_names_the_newest_whole_one(
    tiny_run: Configure, asynchronous: bool
) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    checkpoints = checkpoints_of(trainer, asynchronous=asynchronous)
    checkpoints.save(1, trainer.networks, trainer.optimizer)
    checkpoints.settle(wait=True)
    with (
        files_of_at_most(10_000),
        pytest.raises(
            CheckpointError, match=r"after step 2 could not be .*File too large.* newest whole one is .*000000001"
        ),
    ):
        checkpoints.save(2, trainer.networks, trainer.optimizer)
        checkpoints.settle(wait=True)
    checkpoints.settle(wait=True)  # told once
    checkpoints.save(3, trainer.networks, trainer.optimizer)
    checkpoints.settle(wait=True)
    assert whole_steps(trainer.config.output_dir) == [1, 3]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_last_ones_and_the_milestones_are_kept(tiny_run: Configure, asynchronous: bool) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    checkpoints = checkpoints_of(trainer, keep_last=2, keep_every_steps=4, asynchronous=asynchronous)
    for step in range(1, 11):
        checkpoints.save(step, trainer.networks, trainer.optimizer)
        checkpoints.settle(wait=step == 10)
    assert whole_steps(trainer.config.output_dir) == [4, 8, 9, 10]


def test_while_one_is_written_the_newest_whole_one_stays(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    checkpoints = checkpoints_of(trainer, keep_last=1, asynchronous=True)
    for step in (1, 2, 3):
        checkpoints.save(step, trainer.networks, trainer.optimizer)
        assert checkpoints.newest() == (step - 1 or None)
    checkpoints.settle(wait=True)
    assert whole_steps(trainer.config.output_dir) == [3]


def test_a_whole_checkpoint_is_never_written_over(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    checkpoints = checkpoints_of(trainer)
    checkpoints.save(1, trainer.networks, trainer.optimizer)
    before = {path: path.stat().st_mtime_ns for path in checkpoints.path(1).iterdir()}
    checkpoints.save(1, trainer.networks, trainer.optimizer)
    assert {path: path.stat().st_mtime_ns for path in checkpoints.path(1).iterdir()} == before
    assert whole_steps(trainer.config.output_dir) == [1]


def test_a_stop_waits_for_the_writer(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run(BEHIND, "checkpoint.every_steps=100"), ALONE)
    trainer.stop.set()
    assert not trainer.run()
    assert whole_steps(trainer.config.output_dir) == [2]
