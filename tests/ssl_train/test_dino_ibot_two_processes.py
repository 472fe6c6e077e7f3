import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.distributed import World
from tests.ssl_train import two_prototype_methods

ALONE = World(0, 1, torch.device("cpu"))
Both = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The numbers of one process and those of two."""
    path: Path = tmp_path_factory.mktemp("two") / "numbers.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error::UserWarning", two_prototype_methods.__file__, str(path)]
    started = [subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    alone = two_prototype_methods.everything(ALONE)
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return alone, torch.load(path)


@pytest.mark.parametrize("scenario", two_prototype_methods.SCENARIOS)
def test_two_processes_have_the_losses_gradients_centres_and_teacher_of_one(one_and_two: Both, scenario: str) -> None:
    alone, shared = one_and_two
    names = [name for name in alone if name.startswith(f"{scenario}: ")]
    assert len(names) > 100
    assert names == [name for name in shared if name.startswith(f"{scenario}: ")]
    for name in names:
        # Of a bias before BatchNorm the gradient is zero, and what is there is rounding.
        atol = 1e-4 * float(alone[name].abs().max()) + 2e-6
        assert_close(shared[name], alone[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    centred = [name for name in names if name.endswith(".center")]
    assert all(bool(alone[name].any()) for name in centred)
    assert bool(centred) == ("Sinkhorn" not in scenario)
