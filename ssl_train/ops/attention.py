"""Self-attention within each crop of a packed run of tokens: SDPA everywhere, xFormers where it is installed."""

from functools import cache, lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.packed import Shapes, unpack

Kernel = Literal["auto", "sdpa", "xformers"]


def attend(
    qkv: Float[Tensor, "total three_dim"], shapes: Shapes, *, num_heads: int, kernel: Kernel = "auto"
) -> Float[Tensor, "total dim"]:
    """softmax(q k^T / sqrt(head dim)) v within every crop; no token sees another crop.

    `qkv` holds queries, keys and values side by side, heads inside each, as the published checkpoints do.
    `auto` takes xFormers' block-diagonal attention on CUDA in half precision where it is installed, SDPA otherwise.
    Raises ValueError when `xformers` is asked for where it cannot run.
    """
    can_pack = qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16) and xformers_runs()
    if kernel == "xformers" and not can_pack:
        raise ValueError(
            "attention kernel 'xformers' needs the xformers package, a CUDA device and half precision; "
            "set efficiency.attention to 'auto' or 'sdpa'"
        )
    heads = qkv.unflatten(-1, (3, num_heads, -1))  # [total, 3, heads, head_dim]
    if kernel != "sdpa" and can_pack:
        return _attend_block_diagonal(heads, shapes)
    return torch.cat([_attend_dense(group) for group in unpack(heads, shapes)])


def _attend_dense(qkv: Float[Tensor, "crops tokens 3 heads head_dim"]) -> Float[Tensor, "crop_tokens dim"]:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [crops, heads, tokens, head_dim]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_block_diagonal(qkv: Float[Tensor, "total 3 heads head_dim"], shapes: Shapes) -> Float[Tensor, "total dim"]:
    from xformers.ops import memory_efficient_attention

    q, k, v = qkv.unsqueeze(0).unbind(2)  # each [1, total, heads, head_dim]
    return memory_efficient_attention(q, k, v, attn_bias=_block_diagonal_mask(shapes)).squeeze(0).flatten(1)


@lru_cache(maxsize=8)
def _block_diagonal_mask(shapes: Shapes) -> Any:
    from xformers.ops.fmha import BlockDiagonalMask

    return BlockDiagonalMask.from_seqlens([tokens for crops, tokens in shapes for _ in range(crops)])


@cache
def xformers_runs() -> bool:
    """Whether xFormers is installed and has a kernel for the current CUDA device: its wheels do not fit every CUDA."""
    try:
        from xformers.ops import memory_efficient_attention

        probe = torch.zeros(1, 8, 1, 64, dtype=torch.bfloat16, device="cuda")
        memory_efficient_attention(probe, probe, probe)
    except (ImportError, OSError, NotImplementedError):
        return False
    return True
