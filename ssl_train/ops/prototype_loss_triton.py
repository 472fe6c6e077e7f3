"""The passes over logits as Triton kernels: half-precision logits are read as they are, and no fp32 copy is written.

By bytes: torch's passes over a chunk (to fp32, bias, maximum, difference, exponential, sum, quotient, ...) move some
fifty bytes a logit; these move six of the student's and six of the teacher's. The plain forms are in
`prototype_loss_sweep` and `prototype_loss_targets`; nothing needs these.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

ROW_BLOCK = 4096
"""Prototypes that a program holds of its row at a time."""
COLUMN_BLOCK = 128
"""Prototypes of a program that goes down the rows."""
ROWS_AT_ONCE = 16
_WARPS = 8


class RowStats(NamedTuple):
    """Of softmax(logits + bias), row by row."""

    log_sums: Float[Tensor, " rows"]
    entropies: Float[Tensor, " rows"]


class Compared(NamedTuple):
    """Of each crop: log of the sum of exponentials, and mixed target . logits."""

    log_sums: Float[Tensor, "images crops"]
    agreement: Float[Tensor, "images crops"]


def row_stats(logits: Float[Tensor, "rows prototypes"], bias: Float[Tensor, " prototypes"]) -> RowStats:
    """Logarithms of sums of exponentials, and entropies in nats; logits of any precision, sums in fp32."""
    rows, prototypes = logits.shape
    log_sums, entropies = (torch.empty(rows, device=logits.device) for _ in range(2))
    if rows:
        _row_stats[(rows,)](
            logits, logits.stride(0), bias, log_sums, entropies, prototypes, BLOCK=ROW_BLOCK, num_warps=_WARPS
        )
    return RowStats(log_sums, entropies)


def column_sums(
    logits: Float[Tensor, "rows prototypes"], bias: Float[Tensor, " prototypes"], log_sums: Float[Tensor, " rows"]
) -> Float[Tensor, " prototypes"]:
    """Sums over rows of softmax(logits + bias), whose row_stats are known."""
    rows, prototypes = logits.shape
    sums = torch.empty(prototypes, device=logits.device)
    _column_sums[(triton.cdiv(prototypes, COLUMN_BLOCK),)](
        logits, logits.stride(0), bias, log_sums, sums, rows, prototypes, BLOCK=COLUMN_BLOCK, ROWS=ROWS_AT_ONCE
    )
    return sums


def column_log_sums(logits: Float[Tensor, "rows prototypes"]) -> tuple[Tensor, Tensor]:
    """(largest, sum of exp(logits - largest)) of each column, both [prototypes]; -1e30 and 0 without rows."""
    rows, prototypes = logits.shape
    largest, sums = (torch.empty(prototypes, device=logits.device) for _ in range(2))
    _column_log_sums[(triton.cdiv(prototypes, COLUMN_BLOCK),)](
        logits, logits.stride(0), largest, sums, rows, prototypes, BLOCK=COLUMN_BLOCK, ROWS=ROWS_AT_ONCE
    )
    return largest, sums


def compare_(
    z: Float[Tensor, "images crops prototypes"],
    told: Float[Tensor, "images views prototypes"],
    bias: Float[Tensor, " prototypes"],
    told_log_sums: Float[Tensor, "images views"],
    mix: Float[Tensor, "crops views"],
    *,
    lift: float,
) -> Compared:
    """Student logits `z` become lift * (mass * softmax(z) - target), target = sum over views of mix * softmax(told +
    bias) and mass = sum of a crop's mix, in z's precision; what the losses are made of is given back."""
    images, crops, prototypes = z.shape
    log_sums, agreement = (torch.empty(images, crops, device=z.device) for _ in range(2))
    if images:
        _compare[(images, crops)](
            z,
            told,
            told.stride(0),
            told.stride(1),
            bias,
            told_log_sums,
            mix,
            log_sums,
            agreement,
            prototypes,
            lift,
            CROPS=crops,
            VIEWS=told.shape[1],
            BLOCK=ROW_BLOCK,
            num_warps=_WARPS,
        )
    return Compared(log_sums, agreement)


@triton.jit
def _row_stats(
    logits: Any, row_stride: Any, bias: Any, log_sums: Any, entropies: Any, prototypes: Any, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    largest, total, weighted = -1.0e30, 0.0, 0.0
    for start in range(0, prototypes, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < prototypes
        z = tl.load(logits + row * row_stride + places, mask=inside, other=0.0).to(tl.float32)
        z = tl.where(inside, z + tl.load(bias + places, mask=inside, other=0.0), -1.0e30)
        new = tl.maximum(largest, tl.max(z, axis=0))
        mass = tl.exp(z - new)
        shrunk = tl.exp(largest - new)
        total = total * shrunk + tl.sum(mass, axis=0)
        weighted = weighted * shrunk + tl.sum(mass * z, axis=0)
        largest = new
    log_sum = largest + tl.log(total)
    tl.store(log_sums + row, log_sum)
    tl.store(entropies + row, log_sum - weighted / total)


@triton.jit
def _column_sums(
    logits: Any,
    row_stride: Any,
    bias: Any,
    log_sums: Any,
    sums: Any,
    rows: Any,
    prototypes: Any,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < prototypes
    shift = tl.load(bias + places, mask=inside, other=0.0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, rows, ROWS):
        here = start + tl.arange(0, ROWS).to(tl.int64)
        there = (here < rows)[:, None] & inside[None, :]
        z = tl.load(logits + here[:, None] * row_stride + places[None, :], mask=there, other=0.0).to(tl.float32)
        log_sum = tl.load(log_sums + here, mask=here < rows, other=0.0)
        total += tl.sum(tl.where(there, tl.exp(z + shift[None, :] - log_sum[:, None]), 0.0), axis=0)
    tl.store(sums + places, total, mask=inside)


@triton.jit
def _column_log_sums(
    logits: Any,
    row_stride: Any,
    largest: Any,
    sums: Any,
    rows: Any,
    prototypes: Any,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < prototypes
    most = tl.full((BLOCK,), -1.0e30, dtype=tl.float32)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, rows, ROWS):
        here = start + tl.arange(0, ROWS).to(tl.int64)
        there = (here < rows)[:, None] & inside[None, :]
        z = tl.load(logits + here[:, None] * row_stride + places[None, :], mask=there, other=0.0).to(tl.float32)
        z = tl.where(there, z, -1.0e30)  # there is a row in every turn: below, nothing of these is left
        new = tl.maximum(most, tl.max(z, axis=0))
        total = total * tl.exp(most - new) + tl.sum(tl.exp(z - new[None, :]), axis=0)
        most = new
    tl.store(largest + places, most, mask=inside)
    tl.store(sums + places, total, mask=inside)


@triton.jit
def _compare(
    z_all: Any,
    told: Any,
    image_stride: Any,
    view_stride: Any,
    bias: Any,
    told_log_sums: Any,
    mix: Any,
    log_sums: Any,
    agreement: Any,
    prototypes: Any,
    lift: Any,
    CROPS: tl.constexpr,
    VIEWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    image, crop = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = image * CROPS + crop
    own = z_all + row * prototypes
    largest, total = -1.0e30, 0.0
    for start in range(0, prototypes, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < prototypes
        z = tl.where(inside, tl.load(own + places, mask=inside, other=0.0).to(tl.float32), -1.0e30)
        new = tl.maximum(largest, tl.max(z, axis=0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    log_sum = largest + tl.log(total)
    mass, agreed = 0.0, 0.0
    for view in tl.static_range(VIEWS):
        mass += tl.load(mix + crop * VIEWS + view)
    for start in range(0, prototypes, BLOCK):
        places = start + tl.arange(0, BLOCK)
        inside = places < prototypes
        z = tl.where(inside, tl.load(own + places, mask=inside, other=0.0).to(tl.float32), -1.0e30)
        shift = tl.where(inside, tl.load(bias + places, mask=inside, other=0.0), -1.0e30)
        mixed = tl.zeros((BLOCK,), dtype=tl.float32)
        for view in tl.static_range(VIEWS):
            share = tl.load(mix + crop * VIEWS + view)
            if share != 0.0:
                from_row = told + image * image_stride + view * view_stride
                t = tl.load(from_row + places, mask=inside, other=0.0).to(tl.float32)
                mixed += share * tl.exp(t + shift - tl.load(told_log_sums + image * VIEWS + view))
        agreed += tl.sum(mixed * z, axis=0)
        gradient = lift * (mass * tl.exp(z - log_sum) - mixed)
        tl.store(own + places, gradient.to(z_all.dtype.element_ty), mask=inside)
    tl.store(log_sums + row, log_sum)
    tl.store(agreement + row, agreed)
