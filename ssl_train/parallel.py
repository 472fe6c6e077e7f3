"""How networks are computed: compiled, recomputed, sharded over processes by FSDP2, and in which precision."""

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ssl_train.distributed import World
from ssl_train.models import Backbone
from ssl_train.ops.attention import Kernel, settled_kernel
from ssl_train.ops.prototype_loss import Budget

Precision = Literal["fp32", "bf16", "fp16"]
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Speedups:
    """How the networks are computed. None of it changes results."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    attention: Kernel = "auto"
    """Attention kernel: `auto` takes xFormers where it is installed and nothing is compiled, else torch's own."""
    compile: bool | None = None
    """Compile every block (torch.compile, whole graph, static shapes); null compiles on CUDA alone."""
    recompute_activations: bool = False
    """Keep only the inputs of the student's blocks and compute the rest again in the backward pass: a third more
    work, and memory for fewer activations."""
    recompute_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the blocks, how many do so, spread evenly: as few as memory wants."""
    reshard_after_forward: bool = True
    """Free a block's gathered weights between forward and backward pass; false gathers once and holds them."""
    heads: Budget = field(default_factory=Budget)
    """How the heads' logits are gone through: bytes at a time, bytes kept, kernels."""
    prefetch_blocks: Annotated[int, Field(ge=0, le=8)] = 1
    """Blocks whose weights are gathered ahead while one is computed."""


def speed_up(networks: Sequence[nn.ModuleDict], world: World, precision: Precision, how: Speedups) -> None:
    """Compilation inside of recomputation, and both inside of sharding: weights are gathered around all of it."""
    on_cuda = world.device.type == "cuda"
    compiles = on_cuda if how.compile is None else how.compile
    kernel = settled_kernel(how.attention, on_cuda=on_cuda, half=precision in _HALVES, compiled=compiles)
    for modules in networks:
        for backbone in _backbones(modules):
            backbone.use_kernel(kernel)
            for index, unit in enumerate(backbone.units()):
                share = how.recompute_share if how.recompute_activations else 0.0
                unit.recompute = int((index + 1) * share) > int(index * share)  # only where there is a gradient
                if compiles:
                    unit.compile_compute(fullgraph=kernel != "xformers")
        if world.size > 1:
            shard(modules, world, precision, how)


def shard(networks: nn.ModuleDict, world: World, precision: Precision, how: Speedups) -> None:
    """Shard the backbone block by block, and every head whole.

    In half precision the weights are kept, and gradients reduced, in fp32. The teacher has no backward pass: its
    weights are freed after the forward pass in any case.
    """
    # A backbone's outputs are views of its packed tokens; nobody changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    half = _HALVES.get(precision)
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    learns = any(parameter.requires_grad for parameter in networks.parameters())
    frees = how.reshard_after_forward or not learns
    units = [unit for backbone in _backbones(networks) for unit in backbone.units()]
    wrapped = [fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=frees) for unit in units]
    for module in networks.values():
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=frees)
    for index, block in enumerate(wrapped):
        ahead = wrapped[index + 1 : index + 1 + how.prefetch_blocks]
        behind = wrapped[max(index - how.prefetch_blocks, 0) : index][::-1]
        if ahead:
            block.set_modules_to_forward_prefetch(ahead)
        if behind and learns:
            block.set_modules_to_backward_prefetch(behind)


def _backbones(networks: nn.ModuleDict) -> list[Backbone]:
    return [module for module in networks.values() if isinstance(module, Backbone)]


def compute_in(precision: Precision, world: World) -> AbstractContextManager[object]:
    """The context in which a loss is computed: FSDP casts by itself, a process that is alone uses autocast."""
    if precision in _HALVES and world.size == 1:
        return torch.autocast(world.device.type, dtype=_HALVES[precision])
    return nullcontext()


def local_shards(parameters: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each parameter, as storage that can be written to."""
    return [p.to_local() if isinstance(p, DTensor) else p.detach() for p in parameters]
