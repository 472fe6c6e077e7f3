from typing import Any

import pytest
import torch
from torch import nn

from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from ssl_train.optim import LossScale, Optim, build_optimizer, clip_gradients, multipliers, step_if_finite


def test_every_parameter_of_a_vit_l_has_the_published_multipliers(facts: Any) -> None:
    published = facts("dinov2_schedules")["param_groups_vitl_decay0.9_patch0.2"]
    with torch.device("meta"):
        network = Vit(size="large", patch_size=16).build()
    optim = Optim(layer_decay=0.9, patch_embed_multiplier=0.2)
    ours = {name: multipliers(name, network, optim) for name, _ in network.named_parameters()}
    assert ours.keys() == published.keys()
    for name, (lr, weight_decay, is_last_layer) in published.items():
        assert tuple(ours[name]) == pytest.approx((lr, weight_decay, is_last_layer)), name


def test_the_lengths_of_prototypes_are_decayed_and_biases_are_not() -> None:
    head = DinoHead(num_prototypes=4, hidden_dim=8, bottleneck_dim=4).build(8)
    ours = {name: multipliers(name, head, Optim()) for name, _ in head.named_parameters()}
    assert ours["last_layer.weight_g"] == ours["last_layer.weight_v"] == (1.0, 1.0, True)
    assert ours["mlp.0.weight"] == (1.0, 1.0, False)
    assert ours["mlp.0.bias"] == (1.0, 0.0, False)


def test_every_parameter_is_in_exactly_one_group() -> None:
    student = nn.ModuleDict({"backbone": Vit(size="tiny").build(), "dino_head": DinoHead(16, 8, 4).build(128)})
    grouped = [parameter for group in build_optimizer(student, Optim()).param_groups for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, student.parameters()))


def test_submodules_are_clipped_each_on_its_own() -> None:
    student = nn.ModuleDict({"large": nn.Linear(2, 2, bias=False), "small": nn.Linear(2, 2, bias=False)})
    student["large"].weight.grad = torch.full((2, 2), 50.0)
    student["small"].weight.grad = torch.full((2, 2), 0.5)
    norms = {name: norm.item() for name, norm in clip_gradients(student, 3.0)}
    assert norms == {"large": 100.0, "small": 1.0}
    assert student["large"].weight.grad.norm().item() == pytest.approx(3.0, rel=1e-5)
    assert student["small"].weight.grad.norm().item() == 1.0


def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.full((3,), float("nan"))
    step_if_finite(optimizer, torch.tensor(False))
    assert torch.equal(parameter, torch.ones(3))
    assert not any(moment.any() for moment in optimizer.state[parameter].values())
    assert parameter.grad is None
    parameter.grad = torch.ones(3)
    step_if_finite(optimizer, torch.tensor(True))
    assert not torch.equal(parameter, torch.ones(3))


def test_the_loss_scale_halves_after_a_bad_step_and_doubles_after_enough_good_ones() -> None:
    scale = LossScale(initial=8.0, growth_steps=2)
    scales = []
    for finite in (False, True, True, True, False):
        scale.update(torch.tensor(finite))
        scales.append(scale.scale.item())
    assert scales == [4.0, 4.0, 8.0, 8.0, 4.0]
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 12.0)
    scale.unscale([parameter])
    assert torch.equal(parameter.grad, torch.full((3,), 3.0))
