import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssl_train.losses.centering import SoftmaxCentering, sinkhorn_knopp
from ssl_train.losses.dino import dino_loss, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.losses.koleo import koleo_loss
from ssl_train.models.heads import DinoHeadNet
from ssl_train.ops.prototype_loss import Projected, Targets

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    total = student.new_zeros(())
    for k, log_probability in enumerate(F.log_softmax(student / temperature, dim=-1)):
        total = total - teacher[k] * log_probability
    return total


def weights_of(masks: Tensor) -> Tensor:
    return (1 / masks.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(masks)[masks]


def test_dino_loss_is_the_published_one(vectors: Any) -> None:
    v = vectors("dinov2_losses")
    loss = dino_loss(v["dino.in.student"], v["dino.in.teacher"], temperature=0.1)
    assert_close(loss, v["dino.out.loss"][0], **TOLERANCE)


def test_dino_loss_is_the_loop_over_all_pairs() -> None:
    student, teacher = torch.randn(3, 4, 7), torch.randn(2, 4, 7).softmax(-1)
    pairs = [torch.stack([cross_entropy(s[i], t[i], 0.1) for i in range(4)]).mean() for s in student for t in teacher]
    assert_close(dino_loss(student, teacher, temperature=0.1), torch.stack(pairs).sum())


def test_swapped_dino_loss_is_the_loop_over_pairs_of_different_views() -> None:
    student, teacher = torch.randn(2, 4, 7), torch.randn(2, 4, 7).softmax(-1)
    one = dino_loss(student[:1], teacher[1:], temperature=0.1)
    other = dino_loss(student[1:], teacher[:1], temperature=0.1)
    assert_close(swapped_dino_loss(student, teacher, temperature=0.1), one + other)


def test_ibot_loss_is_the_published_one(vectors: Any) -> None:
    v = vectors("dinov2_losses")
    masks = v["ibot.in.masks"]
    loss = ibot_loss(
        v["ibot.in.student"], v["ibot.in.teacher"], weights_of(masks), num_crops=len(masks), temperature=0.1
    )
    assert_close(loss, v["ibot.out.loss"][0], **TOLERANCE)


def test_ibot_loss_is_the_loop_over_crops_and_counts_those_without_mask() -> None:
    masks = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    student, teacher = torch.randn(3, 5), torch.randn(3, 5).softmax(-1)
    each = [cross_entropy(student[i], teacher[i], 0.1) for i in range(3)]
    expected = ((each[0] + each[1]) / 2 + 0 + each[2]) / 3
    assert_close(ibot_loss(student, teacher, weights_of(masks), num_crops=3, temperature=0.1), expected)


def test_ibot_loss_without_a_masked_patch_is_zero_with_a_gradient() -> None:
    student = torch.empty(0, 5, requires_grad=True)
    loss = ibot_loss(student, torch.empty(0, 5), torch.empty(0), num_crops=4, temperature=0.1)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None


def test_koleo_and_its_gradient_are_the_published_ones(vectors: Any) -> None:
    v = vectors("dinov2_losses")
    features = v["koleo.in"].requires_grad_()
    loss = koleo_loss(features)
    loss.backward()
    assert_close(loss.detach(), v["koleo.out.loss"][0], **TOLERANCE)
    assert_close(features.grad, v["koleo.out.grad"], **TOLERANCE)


def test_koleo_is_the_loop_over_nearest_neighbours_within_groups() -> None:
    features, losses = torch.randn(6, 4), []
    x = F.normalize(features, dim=-1)
    for i in range(6):
        others = [j for j in range(6) if j != i and j // 3 == i // 3]
        nearest = max(others, key=lambda j, i=i: float(x[i] @ x[j]))
        losses.append(-math.log(float((x[i] - x[nearest] + 1e-8).norm()) + 1e-8))
    assert_close(koleo_loss(features, group_images=3).item(), sum(losses) / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "group"), [(6, 4), (1, None), (4, 1)])
def test_koleo_refuses_groups_without_neighbours(rows: int, group: int | None) -> None:
    with pytest.raises(ValueError, match="whole number of groups"):
        koleo_loss(torch.randn(rows, 4), group_images=group)


@pytest.mark.parametrize(
    ("name", "temperature"), [("sk.out.temp_0.04", 0.04), ("sk.out.temp_0.07", 0.07), ("sk_patch.out.temp_0.05", 0.05)]
)
def test_sinkhorn_knopp_is_the_published_one(vectors: Any, name: str, temperature: float) -> None:
    v = vectors("dinov2_losses")
    assert_close(sinkhorn_knopp(v["sk.in.logits"], temperature=temperature), v[name], **TOLERANCE)


def test_sinkhorn_knopp_is_the_loop_over_prototypes_and_rows() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64) / 10
    q = [[math.exp(float(z) / 0.05) for z in row] for row in logits]
    for _ in range(3):
        sums = [sum(row[k] for row in q) for k in range(3)]
        q = [[row[k] / sums[k] for k in range(3)] for row in q]
        q = [[value / sum(row) for value in row] for row in q]
    assert_close(sinkhorn_knopp(logits.float(), temperature=0.05), torch.tensor(q), rtol=1e-4, atol=1e-6)


def test_sinkhorn_knopp_does_not_overflow_where_the_plain_exponential_does() -> None:
    targets = sinkhorn_knopp(torch.tensor([[50.0, 49.9], [49.8, 50.0]]), temperature=0.04)
    assert torch.isfinite(targets).all()
    assert_close(targets.sum(-1), torch.ones(2))


def as_logits(logits: torch.Tensor) -> Projected:
    """What a head would say whose logits are these."""
    return Projected(logits, torch.eye(logits.shape[1]))


def targets(made: Targets) -> torch.Tensor:
    return (made.bottleneck @ made.weight.T / made.temperature + made.bias).softmax(-1)


def test_centering_is_the_published_one_over_three_steps(vectors: Any) -> None:
    v, centering = vectors("dinov2_losses"), SoftmaxCentering(48, momentum=0.9)
    for step in range(3):
        assert_close(targets(centering(as_logits(v[f"center.in.{step}"]), 0.04)), v[f"center.out.{step}"], **TOLERANCE)
        centering.commit()
    assert_close(centering.center, v["center.final"], **TOLERANCE)


def test_a_skipped_step_leaves_no_trace_in_the_centre() -> None:
    centering = SoftmaxCentering(4)
    centering(as_logits(torch.full((2, 4), float("nan"))), 0.04)  # not committed
    centering(as_logits(torch.ones(2, 4)), 0.04)
    centering.commit()
    assert_close(centering.center, torch.full((1, 4), 0.1))


def test_no_rows_at_all_leave_the_centre_where_it_was() -> None:
    centering = SoftmaxCentering(4)
    centering.center.fill_(0.5)
    assert targets(centering(as_logits(torch.empty(0, 4)), 0.04)).shape == (0, 4)
    centering.commit()
    assert_close(centering.center, torch.full((1, 4), 0.5))


def test_the_head_is_the_published_one(vectors: Any) -> None:
    v = vectors("dinov2_losses")
    head = DinoHeadNet(64, hidden_dim=96, bottleneck_dim=32, num_layers=3, num_prototypes=48)
    head.load_state_dict(v.under("head.weights."), strict=True)
    assert_close(head(v["head.in"]).logits().detach(), v["head.out"], **TOLERANCE)
