"""Sharding over processes by FSDP2, and the precision of the computation."""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ssl_train.distributed import World
from ssl_train.models import Backbone

Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shard(networks: Iterable[nn.ModuleDict], world: World, precision: Precision) -> None:
    """Shard every backbone block by block, and every head whole; nothing to do for a process that is alone.

    In half precision the weights are kept, and gradients reduced, in fp32. Weights are gathered again for the backward
    pass, and the teacher's, which has none, are freed after the forward pass.
    """
    if world.size == 1:
        return
    # A backbone's outputs are views of its packed tokens; nobody changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    half = _HALVES.get(precision)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    for modules in networks:
        for module in modules.values():
            if isinstance(module, Backbone):
                for block in module.blocks:
                    fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def compute_in(precision: Precision, world: World) -> AbstractContextManager[object]:
    """The context in which a loss is computed: FSDP casts by itself, a process that is alone uses autocast."""
    if precision in _HALVES and world.size == 1:
        return torch.autocast(world.device.type, dtype=_HALVES[precision])
    return nullcontext()


def local_shards(parameters: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each parameter, as storage that can be written to."""
    return [p.to_local() if isinstance(p, DTensor) else p.detach() for p in parameters]
