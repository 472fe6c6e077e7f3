"""Checkpoints that are whole or not there, and the teacher exported as one file."""

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import safetensors.torch
import torch.distributed as dist
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.optim import Optimizer

from ssl_train.distributed import COLLECTIVE_TIMEOUT, World, barrier
from ssl_train.errors import CheckpointError
from ssl_train.methods import MethodNetworks
from ssl_train.models import Model
from ssl_train.models.load import describe
from storage.filesystem import write_bytes

FACTS = "run.json"
"""Written last into a checkpoint's folder: the settings of the run that made it."""
TEMPORARY = ".tmp"
_NAME = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class Checkpointing:
    """When the run is saved."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    every_steps: Annotated[int, Field(ge=1)] = 1250
    """Steps between checkpoints; the last step always has one."""
    keep_last: Annotated[int, Field(ge=1)] = 3
    """Checkpoints that are kept; older ones are deleted."""
    keep_every_steps: Annotated[int, Field(ge=1)] | None = None
    """Checkpoints at multiples of so many steps are never deleted; null keeps no such milestones."""
    asynchronous: bool | None = None
    """Copy the state to host memory and write it while training goes on; null does so on CUDA alone. It takes a copy
    of this process's part of the state in host memory."""
    export_every_steps: Annotated[int, Field(ge=1)] = 12_500
    """Steps between exports of the teacher; the last step always has one."""


class Checkpoints:
    """The checkpoints of one run, under `output_dir`/checkpoints/step-000001250 and so on.

    A checkpoint holds student, teacher, centres and optimizer, sharded as the processes hold them; it can be read by
    another number of processes. The data's order, crops, masks and drop path are functions of (seed, step), so that
    the step is all there is to say of them. `step` counts finished steps here.
    """

    def __init__(self, output_dir: str, config: Checkpointing, *, facts: Mapping[str, Any], world: World) -> None:
        self._directory = Path(output_dir) / "checkpoints"
        self._config, self._facts, self._world = config, dict(facts), world
        on_cuda = world.device.type == "cuda"
        self._asynchronous = on_cuda if config.asynchronous is None else config.asynchronous
        # The writers of all processes talk among themselves; in the training's own group their words would mix.
        talks = self._asynchronous and dist.is_initialized()
        self._group = dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT) if talks else None
        self._writing: _Writing | None = None
        if self._asynchronous:
            _hush()  # for the writer's thread too

    def newest(self) -> int | None:
        """Finished steps of the newest whole checkpoint, None when there is none."""
        return max(self._whole(), default=None)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint after `step` finished steps."""
        return self._directory / f"step-{step:09d}"

    def load(self, step: int, networks: MethodNetworks, optimizer: Optimizer) -> None:
        """Put a checkpoint's content into networks and optimizer. Raises CheckpointError if another run made it."""
        self._check_facts(step)
        state = _state(networks, optimizer)
        with _quiet():
            load(state, checkpoint_id=self.path(step))
            set_state_dict(networks, optimizer, model_state_dict=state["networks"], optim_state_dict=state["optimizer"])

    def save(self, step: int, networks: MethodNetworks, optimizer: Optimizer) -> None:
        """Write a checkpoint beside its place, rename it when every process has written, and prune old ones.

        Asynchronous: returns when the state is copied; `settle` renames it. One is written at a time. Raises
        CheckpointError when it cannot be written.
        """
        self.settle(wait=True)
        temporary = self._temporary(step)
        if self._world.is_main:
            self._directory.mkdir(parents=True, exist_ok=True)
            for left in self._directory.glob(f"*{TEMPORARY}"):
                shutil.rmtree(left)  # of a run that was killed here
        barrier()
        state = _state(networks, optimizer)
        with _quiet():
            if self._asynchronous:
                written = async_save(state, checkpoint_id=temporary, process_group=self._group)
                self._writing = _Writing(step, cast("Future[Any]", written))
                return
            try:
                save(state, checkpoint_id=temporary)
            except (CheckpointException, OSError, RuntimeError) as error:
                raise self._unwritten(step, error) from error
        barrier()
        self._publish(step)
        barrier()

    def settle(self, *, wait: bool = False) -> None:
        """Give a checkpoint its place once its writers have finished; with `wait`, wait for them and one another.

        Without `wait` it costs a look at a flag, and no process speaks to another: that of the main process is set
        when all have written. Raises CheckpointError when the writer of any process failed.
        """
        if self._writing is not None and (wait or self._writing.written.done()):
            (step, written), self._writing = self._writing, None
            try:
                written.result()
            except (CheckpointException, OSError, RuntimeError) as error:
                raise self._unwritten(step, error) from error
            self._publish(step)
        if wait:
            barrier()  # nobody looks for it before it is there

    def is_due(self, step: int) -> bool:
        """Whether the config wants a checkpoint after `step` finished steps."""
        return step % self._config.every_steps == 0

    def _publish(self, step: int) -> None:
        """Rename what is written whole, then delete what need not be kept: in this order one is always there."""
        if not self._world.is_main:
            return
        place, temporary = self.path(step), self._temporary(step)
        (temporary / FACTS).write_text(json.dumps(self._facts, indent=1))
        if (place / FACTS).exists():
            shutil.rmtree(temporary)  # the same step of the same run: what is whole is left alone
        else:
            shutil.rmtree(place, ignore_errors=True)
            temporary.rename(place)
        for old in self._expendable():
            shutil.rmtree(self.path(old))

    def _expendable(self) -> list[int]:
        """Steps of the whole checkpoints that are neither among the last ones nor milestones."""
        milestone = self._config.keep_every_steps
        older = sorted(self._whole())[: -self._config.keep_last]
        return [step for step in older if milestone is None or step % milestone]

    def _temporary(self, step: int) -> Path:
        return self._directory / f"step-{step:09d}{TEMPORARY}"

    def _unwritten(self, step: int, error: BaseException) -> CheckpointError:
        newest = self.newest()
        good = "there is none yet" if newest is None else f"the newest whole one is {self.path(newest)}"
        failures = error.failures.items() if isinstance(error, CheckpointException) else [(self._world.rank, (error,))]
        reasons = ", ".join(f"process {rank}: {failure[0]!r}" for rank, failure in failures)
        free_mb = shutil.disk_usage(self._directory).free / 1e6
        return CheckpointError(
            f"the checkpoint after step {step} could not be written to {self._directory} ({reasons}; {free_mb:,.1f} MB "
            f"are free there). Look for room and rights there and run again; {good}."
        )

    def _whole(self) -> list[int]:
        names = [path.name for path in self._directory.glob("step-*") if (path / FACTS).exists()]
        return [int(match[1]) for name in names if (match := _NAME.fullmatch(name))]

    def _check_facts(self, step: int) -> None:
        made_with = json.loads((self.path(step) / FACTS).read_text())
        changed = sorted(
            key for key in self._facts.keys() | made_with.keys() if self._facts.get(key) != made_with.get(key)
        )
        if changed:
            raise CheckpointError(
                f"{self.path(step)} was made with another {', '.join(changed)}. Set them back to continue that run "
                "(its settings are in run.json there), or choose another output_dir for a new one."
            )


def export_teacher(path: str, networks: MethodNetworks, *, model: Model, step: int, seed: int, world: World) -> None:
    """Gather the teacher from all processes; write its backbone as `path` (.safetensors), its heads beside it, and
    `path` as .json.

    `models.load_backbone(path, sha256)` reads the backbone back, `start.read_heads` the heads: distillation and
    continued pretraining need them. The .json (path, sha256, bytes, step, seed, heads) comes last: when it is there,
    the files it speaks of are whole.
    """
    backbone = _gathered(networks.teacher["backbone"])
    heads = {
        f"{name}.{key}": tensor
        for name, head in networks.teacher.items()
        if name != "backbone"
        for key, tensor in _gathered(head).items()
    }
    if not world.is_main:
        return
    metadata = describe(model, step=step, seed=seed, **networks.told())
    told: dict[str, Any] = _write_tensors(path, backbone, metadata) | {"step": step, "seed": seed}
    told["heads"] = _write_tensors(heads_path(path), heads, metadata)
    write_bytes(facts_path(path), json.dumps(told, indent=1).encode())


def _gathered(module: nn.Module) -> dict[str, Tensor]:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: cast(Tensor, tensor) for name, tensor in get_model_state_dict(module, options=options).items()}


def _write_tensors(path: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    write_bytes(path, data)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def heads_path(path: str) -> str:
    """Where the heads of an exported teacher are written: heads.safetensors beside teacher.safetensors."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.replace('teacher', 'heads')}" if folder else name.replace("teacher", "heads")


def facts_path(path: str) -> str:
    """Where the checksum of an exported teacher is written."""
    return f"{path.removesuffix('.safetensors')}.json"


def _state(networks: MethodNetworks, optimizer: Optimizer) -> dict[str, Any]:
    network_state, optimizer_state = get_state_dict(networks, optimizer)
    return {"networks": network_state, "optimizer": optimizer_state}


class _Writing(NamedTuple):
    """A checkpoint that this process's thread is writing."""

    step: int
    written: "Future[Any]"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on a process that is alone, which is no mistake here."""
    with warnings.catch_warnings():
        _hush()
        yield


def _hush() -> None:
    warnings.filterwarnings("ignore", message=".*no_dist.*|.*torch.distributed.*(unavailable|not).*initialized.*")
