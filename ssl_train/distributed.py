"""The processes of a run: one by itself, or those that torchrun started. Everything here works without a group."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

# A rank that waits this long for the others is alone: better an error than a silent hang.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among the others, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0


@contextmanager
def join_world() -> Iterator[World]:
    """Join the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); alone when there are none."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    world = World(rank, size, _device(int(os.environ.get("LOCAL_RANK", 0))))
    started_here = size > 1 and not dist.is_initialized()
    if started_here:
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        device_id = world.device if world.device.type == "cuda" else None
        store = _store_of_this_life()
        place: dict[str, Any] = {} if store is None else {"store": store, "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT, device_id=device_id, **place)
    try:
        yield world
    finally:
        if started_here and dist.is_initialized():
            dist.destroy_process_group()


def _store_of_this_life() -> Store | None:
    """A part of torchrun's store for the processes of this start alone; None where it is of no use.

    torchrun keeps one store over all restarts, and in it the addresses of the processes that died: those that are
    started in their place would call there (pytorch issue 135712). With several nodes the counts of restarts differ
    between them, and torchrun must be told to make a new store each time: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(host, port, is_master=False, timeout=COLLECTIVE_TIMEOUT)
    return PrefixStore(f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", shared)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """`tensor` summed over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The largest `tensor` of all processes, element by element, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


class Means:
    """Values averaged over all processes in one collective; nobody waits until they are read.

    `checked` are those that must be finite for a step to be taken, `others` are only told.
    """

    def __init__(
        self, checked: Mapping[str, Tensor | float], others: Mapping[str, Tensor | float], device: torch.device
    ) -> None:
        self.checked, self.names = tuple(checked), (*checked, *others)
        own = [_as_scalar(value, device) for value in (*checked.values(), *others.values())]
        size = dist.get_world_size() if dist.is_initialized() else 1
        self._means = all_reduce_sum(torch.stack(own)) / size

    @property
    def finite(self) -> Tensor:
        """Whether all checked values are finite, as a flag on the device."""
        return self._means[: len(self.checked)].isfinite().all()

    def read(self) -> dict[str, float]:
        """The values on the host: waits for the device to have them."""
        return dict(zip(self.names, self._means.tolist(), strict=True))


def _as_scalar(value: Tensor | float, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(device, torch.float32)
    return torch.full((), value, dtype=torch.float32, device=device)  # filled there: a copy would make the host wait


def mean_over_ranks(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """Each value averaged over all processes, on the host: one collective and one wait for all of them."""
    return Means(values, {}, device).read()
