from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.lars import Lars
from ssl_train.models import Vit
from ssl_train.models.projectors import BatchNorm, MlpHead
from ssl_train.optim import Optim, build_optimizer, clip_gradients, multipliers, step_if_finite

YES, NO = torch.tensor(True), torch.tensor(False)


def student_of_two() -> nn.ModuleDict:
    return nn.ModuleDict({"backbone": nn.Linear(3, 4, bias=True), "some_head": nn.Linear(4, 2, bias=False)})


def with_gradients(module: nn.Module, seed: int = 0) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def lars_loop(weight: Tensor, gradient: Tensor, moment: Tensor, **by: Any) -> tuple[Tensor, Tensor]:
    update = gradient + by["weight_decay"] * weight
    if by["trust"] is not None and weight.ndim > 1 and weight.norm() > 0 and update.norm() > 0:
        update = update * by["trust"] * weight.norm() / update.norm()
    moment = by["momentum"] * moment + update
    return weight - by["lr"] * moment, moment


def test_three_lars_steps_are_the_published_ones(vectors: Any) -> None:
    v = vectors("mocov3")
    weight, bias = (nn.Parameter(v[f"lars.in.{name}"].clone()) for name in "wb")
    # The published optimizer leaves 1-D tensors out of the decay, too: `multipliers` does so here.
    groups = [{"params": [weight], "lr": 0.3, "weight_decay": 0.01}, {"params": [bias], "lr": 0.3, "weight_decay": 0.0}]
    optimizer = Lars(groups, momentum=0.9, trust=1e-3)
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)
    for step in range(3):
        weight.grad, bias.grad = v[f"lars.in.grad_w.{step}"].clone(), v[f"lars.in.grad_b.{step}"].clone()
        optimizer.step()
        assert_close(weight.detach(), v[f"lars.out.w.{step}"], rtol=1e-5, atol=1e-6)
        assert_close(bias.detach(), v[f"lars.out.b.{step}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["lars", "sgd"])
@pytest.mark.parametrize("flagged", [True, False])
def test_a_step_is_the_loop_over_parameters(kind: Any, flagged: bool) -> None:
    student, optim = student_of_two(), Optim(kind=kind, momentum=0.8, trust=0.02, lr=0.5, lr_scaling="none")
    optimizer = build_optimizer(student, optim)
    by = {"momentum": 0.8, "trust": 0.02 if kind == "lars" else None, "lr": 0.4}
    expected = {name: (p.detach().clone(), torch.zeros_like(p)) for name, p in student.named_parameters()}
    for step in range(3):
        with_gradients(student, step)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.4, 0.1 * group["wd_multiplier"]
        for name, parameter in student.named_parameters():
            decay = 0.0 if name.endswith("bias") else 0.1
            assert parameter.grad is not None
            weight, moment = expected[name]
            expected[name] = lars_loop(weight, parameter.grad, moment, weight_decay=decay, **by)
        if flagged:
            step_if_finite(optimizer, YES)
        else:
            optimizer.step()
        for name, parameter in student.named_parameters():
            assert_close(parameter.detach(), expected[name][0])


def test_sgd_is_that_of_torch() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    own = Lars(ours.parameters(), momentum=0.9, trust=None)
    other = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)
    for group in own.param_groups:
        group["lr"], group["weight_decay"] = 0.1, 0.05
    for step in range(3):
        with_gradients(ours, step)
        with_gradients(theirs, step)
        own.step()
        other.step()
    assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("kind", ["adamw", "lars", "sgd"])
@pytest.mark.parametrize("when", [0, 1])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(kind: Any, when: int) -> None:
    student = student_of_two()
    optimizer = build_optimizer(student, Optim(kind=kind))
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.1, 0.1
    for step in range(when):
        with_gradients(student, step)
        step_if_finite(optimizer, YES)

    def everything() -> dict[str, Tensor]:
        found = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
        for name, parameter in student.named_parameters():
            found |= {f"{name} {key}": moment.clone() for key, moment in optimizer.state[parameter].items()}
        return found

    before = everything()
    with_gradients(student, 9)
    student["backbone"].weight.grad = torch.full((4, 3), float("nan"))
    student["some_head"].weight.grad[0, 0] = float("inf")
    step_if_finite(optimizer, NO)
    for name, tensor in everything().items():
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name
    assert all(parameter.grad is None for parameter in student.parameters())
    with_gradients(student, 10)
    step_if_finite(optimizer, YES)
    after = everything()
    assert all(tensor.isfinite().all() for tensor in after.values())
    assert not any(torch.equal(after[name], before[name]) for name, _ in student.named_parameters())


def test_momenta_are_there_before_the_first_step() -> None:
    student = student_of_two()
    optimizer = build_optimizer(student, Optim(kind="lars"))
    assert {id(p) for p in optimizer.state} == {id(p) for p in student.parameters()}


def test_a_parameter_without_gradient_stands_still() -> None:
    student = student_of_two()
    optimizer = build_optimizer(student, Optim(kind="lars"))
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.1, 0.1
    student["some_head"].weight.grad = torch.ones(2, 4)
    before = student["backbone"].weight.detach().clone()
    optimizer.step()
    assert torch.equal(student["backbone"].weight, before)
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: 0.0)


def test_frozen_parameters_are_no_part_of_the_optimizer() -> None:
    student = nn.ModuleDict({"backbone": Vit(size="tiny", frozen_stem=True).build()})
    grouped = {id(p) for group in build_optimizer(student, Optim()).param_groups for p in group["params"]}
    frozen = {id(p) for p in student["backbone"].patch_embed.parameters()}
    assert grouped == {id(p) for p in student.parameters()} - frozen


def test_a_norm_whose_name_says_nothing_is_not_decayed_unless_all_are() -> None:
    module = nn.ModuleDict({"bn1": BatchNorm(4), "conv1": nn.Conv2d(3, 4, 3, bias=False)})
    decayed = {name: multipliers(name, module, Optim()).weight_decay for name, _ in module.named_parameters()}
    assert decayed == {"bn1.weight": 0.0, "bn1.bias": 0.0, "conv1.weight": 1.0}
    head = MlpHead(hidden_dim=4, out_dim=2).build(4)
    everything = Optim(decay_all=True)
    assert {multipliers(name, head, everything).weight_decay for name, _ in head.named_parameters()} == {1.0}


def test_each_parameter_is_clipped_on_its_own() -> None:
    student = student_of_two()
    with_gradients(student)
    student["backbone"].bias.grad *= 1e-3
    before = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    norms = dict(clip_gradients(student, 0.5, "per_tensor"))
    for name, parameter in student.named_parameters():
        factor = min(1.0, 0.5 / (before[name].norm().item() + 1e-6))
        assert_close(parameter.grad, before[name] * factor)
    whole = torch.cat([before["backbone.weight"].flatten(), before["backbone.bias"]]).norm()
    assert_close(norms["backbone"], whole)


def test_nothing_is_clipped_where_none_is_asked_for_and_norms_are_told_all_the_same() -> None:
    student, other = student_of_two(), student_of_two()
    for module in (student, other):
        with_gradients(module)
    told, clipped = dict(clip_gradients(student, 0.1, "none")), dict(clip_gradients(other, 0.1))
    assert_close(told, clipped)
    assert student["some_head"].weight.grad.norm() > 0.1
    frozen = nn.ModuleDict({"backbone": nn.Linear(2, 2).requires_grad_(False)})
    assert dict(clip_gradients(frozen, 1.0, "none"))["backbone"] == 0
