"""What one process and two must agree on in DINO and iBOT; run by `test_two_processes.py`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ssl_train.distributed import World, mean_over_ranks
from ssl_train.methods.base import MethodNetworks
from ssl_train.methods.dino import Dino
from ssl_train.methods.ibot import Ibot
from ssl_train.models import Model, Vit
from ssl_train.models.heads import DinoHead
from ssl_train.models.internimage import InternImage
from ssl_train.models.internimage_scaling import Variant
from ssl_train.parallel import Speedups, local_shards, speed_up
from tests.ssl_train.one_and_two import whole
from tests.ssl_train.prototype_batches import PATCH, SIDE, batch_of

IMAGES = 8
VIT = Vit(size="tiny", patch_size=PATCH, image_size=SIDE, layer_scale=0.5)
T_LIKE = Variant(16, (1, 1, 2, 1), (1, 2, 4, 8))
H_LIKE = replace(T_LIKE, norm="res_post", dw_kernel=5, centre_gate=True, post_norm_blocks=(0,))
HEAD = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16)
NORMED = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16, norm_last_layer=True, batch_norm=True)
# The second process's images have many masked patches, the first one's few, and image 0 has none.
SCENARIOS: dict[str, tuple[Dino | Ibot, Model]] = {
    "dino": (Dino(dino_head=HEAD, teacher_momentum=(0.9, 1.0)), VIT),
    "dino with BatchNorm and normed prototypes": (Dino(dino_head=NORMED, teacher_momentum=(0.9, 1.0)), VIT),
    "dino by Sinkhorn-Knopp": (Dino(dino_head=HEAD, centering="sinkhorn_knopp"), VIT),
    "ibot": (Ibot(dino_head=HEAD, teacher_momentum=(0.9, 1.0)), VIT),
    "ibot with two heads, one normed": (Ibot(dino_head=HEAD, ibot_head=NORMED), VIT),
    "dino on an InternImage like T": (Dino(dino_head=HEAD), InternImage(variant=T_LIKE)),
    "dino on an InternImage like H": (Dino(dino_head=HEAD), InternImage(variant=H_LIKE)),
}


def built(method: Dino | Ibot, model: Model, world: World) -> MethodNetworks:
    torch.manual_seed(0)
    networks = method.build(model, num_steps=10)
    if isinstance(model, InternImage):
        away_from_the_grid(networks)
    speed_up(networks.every, world, "fp32", Speedups())
    return networks


def away_from_the_grid(networks: MethodNetworks) -> None:
    """DCNv3's points begin on whole pixels, where their gradient jumps and rounding decides between its two sides."""
    for both in zip(*(network.named_parameters() for network in networks.every), strict=True):
        if both[0][0].endswith(("offset.weight", "mask.weight", "center_feature_scale_proj_weight")):
            drawn = torch.randn_like(both[0][1]) * 0.3
            for _, parameter in both:
                parameter.data.copy_(drawn)


def two_steps(method: Dino | Ibot, model: Model, world: World) -> Iterator[tuple[str, Tensor]]:
    """Loss terms and gradients of two steps with plain descent between them, then teacher and buffers."""
    networks = built(method, model, world)
    share = IMAGES // world.size
    own = slice(world.rank * share, (world.rank + 1) * share)
    batch = batch_of(IMAGES, masked=isinstance(method, Ibot), own=own)
    for step in range(2):
        losses = networks.loss(batch, step)
        losses.total.backward()
        watched = {"total": losses.total, **losses.terms, "entropy": losses.monitors["teacher_entropy"]}
        means = mean_over_ranks(watched, torch.device("cpu"))
        yield from ((f"step {step} {name}", torch.tensor(value)) for name, value in means.items())
        for name, parameter in networks.student.named_parameters():
            if parameter.grad is not None:
                yield f"step {step} gradient {name}", whole(parameter.grad)
        with torch.no_grad():
            for parameter in networks.student.parameters():
                if parameter.grad is not None:
                    (weights,), (gradients,) = local_shards([parameter]), local_shards([parameter.grad])
                    weights -= 0.5 * gradients
                    parameter.grad = None
        networks.after_step(step)
    yield from ((f"teacher {name}", whole(parameter)) for name, parameter in networks.teacher.named_parameters())
    yield from ((f"buffer {name}", buffer.clone()) for name, buffer in networks.named_buffers())


def everything(world: World, folder: Path) -> dict[str, Tensor]:
    """All numbers to compare, by scenario."""
    return {
        f"{name}: {key}": value for name, scenario in SCENARIOS.items() for key, value in two_steps(*scenario, world)
    }
