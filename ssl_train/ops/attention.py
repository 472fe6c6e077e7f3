"""Self-attention within each crop of a packed run of tokens: SDPA everywhere, xFormers where it is installed."""

from functools import cache, lru_cache
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.packed import Shapes, unpack

_HALVES = (torch.float16, torch.bfloat16)
Kernel = Literal["auto", "sdpa", "varlen", "xformers"]
"""`sdpa` runs anywhere, a call for each crop size; the others take all crops in one, on CUDA in half precision."""


def attend(
    qkv: Float[Tensor, "total three_dim"], shapes: Shapes, *, num_heads: int, kernel: Kernel = "auto"
) -> Float[Tensor, "total dim"]:
    """softmax(q k^T / sqrt(head dim)) v within every crop; no token sees another crop.

    `qkv` holds queries, keys and values side by side, heads inside each, as the published checkpoints do.
    `auto` takes xFormers' block-diagonal attention where it is installed and can run, SDPA otherwise.
    Raises ValueError when a kernel is asked for where it cannot run.
    """
    heads = qkv.unflatten(-1, (3, num_heads, -1))  # [total, 3, heads, head_dim]
    if kernel == "auto":
        kernel = "xformers" if qkv.is_cuda and qkv.dtype in _HALVES and xformers_runs() else "sdpa"
    if kernel == "sdpa":
        return torch.cat([_attend_dense(group) for group in unpack(heads, shapes)])
    if not (qkv.is_cuda and qkv.dtype in _HALVES and (kernel == "varlen" or xformers_runs())):
        raise ValueError(
            f"attention kernel {kernel!r} needs a CUDA device and half precision"
            f"{', and the xformers package' if kernel == 'xformers' else ''}; "
            "set efficiency.networks.attention to 'auto' or 'sdpa'"
        )
    return _attend_varlen(heads, shapes) if kernel == "varlen" else _attend_block_diagonal(heads, shapes)


def settled_kernel(kernel: Kernel, *, on_cuda: bool, half: bool, compiled: bool) -> Kernel:
    """What `auto` stands for in a run: chosen once, so that a compiled block has nothing to choose.

    Compiled blocks take SDPA: xFormers' masks are objects that no graph can hold.
    """
    if kernel != "auto":
        return kernel
    return "xformers" if on_cuda and half and not compiled and xformers_runs() else "sdpa"


def _attend_dense(qkv: Float[Tensor, "crops tokens 3 heads head_dim"]) -> Float[Tensor, "crop_tokens dim"]:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [crops, heads, tokens, head_dim]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


def _attend_varlen(qkv: Float[Tensor, "total 3 heads head_dim"], shapes: Shapes) -> Float[Tensor, "total dim"]:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(tokens for _, tokens in shapes)
    q, k, v = qkv.unbind(1)  # each [total, heads, head_dim]
    ends = _crop_ends(shapes, qkv.device)
    return cast(Tensor, varlen_attn(q, k, v, ends, ends, longest, longest)).flatten(1)


@lru_cache(maxsize=8)
def _crop_ends(shapes: Shapes, device: torch.device) -> Tensor:
    lengths = [0, *(tokens for crops, tokens in shapes for _ in range(crops))]
    return torch.tensor(lengths, dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)


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
