import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import check_config, load_recipe
from ssl_train.data.collate import Batch
from ssl_train.distributed import World
from ssl_train.errors import ConfigError
from ssl_train.methods.swav import Queue, Swav
from ssl_train.models import Vit
from ssl_train.models.projectors import MlpHead, SwavHead
from ssl_train.optim import Optim, build_optimizer
from tests.ssl_train.two_processes_views import batch_of

VIT = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False)
HEAD = SwavHead(MlpHead(16, 8, num_layers=2, last_norm=False, bias=True), num_prototypes=6)
ALONE = World(0, 1, torch.device("cpu"))
IMAGES = 8


def sinkhorn(scores: Tensor, epsilon: float) -> Tensor:
    """As published: columns and rows in turn, with the divisions by their numbers."""
    q = (scores / epsilon).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def loop(networks: Any, batch: Batch, queue: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor | None]]:
    student = copy.deepcopy(networks.student)
    crops = [batch.global_crops, *([batch.local_crops] if len(batch.local_crops) else [])]
    cls = torch.cat([tokens.cls for tokens in student["backbone"](crops)])
    head = student["swav_head"]
    z = F.normalize(head.projection_head(cls), dim=-1)
    scores = z @ head.prototypes.weight.T
    num_crops, total = len(z) // IMAGES, torch.zeros(())
    for view in range(2):
        own = scores[view * IMAGES : (view + 1) * IMAGES].detach()
        rows = own if queue is None else torch.cat([own, queue[view] @ head.prototypes.weight.detach().T])
        q = sinkhorn(rows, 0.05)[:IMAGES]
        for crop in range(num_crops):
            if crop != view:
                p = (scores[crop * IMAGES : (crop + 1) * IMAGES] / 0.1).log_softmax(-1)
                for i in range(IMAGES):
                    total = total - (q[i] * p[i]).sum() / IMAGES
    total = total / (2 * (num_crops - 1))
    total.backward()
    return total, {name: parameter.grad for name, parameter in student.named_parameters()}


@pytest.mark.parametrize("num_local", [0, 3])
def test_a_step_is_the_loop_over_views_and_the_other_crops(num_local: int) -> None:
    networks, batch = Swav(swav_head=HEAD).build(VIT, num_steps=10), batch_of(num_local, ALONE)
    expected, gradients = loop(networks, batch)
    losses = networks.loss(batch, 0)
    assert_close(losses.total, expected)
    assert_close(torch.stack(list(losses.terms.values())).sum(), expected.detach())
    losses.total.backward()
    for name, parameter in networks.student.named_parameters():
        if gradients[name] is not None:
            assert_close(parameter.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_the_queue_is_assigned_along_once_it_is_full() -> None:
    queue = Queue(num_rows=12, from_step=1)
    networks, batch = Swav(swav_head=HEAD, queue=queue).build(VIT, num_steps=10), batch_of(0, ALONE)
    assert [queue.is_full(step, IMAGES) for step in range(5)] == [False, False, False, True, True]
    for step in range(3):
        assert_close(networks.loss(batch, step).total, loop(networks, batch)[0])
        networks.after_step(step)
    assert networks.queue is not None
    assert_close(networks.queue.norm(dim=-1), torch.ones(2, 12))
    assert_close(networks.loss(batch, 3).total, loop(networks, batch, networks.queue)[0])


def test_the_queue_begins_with_the_newest_rows_and_takes_none_of_a_skipped_step() -> None:
    networks = Swav(swav_head=HEAD, queue=Queue(num_rows=12)).build(VIT, num_steps=10)
    batch = batch_of(0, ALONE)
    networks.loss(batch, 0)
    networks.after_step(0)
    assert networks.queue is not None
    first = networks.queue.clone()
    networks.loss(batch, 1)
    networks.after_step(1, finite=torch.tensor(False))
    assert torch.equal(networks.queue, first)
    networks.student["backbone"].cls_token.data.add_(1.0)
    networks.loss(batch, 1)
    networks.after_step(1)
    assert torch.equal(networks.queue[:, 8:], first[:, :4])
    assert not torch.equal(networks.queue[:, :8], first[:, :8])


def test_prototypes_are_one_long_from_the_beginning_and_after_every_step() -> None:
    networks, batch = Swav(swav_head=HEAD).build(VIT, num_steps=10), batch_of(0, ALONE)
    weight = networks.student["swav_head"].prototypes.weight
    assert_close(weight.norm(dim=-1).detach(), torch.ones(6))
    optimizer = build_optimizer(networks.student, Optim(kind="sgd"))
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    networks.loss(batch, 0).total.backward()
    # The gradient is that of a free weight: it may point along the prototype.
    assert weight.grad is not None
    assert (weight.grad * weight).sum(-1).abs().max() > 1e-4
    optimizer.step()
    assert (weight.norm(dim=-1) - 1).abs().max() > 1e-3
    networks.after_step(0)
    assert_close(weight.norm(dim=-1).detach(), torch.ones(6))


def test_prototypes_stand_still_at_first() -> None:
    networks = Swav(swav_head=HEAD).build(VIT, num_steps=10)
    optim = Optim(kind="sgd", frozen_last_layer_steps=2, warmup_steps=0)
    optimizer = build_optimizer(networks.student, optim)
    schedules, weight = optim.schedules(num_steps=10, batch_images=8), networks.student["swav_head"].prototypes.weight
    for step, moves in ((1, False), (2, True)):
        schedules.apply(optimizer, step)
        rates = {group["lr"] for group in optimizer.param_groups if any(p is weight for p in group["params"])}
        assert (rates != {0.0}) == moves


def test_settings_that_do_not_fit_are_named() -> None:
    sound = ["output_dir=/run", "data.folder=/photographs"]
    check_config(load_recipe("debug_swav", sound), 1)
    with pytest.raises(ConfigError, match=r"needs 2 or more, for its head's norms"):
        check_config(load_recipe("debug_swav", [*sound, "data.batch_images=1"]), 1)
    queued = load_recipe("debug_swav", [*sound, "method.queue={num_rows: 128, from_step: 10}"])
    assert queued.method.queue == Queue(num_rows=128, from_step=10)


def test_the_head_has_the_published_names() -> None:
    head = HEAD.build(10)
    linear = [
        "projection_head.0.weight",
        "projection_head.0.bias",
        "projection_head.1.weight",
        "projection_head.1.bias",
    ]
    assert [name for name, _ in head.named_parameters()] == [
        *linear,
        "projection_head.3.weight",
        "projection_head.3.bias",
        "prototypes.weight",
    ]
    assert HEAD.row_flops(10) == 2 * (10 * 16 + 16 * 8 + 8 * 6)
