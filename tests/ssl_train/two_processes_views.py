"""What one process and two must agree on, for methods that compare views; run by `test_two_processes.py`."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_train.data.collate import Batch
from ssl_train.distributed import World, mean_over_ranks
from ssl_train.lars import Lars
from ssl_train.methods.base import MethodNetworks
from ssl_train.methods.byol import Byol
from ssl_train.methods.mocov3 import MocoV3
from ssl_train.methods.simclr import SimClr
from ssl_train.methods.swav import Queue, Swav
from ssl_train.models import Vit
from ssl_train.models.projectors import BatchNorm, MlpHead, SwavHead
from ssl_train.models.resnet import Resnet
from ssl_train.ops.gather import gathered, gathered_with_gradient
from ssl_train.optim import Optim, build_optimizer, clip_gradients, step_if_finite
from ssl_train.parallel import Speedups, speed_up
from tests.ssl_train.one_and_two import whole

IMAGES, STEPS = 8, 2
VIT = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False, frozen_stem=True)
RESNET = Resnet(size="tiny", stem_kind="small", image_size=32, zero_last_gamma=False)
PROJECTOR = MlpHead(hidden_dim=24, out_dim=12)
PREDICTOR = MlpHead(hidden_dim=24, out_dim=12, num_layers=2)
SWAV_HEAD = SwavHead(MlpHead(hidden_dim=24, out_dim=12, num_layers=2, last_norm=False, bias=True), num_prototypes=10)
# By scenario: method, backbone, optimizer, local crops.
SCENARIOS: Mapping[str, tuple[Any, Any, Optim, int]] = {
    "mocov3_vit": (MocoV3(projector=PROJECTOR, predictor=PREDICTOR, teacher_momentum=(0.5, 1.0)), VIT, Optim(), 0),
    "mocov3_resnet_lars": (
        MocoV3(projector=MlpHead(24, 12, 2), predictor=MlpHead(24, 12, 2, last_norm=False), temperature=1.0),
        RESNET,
        Optim(kind="lars", trust=0.05, clip="none"),
        0,
    ),
    "simclr": (SimClr(projector=PROJECTOR), VIT, Optim(kind="sgd", clip="per_tensor", max_grad_norm=0.05), 0),
    "byol": (
        Byol(projector=PROJECTOR, predictor=PREDICTOR, teacher_momentum=(0.5, 1.0)),
        VIT,
        Optim(decay_all=True),
        0,
    ),
    "swav": (Swav(swav_head=SWAV_HEAD), VIT, Optim(), 3),
    "swav_queue": (Swav(swav_head=SWAV_HEAD, queue=Queue(num_rows=6)), VIT, Optim(kind="sgd"), 0),
}


def batch_of(num_local: int, world: World) -> Batch:
    """This process's part of eight images."""
    random = torch.Generator().manual_seed(1)
    views = torch.randn(2, IMAGES, 3, 32, 32, generator=random)
    local = torch.randn(num_local, IMAGES, 3, 16, 16, generator=random)
    share = IMAGES // world.size
    own = slice(world.rank * share, (world.rank + 1) * share)
    keys = tuple(str(image) for image in range(IMAGES))[own]
    nothing = torch.zeros(0, dtype=torch.int64)
    masks = torch.zeros(2 * share, 16, dtype=torch.bool)
    return Batch(keys, views[:, own].flatten(0, 1), local[:, own].flatten(0, 1), masks, nothing, torch.zeros(0))


def precision_of(scenario: str) -> torch.dtype:
    """Double where it can be: BatchNorm over a few rows makes much of the order in which sums are rounded."""
    return torch.float32 if scenario.startswith("swav") else torch.float64


def built(scenario: str, world: World) -> tuple[MethodNetworks, torch.optim.Optimizer]:
    method, model, optim, _ = SCENARIOS[scenario]
    torch.manual_seed(0)
    networks: MethodNetworks = method.build(model, num_steps=10).to(precision_of(scenario))
    speed_up(networks.every, world, "fp32", Speedups())
    return networks, build_optimizer(networks.student, optim)


def some_steps(scenario: str, world: World) -> Iterator[tuple[str, Tensor]]:
    """Losses, gradients and norms of some steps, one of them not finite, and all that they leave behind."""
    networks, optimizer = built(scenario, world)
    optim, batch = SCENARIOS[scenario][2], batch_of(SCENARIOS[scenario][3], world)
    dtype = precision_of(scenario)
    batch = replace(batch, global_crops=batch.global_crops.to(dtype), local_crops=batch.local_crops.to(dtype))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = 0.01, 0.1 * group["wd_multiplier"]
            group["eps"] = 1.0  # Adam's division would turn the rounding of gradients that are zero into whole steps
        losses = networks.loss(batch, step)
        losses.total.backward()
        means = mean_over_ranks({"total": losses.total, **losses.terms}, torch.device("cpu"))
        yield from ((f"step {step} {name}", torch.tensor(value)) for name, value in means.items())
        for name, parameter in networks.student.named_parameters():
            if parameter.grad is not None:
                yield f"step {step} gradient {name}", whole(parameter.grad)
        norms = clip_gradients(networks.student, optim.max_grad_norm, optim.clip)
        yield from ((f"step {step} norm {name}", norm.detach().clone()) for name, norm in norms)
        finite = torch.tensor(step != 1)
        step_if_finite(optimizer, finite)
        networks.after_step(step, finite=finite)
    yield from ((f"student {name}", whole(parameter)) for name, parameter in networks.student.named_parameters())
    yield from ((f"teacher {name}", whole(parameter)) for name, parameter in networks.teacher.named_parameters())
    yield from ((f"buffer {name}", buffer.detach().clone()) for name, buffer in networks.named_buffers())
    if isinstance(optimizer, Lars):
        for name, parameter in networks.student.named_parameters():
            if parameter.requires_grad:
                yield f"momentum {name}", whole(optimizer.state[parameter]["momentum_buffer"])


def norms_of_uneven_rows(world: World) -> Iterator[tuple[str, Tensor]]:
    """BatchNorm of rows and of maps, where the second process has fewer or none: values, gradients, statistics."""
    for name, shape, first in (("rows", (9, 4), 6), ("maps", (5, 4, 3, 2), 4), ("nothing", (6, 4), 6)):
        random = torch.Generator().manual_seed(3)
        everything = torch.randn(shape, generator=random) * 2 + 50
        wanted = torch.randn(shape, generator=random)
        own = slice(None) if world.size == 1 else slice(None, first) if world.is_main else slice(first, None)
        norm, x = BatchNorm(4), everything[own].clone().requires_grad_()
        torch.nn.init.uniform_(norm.weight)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, 3.0]))
        out = norm(x)
        (out * wanted[own]).sum().backward()
        assert x.grad is not None
        kept = slice(0, first)  # what the first process has
        yield from ((f"norm of {name} {key}", t.detach()[kept]) for key, t in {"out": out, "gradient": x.grad}.items())
        yield from ((f"norm of {name} {key}", t.detach().clone()) for key, t in norm.named_buffers())


def rows_of_all(world: World) -> Iterator[tuple[str, Tensor]]:
    """Gathered rows, and the gradient that the losses of all processes make; a process's loss counts its own rows."""
    rows = torch.arange(8.0).reshape(4, 2).sin()
    own = rows.chunk(world.size)[world.rank].clone().requires_grad_()
    yield "gathered", gathered(own)
    everyone = gathered_with_gradient(own)
    weight = torch.arange(16.0).reshape(4, 4).cos()  # [of whose loss, of which row]
    ((weight.chunk(world.size)[world.rank] @ everyone).square().sum()).backward()
    assert own.grad is not None
    yield "gradient of gathered", gathered(own.grad)


def everything(world: World, folder: Path) -> dict[str, Tensor]:
    """All numbers to compare."""
    numbers = dict(rows_of_all(world)) | dict(norms_of_uneven_rows(world))
    for name in SCENARIOS:
        numbers |= {f"{name}: {key}": value for key, value in some_steps(name, world)}
    return numbers
