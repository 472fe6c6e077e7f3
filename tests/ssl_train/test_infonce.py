import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssl_train.losses.infonce import direction_spread, info_nce, nt_xent, regression_loss, symmetric_info_nce


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def test_the_symmetric_loss_and_its_gradients_are_the_published_ones(vectors: Any) -> None:
    v = vectors("mocov3")
    queries = tuple(v[f"in.q{view}"].requires_grad_() for view in (1, 2))
    keys = tuple(v[f"in.k{view}"].requires_grad_() for view in (1, 2))
    contrast = symmetric_info_nce(queries, keys, temperature=float(v.metadata["temperature"]))
    assert_close(contrast.loss, v["out.loss"][0], rtol=1e-4, atol=1e-5)
    contrast.loss.backward()
    for view, query in enumerate(queries, start=1):
        assert_close(query.grad, v[f"out.grad_q{view}"], rtol=1e-4, atol=1e-6)
    assert all(key.grad is None for key in keys)


def test_info_nce_is_the_loop_over_queries() -> None:
    queries, keys, tau = torch.randn(6, 5), torch.randn(6, 5), 0.3
    loss, hits = 0.0, 0
    for i in range(6):
        similarities = [cosine(queries[i], keys[j]).item() / tau for j in range(6)]
        loss += -math.log(math.exp(similarities[i]) / sum(math.exp(s) for s in similarities))
        hits += similarities[i] == max(similarities)
    contrast = info_nce(queries, keys, temperature=tau)
    assert contrast.loss.item() == pytest.approx(loss * 2 * tau / 6, rel=1e-5)
    assert contrast.top1.item() == pytest.approx(hits / 6)


def test_nt_xent_and_its_gradient_are_the_loop_over_both_views() -> None:
    views, tau = [torch.randn(5, 4, requires_grad=True) for _ in range(2)], 0.4
    z = torch.cat(views)
    loss = z.new_zeros(())
    for i in range(10):
        j = (i + 5) % 10
        others = torch.stack([(cosine(z[i], z[k]) / tau).exp() for k in range(10) if k != i])
        loss = loss - ((cosine(z[i], z[j]) / tau).exp() / others.sum()).log() / 10
    contrast = nt_xent(*views, temperature=tau)
    assert_close(contrast.loss, loss)
    ours = torch.autograd.grad(contrast.loss, views)
    assert_close(ours, torch.autograd.grad(loss, views), rtol=1e-4, atol=1e-6)


def test_the_regression_loss_is_the_loop_over_rows_and_moves_predictions_alone() -> None:
    predictions, targets = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    loop = sum(2 - 2 * cosine(p, t) for p, t in zip(predictions, targets, strict=True)) / 6
    distances = (F.normalize(predictions, dim=-1) - F.normalize(targets, dim=-1)).square().sum(-1)
    loss = regression_loss(predictions, targets)
    assert_close(loss, loop)
    assert_close(loss, distances.mean())
    loss.backward()
    assert targets.grad is None
    assert predictions.grad is not None


def test_lengths_do_not_count() -> None:
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    lengths = torch.rand(4, 1) + 0.5
    for loss in (
        lambda x, y: info_nce(x, y, temperature=0.2).loss,
        lambda x, y: nt_xent(x, y, temperature=0.2).loss,
        regression_loss,
    ):
        assert_close(loss(a * lengths, b / lengths), loss(a, b))


def test_equal_views_that_differ_from_all_others_are_found() -> None:
    rows = torch.eye(4)
    assert info_nce(rows, rows, temperature=0.1).top1 == 1
    assert info_nce(rows, rows.roll(1, 0), temperature=0.1).top1 == 0
    assert nt_xent(rows, rows, temperature=0.1).top1 == 1


def test_losses_are_computed_in_fp32_under_autocast() -> None:
    a, b = torch.randn(64, 32), torch.randn(64, 32)
    exact = [info_nce(a, b, temperature=0.2).loss, nt_xent(a, b, temperature=0.2).loss, regression_loss(a, b)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = [info_nce(a, b, temperature=0.2).loss, nt_xent(a, b, temperature=0.2).loss, regression_loss(a, b)]
    assert_close(cast, exact, rtol=0, atol=0)


def test_directions_spread_by_one_at_best_and_by_nothing_in_collapse() -> None:
    assert direction_spread(torch.randn(4000, 64)).item() == pytest.approx(1.0, abs=0.02)
    assert direction_spread(torch.randn(1, 8).expand(10, 8)).item() == pytest.approx(0.0, abs=1e-3)
