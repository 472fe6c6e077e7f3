"""What one process and two must agree on in DINO and iBOT; run by `test_dino_ibot_two_processes.py`.

usage: two_prototype_methods.py FILE, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ssl_train.distributed import World, join_world, mean_over_ranks
from ssl_train.methods.base import MethodNetworks
from ssl_train.methods.dino import Dino
from ssl_train.methods.ibot import Ibot
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from ssl_train.parallel import Speedups, local_shards, speed_up
from tests.ssl_train.prototype_batches import PATCH, SIDE, batch_of

IMAGES = 8
MODEL = Vit(size="tiny", patch_size=PATCH, image_size=SIDE, layer_scale=0.5)
HEAD = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16)
NORMED = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16, norm_last_layer=True, batch_norm=True)
# The second process's images have many masked patches, the first one's few, and image 0 has none.
SCENARIOS: dict[str, Dino | Ibot] = {
    "dino": Dino(dino_head=HEAD, teacher_momentum=(0.9, 1.0)),
    "dino with BatchNorm and normed prototypes": Dino(dino_head=NORMED, teacher_momentum=(0.9, 1.0)),
    "dino by Sinkhorn-Knopp": Dino(dino_head=HEAD, centering="sinkhorn_knopp"),
    "ibot": Ibot(dino_head=HEAD, teacher_momentum=(0.9, 1.0)),
    "ibot with two heads, one normed": Ibot(dino_head=HEAD, ibot_head=NORMED),
}


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def built(method: Dino | Ibot, world: World) -> MethodNetworks:
    torch.manual_seed(0)
    networks = method.build(MODEL, num_steps=10)
    speed_up(networks.every, world, "fp32", Speedups())
    return networks


def two_steps(method: Dino | Ibot, world: World) -> Iterator[tuple[str, Tensor]]:
    """Loss terms and gradients of two steps with plain descent between them, then teacher and buffers."""
    networks = built(method, world)
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


def everything(world: World) -> dict[str, Tensor]:
    """All numbers to compare, by scenario."""
    return {f"{name}: {key}": value for name, method in SCENARIOS.items() for key, value in two_steps(method, world)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_world() as this:
        found = everything(this)
        if this.is_main:
            torch.save(found, sys.argv[1])
