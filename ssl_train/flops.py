"""Floating-point operations of a training step by the config alone, and what the device could do at best.

Matrix products and attention only, a multiply-add counted as two (as in PaLM, arXiv 2204.02311, appendix B).
"""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple, cast

import torch

from ssl_train.config import TrainConfig
from ssl_train.data.masking import BlockMasks
from ssl_train.distributed import World
from ssl_train.methods import DinoV2, Networks
from ssl_train.models import Backbone, Vit
from ssl_train.models.heads import DinoHead
from ssl_train.models.layers import swiglu_hidden
from ssl_train.models.vit import WIDTHS
from ssl_train.parallel import Precision

NUM_VIEWS = 2
FORWARD_BACKWARD = 3
"""A backward pass costs two forward passes: a product for the inputs and one for the weights."""
PEAK_SECONDS = 0.3
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDE = {"cuda": 8192, "cpu": 1024}


class BackboneCost(NamedTuple):
    """What a ViT's forward pass costs by its shape."""

    dim: int
    depth: int
    block_weights: int
    """Entries of the matrices of one block."""
    patch_size: int
    extra_tokens: int
    """The class token and the registers."""

    def forward(self, side_pixels: int, *, drop_path: float = 0.0) -> float:
        """Operations for one crop of side_pixels x side_pixels; a share `drop_path` of the crops skips a branch."""
        patches = (side_pixels // self.patch_size) ** 2
        tokens = patches + self.extra_tokens
        block = 2 * tokens * self.block_weights + 4 * tokens**2 * self.dim
        embed = 2 * patches * 3 * self.patch_size**2 * self.dim
        return embed + self.depth * block * (1 - drop_path)


class ImageFlops(NamedTuple):
    """Operations of a training step per image."""

    student: float
    teacher: float
    heads: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(self)


def backbone_cost(model: Vit) -> BackboneCost:
    """The cost of the backbone of a config."""
    dim, depth, _ = WIDTHS[model.size]
    ffn = 8 * dim**2 if model.ffn == "mlp" else 3 * dim * swiglu_hidden(4 * dim)
    return BackboneCost(dim, depth, 4 * dim**2 + ffn, model.patch_size, 1 + model.num_registers)


def cost_of(network: Backbone) -> BackboneCost:
    """The cost of a backbone that is there, sharded or not."""
    matrices = (weight for weight in network.blocks[0].parameters() if weight.ndim == 2)
    return BackboneCost(
        network.dim,
        len(network.blocks),
        sum(weight.numel() for weight in matrices),
        network.patch_size,
        1 + network.num_registers,
    )


def image_flops(config: TrainConfig, frozen_teacher: BackboneCost | None = None) -> ImageFlops:
    """Operations of a step per image: forward and backward of the student, forward of the teacher, and their heads.

    `frozen_teacher` is the larger model of a distillation, whose size stands in its file. Masked patches count by
    their mean number.
    """
    augment, student = config.augment, backbone_cost(config.model)
    crops = [augment.global_pixels] * NUM_VIEWS + [augment.local_pixels] * augment.num_local
    teacher = frozen_teacher or student
    return ImageFlops(
        FORWARD_BACKWARD * sum(student.forward(side, drop_path=config.model.drop_path) for side in crops),
        NUM_VIEWS * teacher.forward(augment.global_pixels),
        _heads(config, len(crops), student.dim, teacher.dim),
    )


def ideal_image_seconds(config: TrainConfig, networks: Networks, world: World) -> float | None:
    """Seconds that an image's operations take at the measured peak of all devices together; None if not asked for."""
    on_cuda = world.device.type == "cuda"
    if not (on_cuda if config.metrics.mfu is None else config.metrics.mfu):
        return None
    frozen = cost_of(cast(Backbone, networks.guide["backbone"])) if networks.frozen else None
    return image_flops(config, frozen).total / (measure_peak_flops(world.device, config.precision) * world.size)


def _heads(config: TrainConfig, num_crops: int, student_dim: int, teacher_dim: int) -> float:
    method = config.method
    patches = NUM_VIEWS * (config.augment.global_pixels // config.model.patch_size) ** 2 * _asked_share(method)
    both = ((method.dino_head, num_crops, NUM_VIEWS), (method.ibot_head or method.dino_head, patches, patches))
    return sum(
        FORWARD_BACKWARD * own_rows * _head_row(head, student_dim) + rows * _head_row(head, teacher_dim)
        for head, own_rows, rows in both
    )


def _head_row(head: DinoHead, in_dim: int) -> float:
    """One row through a head: its MLP, and its prototypes."""
    widths = [in_dim, *[head.hidden_dim] * (head.num_layers - 1), head.bottleneck_dim, head.num_prototypes]
    return 2.0 * sum(narrow * wide for narrow, wide in itertools.pairwise(widths))


def _asked_share(method: DinoV2) -> float:
    """Mean share of the patches of the global crops that the student is asked about."""
    masks = method.masks
    return masks.masked_crops * sum(masks.ratio) / 2 if isinstance(masks, BlockMasks) else 1.0


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
