from typing import Any

import pytest
import torch

from ssl_train.config import load_recipe
from ssl_train.methods import DinoV2
from ssl_train.optim import Optim
from ssl_train.schedules import WarmUpConstant, WarmUpCosine


def test_the_long_recipe_has_the_published_schedules(facts: Any) -> None:
    published, recipe = facts("dinov2_schedules"), load_recipe("vitl14_long")
    optimizer = recipe.optim.schedules(num_steps=recipe.num_steps, batch_images=2048)
    assert isinstance(recipe.method, DinoV2)
    ours = {
        "lr": optimizer.lr,
        "wd": optimizer.weight_decay,
        "momentum": WarmUpCosine(*recipe.method.teacher_momentum, recipe.num_steps),
        "teacher_temp": WarmUpConstant(*recipe.method.teacher_temperature, recipe.method.teacher_temperature_steps),
    }
    for name, schedule in ours.items():
        for step, value in published[name].items():
            assert schedule(int(step)) == pytest.approx(value, rel=1e-12, abs=1e-20), (name, step)


def test_groups_take_their_share_and_the_last_layer_waits() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [parameters[0]], "lr_multiplier": 0.5, "wd_multiplier": 1.0, "is_last_layer": False},
        {"params": [parameters[1]], "lr_multiplier": 1.0, "wd_multiplier": 0.0, "is_last_layer": True},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedules = Optim(lr=1.0, lr_scaling="none", warmup_steps=0, frozen_last_layer_steps=2).schedules(
        num_steps=10, batch_images=1
    )
    schedules.apply(optimizer, 1)
    lr, decay = schedules.lr(1), schedules.weight_decay(1)
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(lr / 2, decay), (0.0, 0.0)]
    schedules.apply(optimizer, 2)
    assert optimizer.param_groups[1]["lr"] == schedules.lr(2)


@pytest.mark.parametrize(("scaling", "peak"), [("sqrt", 2.0), ("linear", 4.0), ("none", 1.0)])
def test_the_peak_grows_with_the_batch_as_asked(scaling: Any, peak: float) -> None:
    assert Optim(lr=1.0, lr_scaling=scaling, lr_reference_images=256).peak_lr(1024) == peak
