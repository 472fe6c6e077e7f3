"""DINO and iBOT as runs of the trainer: their debug recipes end, resume and export like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ssl_train.config import RECIPES, TrainConfig, load_recipe
from ssl_train.distributed import World
from ssl_train.methods.dino import Dino
from ssl_train.methods.ibot import Ibot
from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from ssl_train.trainer import Trainer

ALONE = World(0, 1, torch.device("cpu"))
PUBLISHED = {
    "dino_vits16": (74.5, 77.0),
    "dino_vits8": (78.3, 79.7),
    "dino_vitb16": (76.1, 78.2),
    "dino_vitb8": (77.4, 80.1),
    "dino_vits16_100ep": (69.3, 74.0),
    "dino_resnet50": (67.5, 75.3),
    "ibot_vits16": (75.2, 77.9),
    "ibot_vitb16": (77.1, 79.5),
    "ibot_vitl16": (78.0, 81.0),
    "ibot_vitl16_in22k": (72.9, 82.3),
}
Configure = Callable[..., TrainConfig]


@pytest.fixture
def small(photographs: str, tmp_path: Path) -> Configure:
    def configure(recipe: str, *overrides: str) -> TrainConfig:
        head = "{num_prototypes: 16, hidden_dim: 16, bottleneck_dim: 8, norm_last_layer: true}"
        changes = [f"data.folder={photographs}", f"output_dir={tmp_path / 'run'}", "data.batch_images=4", "num_steps=4"]
        heads = [f"method.dino_head={head}", *([f"method.ibot_head={head}"] if "ibot" in recipe else [])]
        return load_recipe(recipe, [*changes, *heads, "checkpoint.every_steps=2", *overrides])

    return configure


@pytest.mark.parametrize("recipe", ["debug_dino", "debug_ibot"])
def test_four_steps_equal_two_plus_resume_two_centres_included(small: Configure, tmp_path: Path, recipe: str) -> None:
    ends: list[dict[str, Any]] = []
    for name, stops in (("whole", False), ("halves", True)):
        config = small(recipe, f"output_dir={tmp_path / name}")
        trainer = Trainer(config, ALONE)
        if stops:
            trainer.stop.set()
            assert not trainer.run()
            trainer = Trainer(config, ALONE)
        assert trainer.run()
        ends.append(trainer.networks.state_dict())
    assert any(name.endswith("targets.center") and tensor.any() for name, tensor in ends[0].items())
    assert_close(ends[1], ends[0], rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["debug_dino", "debug_ibot"])
def test_a_run_exports_its_teacher_and_heads_and_tells_of_collapse(small: Configure, recipe: str) -> None:
    config = small(recipe)
    trainer = Trainer(config, ALONE)
    assert trainer.run()
    out = Path(config.output_dir)
    teacher = load_backbone(str(out / "teacher.safetensors"))
    assert_close(teacher.state_dict(), trainer.networks.teacher_backbone.state_dict(), rtol=0, atol=0)
    heads = load_file(out / "heads.safetensors")
    assert {name.split(".")[0] for name in heads} == {name for name in trainer.networks.teacher if name != "backbone"}
    told = {"teacher_entropy", "teacher_student_kl", "teacher_marginal_entropy", "teacher_temperature", "feature_rank"}
    assert told <= read_metrics(config.output_dir)[-1].keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_names_the_papers_accuracy_first_and_shares_the_papers_common_settings(name: str) -> None:
    text, recipe = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8"), load_recipe(name)
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    knn, linear = PUBLISHED[name]
    assert text.startswith("#")
    assert f"{knn} k-NN, {linear} linear" in comment
    method, optim, augment = recipe.method, recipe.optim, recipe.augment
    assert isinstance(method, Dino | Ibot)
    assert (method.student_temperature, method.center_momentum, method.teacher_momentum) == (0.1, 0.9, (0.996, 1.0))
    assert method.dino_head.num_prototypes == (65536 if isinstance(method, Dino) else 8192)
    assert (optim.lr_scaling, optim.lr_reference_images, optim.layer_decay) == ("linear", 256, 1.0)
    assert augment.blur == "paper"
    assert augment.global_scale[0] == augment.local_scale[1]
    # 1,281,167 and 14,197,086 images, the last incomplete batch of an epoch left out.
    epoch = (14_197_086 if "in22k" in name else 1_281_167) // recipe.data.batch_images
    assert recipe.num_steps % epoch == 0


def test_a_published_learning_rate_is_that_of_its_batch() -> None:
    for name, peak in (
        ("dino_vits16", 0.002),
        ("dino_vitb16", 0.003),
        ("dino_vits16_100ep", 0.001),
        ("dino_resnet50", 0.06),
    ):
        recipe = load_recipe(name)
        assert recipe.optim.peak_lr(recipe.data.batch_images) == pytest.approx(peak)
