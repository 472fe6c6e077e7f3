"""Which code makes the passes over logits: torch's operations anywhere, Triton's kernels on a GPU that runs them."""

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from ssl_train.ops.prototype_loss_budget import Budget

_PROBE_TOLERANCE = 1e-3


def kernels_for(device: torch.device) -> ModuleType | None:
    """`prototype_loss_triton` where the current Budget wants it and it works, else None.

    `auto` tries it once on a little problem; nothing fails where Triton is missing, or cannot compile for the card.
    Raises ValueError when `triton` is asked for and cannot be imported.
    """
    wanted = Budget.current().kernels
    if wanted == "torch" or (wanted == "auto" and device.type != "cuda"):
        return None
    if wanted == "auto":
        return _triton() if _agrees() else None
    module = _triton()
    if module is None:
        raise ValueError(
            "heads: kernels = triton needs the triton package (torch's wheels for CUDA bring it); "
            "set them to 'auto' or 'torch'"
        )
    return module


@cache
def _triton() -> ModuleType | None:
    try:
        from ssl_train.ops import prototype_loss_triton
    except ImportError:
        return None
    return prototype_loss_triton


@cache
def _agrees() -> bool:
    """Whether the kernels compile for the current CUDA device and say what torch says."""
    module = _triton()
    if module is None:
        return False
    from triton.errors import TritonError

    generator = torch.Generator().manual_seed(0)
    z, told = (torch.randn(3, 2, 5000, generator=generator).cuda().bfloat16() for _ in range(2))
    bias, mix = torch.zeros(5000, device="cuda"), torch.tensor([[0.0, 1.0], [0.5, 0.5]], device="cuda")
    try:
        stats = [module.row_stats(told[:, view], bias) for view in range(2)]
        log_sums = torch.stack([one.log_sums for one in stats], dim=1)
        made = z.clone()
        module.compare_(made, told, bias, log_sums, mix, lift=1.0)
    except (TritonError, RuntimeError, OSError):
        return False
    return _close(log_sums, told.float().logsumexp(-1)) and _close(
        made.float(), z.float().softmax(-1) - torch.einsum("cv,ivk->ick", mix, told.float().softmax(-1))
    )


def _close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() < _PROBE_TOLERANCE)
