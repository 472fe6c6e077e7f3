import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.checkpoint import heads_path
from ssl_train.distributed import World
from ssl_train.evaluate.classify import read_classifier
from tests.ssl_train import two_supervised
from tests.ssl_train.planted_classes import NAMES

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
    command = [sys.executable, "-W", "error::UserWarning", two_supervised.__file__, str(folder)]
    started = [subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    alone = two_supervised.everything(ALONE, tmp_path_factory.mktemp("one"))
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    return alone, torch.load(folder / "numbers.pt"), folder


@pytest.mark.parametrize("scenario", two_supervised.SCENARIOS)
def test_two_processes_have_the_losses_gradients_average_and_scores_of_one(one_and_two: Both, scenario: str) -> None:
    alone, shared, _ = one_and_two
    names = [name for name in alone if name.startswith(f"{scenario}: ")]
    assert len(names) > 60
    assert names == [name for name in shared if name.startswith(f"{scenario}: ")]
    for name in names:
        atol = 1e-4 * float(alone[name].abs().max()) + 2e-6
        assert_close(shared[name], alone[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
    assert (alone[f"{scenario}: score num_images"], alone[f"{scenario}: score num_undecodable"]) == (12, 1)
    assert alone[f"{scenario}: average class_head.head.weight"].any()


def test_a_classifier_that_two_processes_exported_is_whole(one_and_two: Both) -> None:
    _, shared, folder = one_and_two
    path = str(folder / "teacher.safetensors")
    read = read_classifier(path, heads_path(path))
    assert read.class_names == tuple(sorted(NAMES))
    for name, parameter in read.networks.named_parameters():
        assert_close(parameter.detach(), shared[f"resnet widened: average {name}"], rtol=0, atol=0)
