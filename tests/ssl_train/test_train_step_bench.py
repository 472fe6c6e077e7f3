"""The benchmark's plain step is our step: same losses, same gradients; and every lever off is the same numbers."""

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.train_step import CPU_SETUPS, GPU_SETUPS, misses, ways
from bench.train_step_heads import run_heads
from bench.train_step_plain import plain_loss
from bench.train_step_run import Setup, Way, build_step, changed_by, synthetic_batch, timed_steps
from ssl_train.config import TrainConfig
from ssl_train.distributed import World
from ssl_train.ops import drop_path
from ssl_train.trainer import build_networks

ALONE = World(0, 1, torch.device("cpu"))
SMALL = (
    "model={size: tiny, patch_size: 8, image_size: 32, drop_path: 0.5, layer_scale: 0.5}",
    "augment={global_pixels: 32, local_pixels: 16, num_local: 3}",
    "method.dino_head={num_prototypes: 48, hidden_dim: 32, bottleneck_dim: 16}",
    "method.teacher_momentum=[0.9, 1.0]",
)
UNTIED = Setup("debug", (*SMALL, "method.ibot_head={num_prototypes: 40, hidden_dim: 32, bottleneck_dim: 12}"), 4)
TIED = Setup("debug", (*SMALL, "method.ibot_head=null", "method.centering=softmax"), 4)


def networks_of(config: TrainConfig) -> Any:
    networks: Any = build_networks(config)
    with torch.no_grad():  # student and teacher begin alike, and the centre at zero: here nothing is
        for tensor in (*networks.teacher.parameters(), *networks.buffers()):
            tensor.add_(0.05 * torch.randn_like(tensor))
    return networks


def gradients(networks: Any, total: Tensor) -> dict[str, Tensor]:
    networks.student.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad.clone() for name, parameter in networks.student.named_parameters()}


def replayed(calls: list[list[Tensor]]) -> Iterator[Tensor]:
    """The weights of our residual branches in the order in which the plain form asks: one group after the other."""
    for group in range(2):
        for call in calls:
            yield call[group]


@pytest.mark.parametrize("setup", [UNTIED, TIED], ids=["untied, Sinkhorn-Knopp", "tied, centred"])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_the_plain_step_has_our_loss_and_our_gradients(setup: Setup, drop: float) -> None:
    config = Setup(setup.recipe, (*setup.changes, f"model.drop_path={drop}"), 4).config()
    networks, batch = networks_of(config), synthetic_batch(config, 4, as_bytes=False)
    calls: list[list[Tensor]] = []
    draw_rows = drop_path._draw_rows

    def recorded(shapes: Any, drop: float, device: torch.device) -> Any:
        rows, kept_shapes = draw_rows(shapes, drop, device)
        weights, start = [], 0
        for (crops, tokens), (kept, _) in zip(shapes, kept_shapes, strict=True):
            of_crop = torch.zeros(crops)
            inside = rows[(rows >= start) & (rows < start + crops * tokens)] - start
            of_crop[inside.div(tokens, rounding_mode="floor").unique()] = crops / kept
            weights.append(of_crop)
            start += crops * tokens
        calls.append(weights)
        return rows, kept_shapes

    with patch.object(drop_path, "_draw_rows", recorded):
        ours = networks.loss(batch, 3).total
    found = gradients(networks, ours)
    assert len(calls) == (0 if drop == 0 else 2 * len(networks.student["backbone"].blocks))
    weights = replayed(calls)
    plain = plain_loss(networks, batch, 3, draw=lambda _crops, _drop: next(weights))
    expected = gradients(networks, plain)
    assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    for name, gradient in found.items():
        assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("setup", [UNTIED, TIED], ids=["untied", "tied"])
def test_a_lever_changes_no_number(setup: Setup) -> None:
    losses = {}
    for name, way in ways(on_cuda=False).items():
        torch.manual_seed(0)
        with changed_by(way):
            take = build_step(setup.config(), way, ALONE)
            torch.manual_seed(1)
            batch = synthetic_batch(setup.config(), 4, as_bytes=way.device_colours)
            losses[name] = torch.stack([take(batch, step) for step in range(6, 9)])
    assert losses.keys() > {"ours", "plain"}
    assert losses["ours"].std() > 0  # the network moves
    for name in losses.keys() - {"plain", "crops apart"}:
        assert_close(losses[name], losses["ours"], rtol=1e-4, atol=1e-5, msg=name)


def test_crops_apart_are_the_crops_together_but_for_what_is_drawn() -> None:
    config = Setup(UNTIED.recipe, (*UNTIED.changes, "model.drop_path=0"), 4).config()
    networks, batch = networks_of(config), synthetic_batch(config, 4, as_bytes=False)
    together = networks.loss(batch, 3).total
    with changed_by(Way(packed=False)):
        assert_close(networks.loss(batch, 3).total, together)


def test_steps_are_timed_after_the_first_and_the_batch_is_the_recipes() -> None:
    timed = timed_steps(UNTIED, Way(), steps=2)
    assert len(timed.seconds) == 2
    assert timed.loss == timed.loss
    config = UNTIED.config()
    batch = synthetic_batch(config, 4, as_bytes=False)
    assert (len(batch.global_crops), len(batch.local_crops), len(batch.masks)) == (8, 12, 8)
    assert batch.masks.any(-1).sum() == 4


def test_the_heads_alone_run_in_both_forms() -> None:
    for setup in (UNTIED, TIED):
        for plain in (False, True):
            assert run_heads(setup, plain)[1] > 0


def test_what_is_missed_is_told() -> None:
    way = {"images_per_second": 300.0}
    content = {"ways": {"ours": way}, "heads": {"share_of_plain": 0.3}, "share_of_plain_memory": 0.7}
    content["times_as_fast_as_plain"] = 1.2
    told = misses({"L/16": content}, None)
    assert [line.split(": ")[1].split(",")[0] for line in told] == [
        "1.2 times as fast",
        "0.7 of the memory",
    ]
    assert misses({"L/16": content}, "NVIDIA H200") == [
        "L/16: 300.0 images/s, wanted 342",
        "L/16: heads take 0.3 of the plain, wanted 0.25",
    ]
    json.dumps(content)


@pytest.mark.parametrize("setup", [*GPU_SETUPS.values(), *CPU_SETUPS.values()])
def test_every_setup_is_a_valid_run(setup: Setup) -> None:
    config = setup.config()
    assert config.data.batch_images == setup.batch_images
    assert config.method.kind == "dinov2"
