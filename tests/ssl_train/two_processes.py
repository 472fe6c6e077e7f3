"""What one process and two must agree on; run by `test_two_processes.py`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_train.checkpoint import Checkpointing, Checkpoints, export_teacher
from ssl_train.data.collate import Batch
from ssl_train.distributed import World, mean_over_ranks
from ssl_train.evaluate.probe import KnnProbe, knn_top1
from ssl_train.losses.centering import SoftmaxCentering, sinkhorn_knopp
from ssl_train.methods import DinoV2, DinoV2Networks
from ssl_train.models import Vit
from ssl_train.models.heads import DinoHead
from ssl_train.monitors import feature_rank, part_gradient_norms
from ssl_train.ops.prototype_loss import Projected, sinkhorn_targets
from ssl_train.optim import Optim, build_optimizer, clip_gradients
from ssl_train.parallel import Speedups, local_shards, speed_up
from storage.images import encode_jpeg
from tests.ssl_train.one_and_two import whole

IMAGES, PATCHES, NUM_LOCAL = 8, 16, 3
# Large layer scales: with the usual 1e-5 the class tokens of a fresh network are nearly equal, and the gradient of
# their distances is mostly rounding.
MODEL = Vit(size="tiny", patch_size=8, image_size=32, num_registers=1, interpolation="antialias", layer_scale=0.5)
HEAD = DinoHead(num_prototypes=24, hidden_dim=32, bottleneck_dim=16)
OPTIM = Optim(lr=1e-2, lr_scaling="none", warmup_steps=0, frozen_last_layer_steps=0)
# By scenario: does the method share one head, and which images have masked patches? With two processes the second
# one has the images from 4 on.
SCENARIOS = {
    "softmax_tied_uneven": (DinoV2(dino_head=HEAD, group_images=4), (0, 1, 2, 5)),
    "sinkhorn_untied_one_without": (
        DinoV2(dino_head=HEAD, ibot_head=HEAD, centering="sinkhorn_knopp", group_images=4),
        (0, 3),
    ),
    "sinkhorn_tied_none": (DinoV2(dino_head=HEAD, centering="sinkhorn_knopp", group_images=2), ()),
    "softmax_untied_one_without": (DinoV2(dino_head=HEAD, ibot_head=HEAD, group_images=4), (6, 7)),
}


def batch_of(masked_images: tuple[int, ...], world: World) -> Batch:
    """This process's part of eight images; image i has i + 1 masked patches in its first view if it is masked."""
    random = torch.Generator().manual_seed(1)
    views = torch.randn(2, IMAGES, 3, 32, 32, generator=random)
    local = torch.randn(NUM_LOCAL, IMAGES, 3, 16, 16, generator=random)
    masks = torch.zeros(2, IMAGES, PATCHES, dtype=torch.bool)
    for image in masked_images:
        masks[0, image, : image + 1] = True
        masks[1, image, -2:] = True
    share = IMAGES // world.size
    own = slice(world.rank * share, (world.rank + 1) * share)
    mask = masks[:, own].flatten(0, 1)
    weights = (1 / mask.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(mask)[mask]
    keys = tuple(str(image) for image in range(IMAGES))[own]
    return Batch(
        keys,
        views[:, own].flatten(0, 1),
        local[:, own].flatten(0, 1),
        mask,
        mask.flatten().nonzero().flatten(),
        weights,
    )


def built(method: DinoV2, world: World) -> tuple[DinoV2Networks, torch.optim.Optimizer]:
    torch.manual_seed(0)
    networks = method.build(MODEL, num_steps=10)
    speed_up((networks.student, networks.teacher), world, "fp32", Speedups())
    optimizer = build_optimizer(networks.student, OPTIM)
    OPTIM.schedules(num_steps=10, batch_images=IMAGES).apply(optimizer, 1)
    for group in optimizer.param_groups:
        group["eps"] = 1.0  # Adam's division would turn the rounding of gradients that are zero into whole steps
    return networks, optimizer


def train_two_steps(
    networks: DinoV2Networks, optimizer: torch.optim.Optimizer, batch: Batch
) -> Iterator[tuple[str, Tensor]]:
    """Loss terms, gradients and norms of two steps, and the teacher after them."""
    for step in range(2):
        losses = networks.loss(batch, step)
        losses.total.backward()
        means = mean_over_ranks({"total": losses.total, **losses.terms}, torch.device("cpu"))
        yield from ((f"step {step} {name}", torch.tensor(value)) for name, value in means.items())
        for name, parameter in networks.student.named_parameters():
            assert parameter.grad is not None, name
            yield f"step {step} gradient {name}", whole(parameter.grad)
        assert losses.features is not None
        yield f"step {step} feature rank", feature_rank(losses.features)
        yield from ((f"step {step} part {name}", norm) for name, norm in part_gradient_norms(networks.student).items())
        yield from ((f"step {step} norm {name}", norm.detach()) for name, norm in clip_gradients(networks.student, 0.5))
        optimizer.step()
        optimizer.zero_grad()
        networks.after_step(step)
    yield from ((f"teacher {name}", whole(parameter)) for name, parameter in networks.teacher.named_parameters())
    yield from ((f"buffer {name}", buffer.clone()) for name, buffer in networks.named_buffers())


def targets_of_uneven_rows(world: World) -> Iterator[tuple[str, Tensor]]:
    """Sinkhorn-Knopp and the centre where the second process has no rows at all; the first one's rows."""
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    own = rows if world.is_main else rows[:0]
    yield "sinkhorn", sinkhorn_knopp(own, temperature=0.5)
    yield "sinkhorn bias", sinkhorn_targets(Projected(own, torch.eye(5)), temperature=0.5, chunk_bytes=1).bias
    centering = SoftmaxCentering(5)
    centering(Projected(own, torch.eye(5)), 0.1)
    centering.commit()
    yield "centre", centering.center


def accuracy(networks: DinoV2Networks, folder: Path, world: World) -> Iterator[tuple[str, Tensor]]:
    """The teacher's k-NN accuracy on 13 pictures of three brightnesses, one of them broken."""
    own = folder / f"pictures-of-{world.rank}"
    for number in range(13):
        path = own / "abc"[number % 3] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(number)
        picture = np.clip(random.normal(60 + 60 * (number % 3), 50, (40, 40, 3)), 0, 255).astype(np.uint8)
        path.write_bytes(encode_jpeg(picture, quality=90) if number != 4 else b"no picture")
    probe = KnnProbe(folder=str(own), k=3, batch_images=2)
    top1, broken = knn_top1(networks.teacher_backbone, probe.open(), probe, world)
    yield from (("knn top1", torch.tensor(top1)), ("knn broken", torch.tensor(broken)))


def save(folder: Path, world: World, networks: DinoV2Networks, optimizer: torch.optim.Optimizer) -> None:
    """The same state written while everybody waits, and written while the weights change already."""
    Checkpoints(str(folder), Checkpointing(), facts={}, world=world).save(2, networks, optimizer)
    behind = Checkpoints(str(folder / "async"), Checkpointing(asynchronous=True), facts={}, world=world)
    behind.save(2, networks, optimizer)
    before = {name: whole(parameter) for name, parameter in networks.student.named_parameters()}
    with torch.no_grad():
        torch._foreach_mul_(local_shards(networks.student.parameters()), 0.0)
        behind.settle(wait=True)
        assert behind.newest() == 2
    behind.load(2, networks, optimizer)
    for name, parameter in networks.student.named_parameters():
        assert torch.equal(whole(parameter), before[name]), name


def everything(world: World, folder: Path) -> dict[str, Tensor]:
    """All numbers to compare; the last scenario is also saved and exported under `folder`."""
    numbers = dict(targets_of_uneven_rows(world))
    for name, (method, masked_images) in SCENARIOS.items():
        networks, optimizer = built(method, world)
        steps = train_two_steps(networks, optimizer, batch_of(masked_images, world))
        numbers |= {f"{name}: {key}": value for key, value in steps}
    save(folder, world, networks, optimizer)
    numbers |= dict(accuracy(networks, folder, world))
    export_teacher(str(folder / "teacher.safetensors"), networks, model=MODEL, step=2, seed=0, world=world)
    return numbers
