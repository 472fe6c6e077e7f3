import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ssl_train.config import TrainConfig
from ssl_train.distributed import World
from ssl_train.errors import CheckpointError, ConfigError, NonFiniteLossError
from ssl_train.methods import Losses
from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from ssl_train.process import sole_owner
from ssl_train.trainer import Trainer

Configure = Callable[..., TrainConfig]
ALONE = World(0, 1, torch.device("cpu"))
CLOCKS = {"step_seconds", "images_per_second", "eta_seconds", "loader_wait_seconds", "loader_wait_share"}
CLOCKS |= {"memory_bytes", "mfu"}  # of this process, not of the training


class Killed(Exception):
    """Stands for the end of a process at this very place."""


def numbers_of(output_dir: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in read_metrics(output_dir)]


def at_step(trainer: Trainer, step: int, act: Callable[[Losses], Losses]) -> None:
    """Have `act` change (or end) what the loss of one step gives."""
    plain = trainer.networks.loss

    def loss(batch: Any, number: int) -> Losses:
        losses = plain(batch, number)
        return act(losses) if number == step else losses

    trainer.networks.loss = loss  # type: ignore[method-assign]


def be_killed(losses: Losses) -> Losses:
    raise Killed


def not_a_number(losses: Losses) -> Losses:
    return Losses(losses.total * float("nan"), losses.terms, losses.monitors)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn_knopp"])
def test_four_steps_equal_two_plus_kill_plus_resume_two_bit_for_bit(
    tiny_run: Configure, tmp_path: Path, centering: str
) -> None:
    settings = (f"method.centering={centering}", "model.drop_path=0.4")
    whole = Trainer(tiny_run(*settings, f"output_dir={tmp_path / 'whole'}"), ALONE)
    assert whole.run()
    killed = Trainer(tiny_run(*settings), ALONE)
    at_step(killed, 3, be_killed)  # the third step was taken and is lost: the checkpoint is after the second
    with pytest.raises(Killed):
        killed.run()
    resumed = Trainer(tiny_run(*settings), ALONE)
    assert resumed.run()
    assert_close(resumed.networks.state_dict(), whole.networks.state_dict(), rtol=0, atol=0)
    assert_close(resumed.optimizer.state_dict(), whole.optimizer.state_dict(), rtol=0, atol=0)
    assert numbers_of(resumed.config.output_dir) == numbers_of(whole.config.output_dir)
    teachers = [Path(run.config.output_dir) / "teacher.safetensors" for run in (whole, resumed)]
    assert teachers[0].read_bytes() == teachers[1].read_bytes()


def test_a_run_ends_with_a_teacher_that_loads_and_a_finished_run_stays_as_it_is(tiny_run: Configure) -> None:
    config = tiny_run()
    trainer = Trainer(config, ALONE)
    assert trainer.run()
    facts = json.loads((Path(config.output_dir) / "teacher.json").read_text())
    teacher = load_backbone(facts["path"], facts["sha256"])
    assert (facts["step"], facts["seed"]) == (4, 0)
    assert_close(teacher.state_dict(), trainer.networks.teacher["backbone"].state_dict(), rtol=0, atol=0)
    before = read_metrics(config.output_dir)
    assert [line["step"] for line in before] == [1, 2, 3, 4]
    assert Trainer(config, ALONE).run()
    assert read_metrics(config.output_dir) == before
    assert json.loads((Path(config.output_dir) / "teacher.json").read_text()) == facts


def test_a_stop_is_saved_and_gone_on_from(tiny_run: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(tiny_run("checkpoint.every_steps=100"), ALONE)
    trainer.stop.set()
    assert not trainer.run()
    assert trainer.checkpoints.newest() == 2  # a step is read while the next one is computed
    assert "stopped after step 2, saved" in capsys.readouterr().out
    assert not (Path(trainer.config.output_dir) / "teacher.safetensors").exists()
    assert Trainer(tiny_run("checkpoint.every_steps=100"), ALONE).run()


def test_old_checkpoints_are_deleted_and_half_written_ones_never_trusted(tiny_run: Configure) -> None:
    config = tiny_run("checkpoint.every_steps=1", "checkpoint.keep_last=2")
    half = Path(config.output_dir) / "checkpoints" / "step-000000009.tmp"
    half.mkdir(parents=True)
    (half.parent / "step-000000008").mkdir()  # without run.json: never finished
    trainer = Trainer(config, ALONE)
    assert trainer.checkpoints.newest() is None
    assert trainer.run()
    whole = [path.parent.name for path in half.parent.glob("*/run.json")]
    assert sorted(whole) == ["step-000000003", "step-000000004"]


def test_a_checkpoint_of_other_settings_is_refused_and_the_settings_named(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run(), ALONE)
    trainer.stop.set()
    trainer.run()
    with pytest.raises(CheckpointError, match="was made with another optim, seed"):
        Trainer(tiny_run("seed=3", "optim.lr=0.5"), ALONE).run()
    assert Trainer(tiny_run("metrics.every_steps=2", "efficiency.prefetch_batches=1"), ALONE).run()


def test_a_step_with_a_loss_that_is_not_finite_is_skipped_and_counted(
    tiny_run: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(tiny_run("num_steps=4"), ALONE)
    before = trainer.networks.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    at_step(trainer, 0, not_a_number)
    at_step(trainer, 1, not_a_number)
    at_step(trainer, 2, not_a_number)
    at_step(trainer, 3, be_killed)  # before it the checkpoint after two steps; the third step's numbers are not read
    with pytest.raises(Killed):
        trainer.run()
    assert_close(trainer.networks.state_dict(), before, rtol=0, atol=0)
    lines = read_metrics(trainer.config.output_dir)
    assert [(line["loss"], line["skipped_steps"]) for line in lines] == [(None, 1), (None, 2)]
    error = capsys.readouterr().err
    assert "step 1 skipped: loss nan" in error
    assert "image-" in error


def test_too_many_skipped_steps_in_a_row_end_the_run_and_name_the_last_good_checkpoint(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run("num_steps=6", "optim.max_skipped_in_a_row=2"), ALONE)
    for step in (0, 2, 3):  # the step between them begins the count anew
        at_step(trainer, step, not_a_number)
    with pytest.raises(NonFiniteLossError, match=r"2 steps in a row up to 4 .*the last one is .*step-000000002"):
        trainer.run()


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    with (
        sole_owner(folder),
        pytest.raises(ConfigError, match="another process trains in output_dir"),
        sole_owner(folder),
    ):
        pytest.fail("two owners")
    with sole_owner(folder):
        pass


def test_training_lowers_the_loss(tiny_run: Configure) -> None:
    trainer = Trainer(
        tiny_run("num_steps=12", "optim.warmup_steps=1", "optim.lr=3e-3", "optim.frozen_last_layer_steps=0"), ALONE
    )
    trainer.run()
    losses = [line["loss"] for line in read_metrics(trainer.config.output_dir)]
    assert sum(losses[-3:]) < 0.97 * sum(losses[:3])


def test_a_line_tells_of_collapse_of_gradients_by_depth_and_of_the_device(tiny_run: Configure) -> None:
    trainer = Trainer(tiny_run("metrics.every_steps=3", "metrics.mfu=true", "metrics.tensorboard=true"), ALONE)
    trainer.run()
    lines = read_metrics(trainer.config.output_dir)
    assert [line["step"] for line in lines] == [3, 4]
    for line in lines:
        parts = [line[f"grad_norm_backbone_{part}"] for part in ("embeddings", *(f"blocks_{n}" for n in range(1, 5)))]
        assert sum(part**2 for part in parts) == pytest.approx(line["grad_norm_backbone"] ** 2, rel=1e-4)
        assert 1 <= line["feature_rank"] < 8  # the directions between eight class tokens
        assert line["teacher_student_kl"] == pytest.approx(
            line["dino_global"] + line["dino_local"] - line["teacher_entropy"], rel=1e-4
        )
        assert 0 < line["mfu"] < 1
    assert list(Path(trainer.config.output_dir).glob("tensorboard/events*"))
