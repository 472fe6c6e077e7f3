import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssl_train.lamb import EPS, Lamb
from ssl_train.optim import step_if_finite

BETAS = (0.8, 0.95)


def weights() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=random)) for shape in ((3, 4), (5,), (2, 3, 2), (4, 4))]


def optimizer_of(parameters: list[nn.Parameter]) -> Lamb:
    """Two groups with decay and one without: lengths of all are found together."""
    groups: list[dict[str, Any]] = [
        {"params": [parameters[0], parameters[3]], "lr": 0.1, "weight_decay": 0.05},
        {"params": [parameters[1]], "lr": 0.2, "weight_decay": 0.0},
        {"params": [parameters[2]], "lr": 0.3, "weight_decay": 0.01},
    ]
    optimizer = Lamb([{"params": group["params"]} for group in groups], betas=BETAS)
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group |= settings
    return optimizer


def with_gradients(parameters: list[nn.Parameter], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=random)


def lamb_loop(weight: Tensor, gradients: list[Tensor], *, lr: float, weight_decay: float) -> Tensor:
    """The docstring's loop, one parameter."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, g in enumerate(gradients, start=1):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        d = (m / (1 - BETAS[0] ** t)) / ((v / (1 - BETAS[1] ** t)).sqrt() + EPS) + weight_decay * weight
        if weight_decay and weight.norm() > 0 and d.norm() > 0:
            d = d * weight.norm() / d.norm()
        weight = weight - lr * d
    return weight


@pytest.mark.parametrize("flagged", [True, False])
def test_steps_are_the_loop_over_parameters(flagged: bool) -> None:
    parameters = weights()
    before, optimizer = [parameter.detach().clone() for parameter in parameters], optimizer_of(parameters)
    gradients: list[list[Tensor]] = [[] for _ in parameters]
    for step in range(4):
        with_gradients(parameters, step)
        for seen, parameter in zip(gradients, parameters, strict=True):
            assert parameter.grad is not None
            seen.append(parameter.grad.clone())
        if flagged:
            step_if_finite(optimizer, torch.tensor(True))
        else:
            optimizer.step()
    settings = [(0.1, 0.05), (0.2, 0.0), (0.3, 0.01), (0.1, 0.05)]
    for parameter, start, seen, (lr, decay) in zip(parameters, before, gradients, settings, strict=True):
        assert_close(parameter.detach(), lamb_loop(start, seen, lr=lr, weight_decay=decay))


def test_a_bad_step_changes_nothing_and_does_not_count() -> None:
    (with_bad, without), optimizers = (weights(), weights()), []
    for parameters, bad in ((with_bad, True), (without, False)):
        optimizer = optimizer_of(parameters)
        optimizers.append(optimizer)
        for step in range(3):
            if bad and step == 1:
                with_gradients(parameters, 99)
                assert parameters[0].grad is not None
                parameters[0].grad[0, 0] = float("nan")
                step_if_finite(optimizer, torch.tensor(False))
            with_gradients(parameters, step)
            step_if_finite(optimizer, torch.tensor(True))
    for one, other in zip(with_bad, without, strict=True):
        assert_close(one.detach(), other.detach(), rtol=0, atol=0)
    assert {int(state["step"]) for state in optimizers[0].state.values()} == {3}


def test_a_decayed_weights_step_is_its_length_times_the_learning_rate() -> None:
    parameters = weights()
    before, optimizer = [parameter.detach().clone() for parameter in parameters], optimizer_of(parameters)
    with_gradients(parameters, 0)
    optimizer.step()
    moved = [(parameter.detach() - start).norm() for parameter, start in zip(parameters, before, strict=True)]
    assert_close(moved[0], 0.1 * before[0].norm())
    assert_close(moved[2], 0.3 * before[2].norm())
    assert_close(moved[1], torch.tensor(0.2 * 5**0.5), rtol=1e-4, atol=0)  # Adam's first step: a sign for each number


def test_a_weight_of_zeros_moves_by_adams_step() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = Lamb([weight], betas=BETAS)
    optimizer.param_groups[0] |= {"lr": 0.5, "weight_decay": 0.1}
    weight.grad = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    optimizer.step()
    assert_close(weight.detach(), torch.tensor([[-0.5, 0.5], [-0.5, 0.5]]), rtol=1e-4, atol=0)


def test_state_survives_a_checkpoint() -> None:
    one, other = weights(), weights()
    optimizers = [optimizer_of(one), optimizer_of(other)]
    with_gradients(one, 0)
    optimizers[0].step()
    for ours, theirs in zip(other, one, strict=True):
        ours.data.copy_(theirs.data)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for parameters, optimizer in zip((one, other), optimizers, strict=True):
        with_gradients(parameters, 1)
        optimizer.step()
    for ours, theirs in zip(other, one, strict=True):
        assert_close(ours.detach(), theirs.detach(), rtol=0, atol=0)
