import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.checkpoint import Checkpointing, Checkpoints
from ssl_train.distributed import World
from ssl_train.models import load_backbone
from tests.ssl_train import two_processes

ALONE = World(0, 1, torch.device("cpu"))
Both = tuple[dict[str, Tensor], dict[str, Tensor], Path]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The numbers of one process, those of two, and the folder into which the two have written."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error::UserWarning", two_processes.__file__, str(folder)]
    started = [subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    alone = two_processes.everything(ALONE, tmp_path_factory.mktemp("one"))
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    return alone, torch.load(folder / "numbers.pt"), folder


@pytest.mark.parametrize("scenario", two_processes.SCENARIOS)
def test_two_processes_have_the_losses_gradients_and_teacher_of_one(one_and_two: Both, scenario: str) -> None:
    alone, shared, _ = one_and_two
    names = [name for name in alone if name.startswith(scenario)]
    assert len(names) > 100
    for name in names:
        scale = float(alone[name].abs().max())
        assert_close(
            shared[name], alone[name], rtol=0, atol=1e-4 * scale + 1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_targets_do_not_depend_on_how_rows_are_spread(one_and_two: Both) -> None:
    alone, shared, _ = one_and_two
    for name in ("sinkhorn", "centre"):
        assert_close(shared[name], alone[name])


def test_two_processes_find_the_accuracy_that_one_finds(one_and_two: Both) -> None:
    alone, shared, _ = one_and_two
    assert shared["knn broken"] == alone["knn broken"] == 1
    assert_close(shared["knn top1"], alone["knn top1"])
    assert alone["knn top1"] > 0


@pytest.mark.parametrize("place", [".", "async"])
def test_a_checkpoint_of_two_processes_is_read_by_one(one_and_two: Both, place: str) -> None:
    _, shared, folder = one_and_two
    scenario, (method, _) = list(two_processes.SCENARIOS.items())[-1]
    networks, optimizer = two_processes.built(method, ALONE)
    checkpoints = Checkpoints(str(folder / place), Checkpointing(), facts={}, world=ALONE)
    assert checkpoints.newest() == 2
    checkpoints.load(2, networks, optimizer)
    for name, parameter in networks.teacher.named_parameters():
        assert_close(parameter.detach(), shared[f"{scenario}: teacher {name}"], rtol=0, atol=0)
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_the_teacher_of_two_processes_is_exported_whole(one_and_two: Both) -> None:
    _, shared, folder = one_and_two
    scenario = list(two_processes.SCENARIOS)[-1]
    for name, tensor in load_backbone(str(folder / "teacher.safetensors")).state_dict().items():
        assert_close(tensor, shared[f"{scenario}: teacher backbone.{name}"], rtol=0, atol=0)
