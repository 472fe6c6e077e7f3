"""Memory and seconds of the heads' last product, targets and losses alone, as a setup's step has them."""

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure import peak_megabytes
from bench.train_step_run import NUM_VIEWS, Setup
from ssl_train.distributed import World
from ssl_train.losses.centering import build_centering, sinkhorn_knopp
from ssl_train.losses.dino import dino_loss, pair_shares, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.ops.prototype_loss import Projected, prototype_loss
from ssl_train.parallel import compute_in

REPEATS = 3


def heads_memory(setup: Setup) -> dict[str, Any]:
    """Peak MB (above prototypes, their gradients and the rows, which both forms need) and median seconds."""
    found: dict[str, Any] = {}
    for name in ("ours", "plain"):
        (megabytes, seconds), host = peak_megabytes(run_heads, setup, name == "plain")
        found[name] = {"peak_mb": round(megabytes or host - needed_megabytes(setup)), "seconds": round(seconds, 4)}
    found["share_of_plain"] = round(found["ours"]["peak_mb"] / found["plain"]["peak_mb"], 3)
    return found


def run_heads(setup: Setup, plain: bool) -> tuple[float, float]:
    """(MB on the GPU, 0 on a CPU; seconds)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = [_inputs(setup, rows, head, device) for rows, head in _sizes(setup)]
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    weights = sum(student.weight.numel() * 4 for student, _ in inputs)
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        with compute_in(setup.config().precision, World(0, 1, device)):
            total = _plain(setup, inputs) if plain else _ours(setup, inputs)
        total.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        for student, _ in inputs:
            student.bottleneck.grad = student.weight.grad = None
    peak = torch.cuda.max_memory_allocated() - before - weights if device.type == "cuda" else 0
    return peak / 2**20, float(np.median(seconds))


def needed_megabytes(setup: Setup) -> float:
    """Student's and teacher's prototypes, the gradient of the former, and the rows."""
    total = 0
    for (student, teacher), head in _sizes(setup):
        total += 4 * head.bottleneck_dim * (3 * head.num_prototypes + 2 * student + teacher)
    return total / 2**20


def _sizes(setup: Setup) -> list[tuple[tuple[int, int], Any]]:
    """(rows of student and teacher, head), of class tokens and of masked patches."""
    config = setup.config()
    images, method = setup.batch_images, config.method
    grid = config.augment.global_pixels // config.model.patch_size
    masked = int(method.masks.draw(NUM_VIEWS * images, grid, np.random.default_rng(0)).sum())
    crops = (NUM_VIEWS + config.augment.num_local) * images
    return [((crops, NUM_VIEWS * images), method.dino_head), ((masked, masked), method.ibot_head or method.dino_head)]


def _inputs(setup: Setup, rows: tuple[int, int], head: Any, device: torch.device) -> tuple[Projected, Projected]:
    def unit(number: int) -> Tensor:
        return F.normalize(torch.randn(number, head.bottleneck_dim, device=device), dim=-1)

    student, teacher = (Projected(unit(number), unit(head.num_prototypes)) for number in rows)
    return Projected(student.bottleneck.requires_grad_(), student.weight.requires_grad_()), teacher


def _ours(setup: Setup, inputs: list[tuple[Projected, Projected]]) -> Tensor:
    method, images = setup.config().method, setup.batch_images
    totals = []
    for number, (student, teacher) in enumerate(inputs):
        centering = build_centering(method.centering, num_prototypes=len(teacher.weight), momentum=0.9)
        centering = centering.to(teacher.weight.device)
        targets = centering(teacher, method.teacher_temperature[0])
        rows = images if number == 0 else len(student.bottleneck)
        mix = pair_shares(setup.config().augment.num_local) if number == 0 else [[1.0]]
        even = torch.full((rows,), 1 / rows, device=teacher.weight.device)
        totals.append(prototype_loss(student, targets, mix, even, temperature=method.student_temperature).total)
    return torch.stack(totals).sum()


def _plain(setup: Setup, inputs: list[tuple[Projected, Projected]]) -> Tensor:
    method, images = setup.config().method, setup.batch_images
    temperature, (cls, patches) = method.student_temperature, inputs
    t, t_patches = (_plain_targets(method, teacher) for _, teacher in inputs)
    s = cls[0].logits().float().unflatten(0, (-1, images))
    views = t.unflatten(0, (NUM_VIEWS, -1))
    dino = dino_loss(s[NUM_VIEWS:], views, temperature=temperature) + swapped_dino_loss(
        s[:NUM_VIEWS], views, temperature=temperature
    )
    z = patches[0].logits().float()
    even = torch.full((len(z),), 1 / len(z), device=z.device)
    pairs = NUM_VIEWS * (len(s) - 1)
    return dino / pairs + ibot_loss(z, t_patches, even, num_crops=1, temperature=temperature)


@torch.no_grad()
def _plain_targets(method: Any, teacher: Projected) -> Tensor:
    z, temperature = teacher.logits().float(), method.teacher_temperature[0]
    if method.centering == "sinkhorn_knopp":
        return sinkhorn_knopp(z, temperature=temperature)
    return (z / temperature).softmax(-1)
