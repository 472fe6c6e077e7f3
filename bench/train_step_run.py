"""One way of doing a DINOv2 step, built and timed: ours with each lever on or off, or the plain form."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from bench.train_step_plain import PlainStep
from ssl_train.config import TrainConfig, load_recipe
from ssl_train.data.augment import MultiCrop
from ssl_train.data.collate import Batch
from ssl_train.distributed import World
from ssl_train.losses import centering
from ssl_train.losses.centering import sinkhorn_knopp
from ssl_train.methods import dinov2
from ssl_train.models import layers
from ssl_train.models.vit import VisionTransformer
from ssl_train.ops.drop_path import num_kept
from ssl_train.ops.prototype_loss import Projected, Targets, plain_prototype_loss
from ssl_train.optim import build_optimizer, clip_gradients, step_if_finite
from ssl_train.parallel import Speedups, compute_in, speed_up
from ssl_train.trainer import build_networks

NUM_VIEWS = 2
WARM_STEP = 1  # schedules are past their zeros


@dataclass(frozen=True)
class Setup:
    """A recipe, changed, and how many images a device takes at a time."""

    recipe: str
    changes: tuple[str, ...]
    batch_images: int

    def config(self) -> TrainConfig:
        """The run's settings."""
        sizes = [f"data.batch_images={self.batch_images}", "output_dir=unused"]
        config = load_recipe(self.recipe, [*self.changes, *sizes])
        if config.method.group_images is None:
            return config
        return load_recipe(self.recipe, [*self.changes, *sizes, "method.group_images=null"])


@dataclass(frozen=True)
class Way:
    """How a step is done; the defaults are ours with every lever on but compilation and recomputation."""

    plain: bool = False
    packed: bool = True
    """Crops of both sizes in one pass over norms and linears."""
    skips: bool = True
    """Drop path leaves out the work."""
    chunked_heads: bool = True
    compile: bool = False
    recompute: float = 0.0
    """Share of the blocks that are computed again in the backward pass."""
    device_colours: bool = False
    """The batch comes as bytes, and its colours change on the device, within the step."""


class Timed(NamedTuple):
    """Seconds of each step, after the first; loss after the last; bytes that a GPU had to hold at most."""

    seconds: list[float]
    loss: float
    cuda_bytes: int

    @property
    def median(self) -> float:
        """Of the steps' seconds."""
        return statistics.median(self.seconds)


def timed_steps(setup: Setup, way: Way, steps: int) -> Timed:
    """Build everything, take a step to warm up, then `steps` more."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, world = setup.config(), World(0, 1, device)
    on_cuda = device.type == "cuda"
    with changed_by(way):
        take = build_step(config, way, world)
        batch = synthetic_batch(config, setup.batch_images, as_bytes=way.device_colours).to(device)
        loss = take(batch, WARM_STEP)
        if on_cuda:  # a compiled step has its second, slower than the rest, when gradients are there
            take(batch, WARM_STEP + 1)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        seconds = []
        for step in range(WARM_STEP + 2, WARM_STEP + 2 + steps):
            before = time.perf_counter()
            loss = take(batch, step)
            if on_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - before)
    return Timed(seconds, float(loss), torch.cuda.max_memory_allocated() if on_cuda else 0)


def build_step(config: TrainConfig, way: Way, world: World) -> Callable[[Batch, int], Tensor]:
    """A function that takes a step on a batch and gives its loss: forward, backward, clipping, optimizer, average."""
    networks: Any = build_networks(config).to(world.device)
    schedules = config.optim.schedules(num_steps=config.num_steps, batch_images=config.data.batch_images)
    optimizer: torch.optim.Optimizer
    if way.plain:
        optimizer = torch.optim.AdamW(networks.student.parameters(), lr=1e-4)
        plain = PlainStep(networks, optimizer, max_grad_norm=config.optim.max_grad_norm)

        def take_plain(batch: Batch, step: int) -> Tensor:
            with compute_in(config.precision, world):
                return plain(batch.finished(), step)

        return take_plain
    again = {"recompute_activations": True, "recompute_share": way.recompute} if way.recompute else {}
    how = Speedups(compile=way.compile, **again)
    speed_up(networks.every, world, config.precision, how)
    optimizer = build_optimizer(networks.student, config.optim)

    def take(batch: Batch, step: int) -> Tensor:
        schedules.apply(optimizer, step)
        with compute_in(config.precision, world):
            losses = networks.loss(batch.finished(), step)
        losses.total.backward()
        for _ in clip_gradients(networks.student, config.optim.max_grad_norm):
            pass
        total: Tensor = losses.total.detach()
        finite = total.isfinite()
        step_if_finite(optimizer, finite)
        networks.after_step(step, finite=finite)
        return total

    return take


def synthetic_batch(config: TrainConfig, images: int, *, as_bytes: bool) -> Batch:
    """Crops of noise with masks as the recipe deals them out; bytes with colours still to change, or finished."""
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    augment = config.augment
    grid = augment.global_pixels // config.model.patch_size
    mask = torch.from_numpy(config.method.masks.draw(NUM_VIEWS * images, grid, rng))
    counts = ((NUM_VIEWS, augment.global_pixels), (augment.num_local, augment.local_pixels))
    crops = [
        torch.randint(0, 256, (number * images, 3, side, side), dtype=torch.uint8, generator=generator)
        for number, side in counts
    ]
    batch = Batch(
        keys=("",) * images,
        global_crops=crops[0],
        local_crops=crops[1],
        masks=mask,
        masked=mask.flatten().nonzero().flatten(),
        mask_weights=(1 / mask.sum(-1).clamp(min=1)).unsqueeze(-1).expand_as(mask)[mask],
        **_draws(augment, images, rng),
    )
    return batch if as_bytes else batch.finished()


def _draws(augment: MultiCrop, images: int, rng: np.random.Generator) -> dict[str, Any]:
    by_crop = np.stack([augment.plan(375, 500, rng).draws for _ in range(images)], axis=1)  # [crops, images]
    return {
        "global_draws": by_crop[:NUM_VIEWS].reshape(-1),
        "local_draws": by_crop[NUM_VIEWS:].reshape(-1),
    }


@contextmanager
def changed_by(way: Way) -> Iterator[None]:
    """Our own code with the levers off that `way` wants off; only a benchmark would do this."""
    with ExitStack() as stack:
        if not way.packed:
            stack.enter_context(patch.object(VisionTransformer, "forward", _separately(VisionTransformer.forward)))
        if not way.skips:
            stack.enter_context(patch.object(layers, "residual", masked_residual))
        if not way.chunked_heads:
            stack.enter_context(patch.object(dinov2, "prototype_loss", plain_prototype_loss))
            stack.enter_context(patch.object(centering, "sinkhorn_targets", full_size_targets))
        yield


def _separately(together: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def forward(self: Any, crops: Sequence[Tensor], masks: Sequence[Tensor | None] | None = None) -> list[Any]:
        masks = [None] * len(crops) if masks is None else masks
        return [together(self, [crop], [mask])[0] for crop, mask in zip(crops, masks, strict=True)]

    return forward


def masked_residual(x: Tensor, shapes: Any, branch: Callable[..., Tensor], *, drop: float) -> Tensor:
    """Drop path that computes the branch of every crop and multiplies what it drops by zero."""
    if drop == 0.0:
        return x + branch(x, shapes)
    weights = []
    for crops, tokens in shapes:
        kept = torch.randperm(crops, device=x.device)[: num_kept(crops, drop)]
        of_crop = torch.zeros(crops, device=x.device).index_fill(0, kept, crops / len(kept))
        weights.append(of_crop.repeat_interleave(tokens))
    return x + branch(x, shapes) * torch.cat(weights).unsqueeze(-1).to(x.dtype)


def full_size_targets(teacher: Projected, *, temperature: float) -> Targets:
    """Sinkhorn-Knopp over the whole matrix."""
    q = sinkhorn_knopp(teacher.logits(), temperature=temperature)
    return Targets(*teacher, temperature, q.new_zeros(q.shape[1]), masses=q)
