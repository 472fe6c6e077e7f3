"""What one process and two must agree on in classification; run by `test_two_processes.py`, in itself and as two."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_train.checkpoint import export_teacher
from ssl_train.data.collate import Batch
from ssl_train.data.labelled import Labelled
from ssl_train.data.labels import Labels
from ssl_train.data.loader import Batches
from ssl_train.data.masking import NoMasks
from ssl_train.data.mix import Mix
from ssl_train.data.settings import Data
from ssl_train.distributed import World, mean_over_ranks
from ssl_train.evaluate.classify import Classify, classification_scores
from ssl_train.methods.supervised import Supervised, SupervisedNetworks
from ssl_train.models import Model, Vit
from ssl_train.models.class_head import ClassHead
from ssl_train.models.resnet import Resnet
from ssl_train.optim import Optim, build_optimizer, clip_gradients
from ssl_train.parallel import Speedups, speed_up
from tests.ssl_train.one_and_two import whole
from tests.ssl_train.planted_classes import NAMES, write_classes

IMAGES = 8
OPTIM = Optim(lr=1e-2, lr_scaling="none", warmup_steps=0, frozen_last_layer_steps=0, layer_decay=0.7)
LAMB = Optim(kind="lamb", lr=1e-2, lr_scaling="none", warmup_steps=0, frozen_last_layer_steps=0, weight_decay=0.1)
VIT = Vit(size="tiny", patch_size=8, image_size=32, mask_token=False, layer_scale=None)
RESNET = Resnet(size="tiny", stem_kind="small", image_size=32)
SCENARIOS: dict[str, tuple[Model, Supervised, Optim]] = {
    "vit": (VIT, Supervised(class_head=ClassHead(num_classes=4), group_images=4), OPTIM),
    "vit binary lamb": (
        VIT,
        Supervised(class_head=ClassHead(num_classes=4, pool="cls_mean"), loss="binary", group_images=4),
        LAMB,
    ),
    "resnet widened": (
        RESNET,
        Supervised(class_head=ClassHead(num_classes=4, pool="mean", widen=1.5), group_images=4),
        OPTIM,
    ),
}


def batches_of(folder: Path, world: World) -> Batches:
    data = Data(folder=str(folder), labels=Labels(), batch_images=IMAGES)
    images = data.open()
    return Batches(
        images=images,
        data=data,
        augment=Labelled(pixels=32, mix=Mix(each="image")),
        masks=NoMasks(),
        grid=4,
        group_images=4,
        seed=5,
        rank=world.rank,
        world_size=world.size,
        labels=data.open_labels(images),
    )


def built(scenario: str, world: World) -> tuple[SupervisedNetworks, torch.optim.Optimizer]:
    model, method, optim = SCENARIOS[scenario]
    torch.manual_seed(0)
    networks = method.build(model, num_steps=10)
    speed_up(networks.every, world, "fp32", Speedups())
    optimizer = build_optimizer(networks.student, optim)
    optim.schedules(num_steps=10, batch_images=IMAGES).apply(optimizer, 1)
    for group in optimizer.param_groups:
        if "eps" in group:
            group["eps"] = 1.0  # Adam's division would turn the rounding of gradients that are zero into whole steps
    return networks, optimizer


def train_two_steps(
    networks: SupervisedNetworks, optimizer: torch.optim.Optimizer, batches: Batches
) -> Iterator[tuple[str, Tensor]]:
    """Losses, gradients and norms of two steps, and the average after them."""
    networks.prepare(batches)
    for step in range(2):
        batch: Batch = batches[step].finished()
        losses = networks.loss(batch, step)
        losses.total.backward()
        means = mean_over_ranks({"total": losses.total, **losses.monitors}, torch.device("cpu"))
        yield from ((f"step {step} {name}", torch.tensor(value)) for name, value in means.items())
        for name, parameter in networks.student.named_parameters():
            assert parameter.grad is not None, name
            yield f"step {step} gradient {name}", whole(parameter.grad)
        yield from ((f"step {step} norm {name}", norm.detach()) for name, norm in clip_gradients(networks.student, 0.5))
        optimizer.step()
        optimizer.zero_grad()
        networks.after_step(step)
    yield from ((f"average {name}", whole(parameter)) for name, parameter in networks.teacher.named_parameters())
    yield from ((f"buffer {name}", buffer.clone()) for name, buffer in networks.named_buffers())


def everything(world: World, folder: Path) -> dict[str, Tensor]:
    """All numbers to compare; the last scenario is also exported under `folder`."""
    own = folder / f"pictures-of-{world.rank}"
    write_classes(own / "train", 3)
    write_classes(own / "val", 3, first=700)
    (own / "val" / NAMES[0] / "broken.jpg").write_bytes(b"no picture")
    numbers: dict[str, Tensor] = {}
    for name, (_, _, optim) in SCENARIOS.items():
        networks, optimizer = built(name, world)
        told = train_two_steps(networks, optimizer, batches_of(own / "train", world))
        numbers |= {f"{name}: {key}": value for key, value in told}
        look = Classify(folder=str(own / "val"), batch_images=3, pixels=32)
        networks.teacher.eval()
        scores = classification_scores(networks.teacher, look.open(NAMES), look, world)
        numbers |= {f"{name}: score {key}": torch.tensor(value) for key, value in scores._asdict().items()}
        assert optim.kind in ("adamw", "lamb")
    export_teacher(str(folder / "teacher.safetensors"), networks, model=RESNET, step=2, seed=0, world=world)
    assert not np.isnan([float(value.sum()) for value in numbers.values()]).any()
    return numbers
