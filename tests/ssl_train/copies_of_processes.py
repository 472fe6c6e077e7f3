"""What one process and two must agree on when a ResNet learns copies; run by `test_two_processes.py`."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ssl_train.data.collate import Batch
from ssl_train.distributed import World, mean_over_ranks
from ssl_train.methods.blends import Blends
from ssl_train.methods.sscd import Sscd
from ssl_train.models.resnet import Resnet
from ssl_train.parallel import Speedups, speed_up
from tests.ssl_train.one_and_two import whole

IMAGES = 8


def batch_of(crops: Tensor) -> Batch:
    """Two crops of every image, no masks."""
    num_images = len(crops) // 2
    none = torch.empty(0, dtype=torch.int64)
    return Batch(
        keys=tuple(str(image) for image in range(num_images)),
        global_crops=crops,
        local_crops=torch.empty(0, 3, 0, 0),
        masks=torch.zeros(len(crops), 1, dtype=torch.bool),
        masked=none,
        mask_weights=torch.empty(0),
    )


def own_batch(world: World, step: int) -> Batch:
    """This process's part of eight images' crops."""
    crops = torch.randn(2, IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(step))
    share = IMAGES // world.size
    return batch_of(crops[:, world.rank * share : (world.rank + 1) * share].flatten(0, 1))


def steps(world: World, *, recompute: bool) -> Iterator[tuple[str, Tensor]]:
    """Losses, gradients and running statistics of two steps; blends are another matter, being drawn by process."""
    torch.manual_seed(0)
    method = Sscd(descriptor_dim=16, entropy_weight=2.0, temperature=0.3, blends=Blends(chance=0.0))
    networks = method.build(Resnet(size="tiny", zero_last_gamma=False), num_steps=2)
    speed_up(networks.every, world, "fp32", Speedups(recompute_activations=recompute))
    optimizer = torch.optim.SGD(networks.student.parameters(), lr=0.1)
    for step in range(2):
        losses = networks.loss(own_batch(world, step), step)
        losses.total.backward()
        means = mean_over_ranks({"total": losses.total, **losses.terms, **losses.monitors}, torch.device("cpu"))
        yield from ((f"step {step} {name}", torch.tensor(value)) for name, value in means.items())
        for name, parameter in networks.student.named_parameters():
            assert parameter.grad is not None, name
            yield f"step {step} gradient {name}", whole(parameter.grad)
        optimizer.step()
        optimizer.zero_grad()
    yield from ((f"buffer {name}", buffer.clone()) for name, buffer in networks.student.named_buffers())


def everything(world: World, folder: Path) -> dict[str, Tensor]:
    """All numbers to compare."""
    plain = {f"plain {name}": value for name, value in steps(world, recompute=False)}
    return plain | {f"recomputed {name}": value for name, value in steps(world, recompute=True)}
