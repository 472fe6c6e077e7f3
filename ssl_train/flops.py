"""Floating-point operations of a training step by the config alone, and what the device could do at best.

Matrix products and attention only, a multiply-add counted as two (as in PaLM, arXiv 2204.02311, appendix B).
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from ssl_train.config import TrainConfig
from ssl_train.distributed import World
from ssl_train.methods import MethodNetworks
from ssl_train.methods.base import FORWARD_BACKWARD
from ssl_train.models import Model
from ssl_train.parallel import Precision

PEAK_SECONDS = 0.3
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cuda": 8192, "cpu": 1024}


class ImageFlops(NamedTuple):
    """Operations of a training step per image."""

    student: float
    teacher: float
    heads: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(self)


def image_flops(config: TrainConfig, frozen_teacher: Model | None = None) -> ImageFlops:
    """Operations of a step per image: forward and backward of the student, forward of the teacher, and their heads.

    `frozen_teacher` is the larger model of a distillation, whose size stands in its file. Masked patches count by
    their mean number.
    """
    augment, method, student = config.augment, config.method, config.model
    crops = [augment.global_pixels] * method.num_views + [augment.local_pixels] * augment.num_local
    teacher = frozen_teacher or student
    views = method.num_views if method.has_teacher else 0
    return ImageFlops(
        FORWARD_BACKWARD * sum(student.forward_flops(side, drop_path=student.drop_path) for side in crops),
        views * teacher.forward_flops(augment.global_pixels),
        method.head_flops(
            num_crops=len(crops),
            num_patches=method.num_views * (augment.global_pixels // student.patch_size) ** 2,
            student_dim=student.dim,
            teacher_dim=teacher.dim,
        ),
    )


def ideal_image_seconds(config: TrainConfig, networks: MethodNetworks, world: World) -> float | None:
    """Seconds that an image's operations take at the measured peak of all devices together; None if not asked for."""
    on_cuda = world.device.type == "cuda"
    if not (on_cuda if config.metrics.mfu is None else config.metrics.mfu):
        return None
    frozen = networks.frozen_model
    return image_flops(config, frozen).total / (measure_peak_flops(world.device, config.precision) * world.size)


def measure_peak_flops(device: torch.device, precision: Precision) -> float:
    """Operations per second of a large matrix product on this device, the best of some: what MFU is a share of."""
    side = _SIDE.get(device.type, 1024)
    a, b = (torch.ones(side, side, dtype=_DTYPES[precision], device=device) for _ in range(2))
    finish: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else _nothing
    torch.mm(a, b)
    finish()
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        before = time.perf_counter()
        torch.mm(a, b)
        finish()
        best = min(best, time.perf_counter() - before)
    return 2.0 * side**3 / best


def _nothing() -> None:
    """What a device without a queue has to finish."""
