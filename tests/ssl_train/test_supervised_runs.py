import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ssl_train.config import TrainConfig, check_config, load_recipe
from ssl_train.distributed import World
from ssl_train.evaluate.classify import evaluate
from ssl_train.metrics import read_metrics
from ssl_train.trainer import Trainer
from tests.ssl_train.planted_classes import NAMES, write_classes

ALONE = World(0, 1, torch.device("cpu"))
Configure = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of training and validation pictures."""
    folder = tmp_path_factory.mktemp("planted")
    return write_classes(folder / "train", 24), write_classes(folder / "val", 8, first=1000)


@pytest.fixture
def planted_run(planted: tuple[str, str], tmp_path: Path) -> Configure:
    """The debug recipe on planted pictures."""

    def configure(*overrides: str) -> TrainConfig:
        return load_recipe(
            "debug_supervised",
            [
                f"data.folder={planted[0]}",
                f"metrics.classify.folder={planted[1]}",
                f"method.class_head.num_classes={len(NAMES)}",
                "data.batch_images=32",
                f"output_dir={tmp_path / 'run'}",
                *overrides,
            ],
        )

    return configure


def test_the_debug_recipe_tells_planted_classes_apart_far_beyond_chance_and_exports_what_it_validated(
    planted_run: Configure,
) -> None:
    config = planted_run("num_steps=50", "optim.warmup_steps=5", "optim.lr=2e-3", "metrics.classify.every_steps=25")
    check_config(config, 1)
    assert Trainer(config, ALONE).run()
    lines = {line["step"]: line for line in read_metrics(config.output_dir)}
    assert 0 <= lines[25]["val_top1"] <= 100
    assert lines[50]["val_top1"] > 70  # by chance 25
    assert lines[50]["val_top5"] == 100
    assert lines[50]["val_loss"] < 0.8 * math.log(4)
    scores = evaluate(config.output_dir)
    assert scores["top1"] == pytest.approx(lines[50]["val_top1"])
    assert scores["loss"] == pytest.approx(lines[50]["val_loss"], rel=1e-4)
    assert (scores["num_images"], scores["num_classes"], scores["step"]) == (32, 4, 50)


def test_a_resumed_run_with_labels_equals_an_uninterrupted_one(planted_run: Configure, tmp_path: Path) -> None:
    changes = ("num_steps=4", "data.batch_images=8", "checkpoint.every_steps=2", "model.drop_path=0.2")
    whole = Trainer(planted_run(*changes, f"output_dir={tmp_path / 'whole'}"), ALONE)
    assert whole.run()
    stopped = Trainer(planted_run(*changes), ALONE)
    stopped.stop.set()
    assert not stopped.run()
    resumed = Trainer(planted_run(*changes), ALONE)
    assert resumed.run()
    for name in ("teacher.safetensors", "heads.safetensors"):
        files = [(Path(run.config.output_dir) / name).read_bytes() for run in (whole, resumed)]
        assert files[0] == files[1], name
    last = [read_metrics(run.config.output_dir)[-1] for run in (whole, resumed)]
    assert last[0]["loss"] == last[1]["loss"]
    assert last[0]["val_top1"] == last[1]["val_top1"]
