"""One process and two, side by side: what every test of sharded training starts from.

A module of numbers has `everything(world, folder)`, which says by name what must not depend on the number of processes.
A test gives several of them to `run`, which calls them here and in two processes of gloo.

usage of a process: one_and_two.py FOLDER MODULE..., with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.testing import assert_close

from ssl_train.distributed import World, join_world

ALONE = World(0, 1, torch.device("cpu"))
Numbers = dict[str, Tensor]
TIMEOUT_SECONDS = 240
NUMBERS = "numbers.pt"


class OneAndTwo(NamedTuple):
    """The numbers of one process, those of two, and the folder into which the two have written."""

    one: Numbers
    two: Numbers
    folder: Path

    def compare(self, prefix: str, *, relative: float = 1e-4, least: float = 5e-6) -> list[str]:
        """AssertionError unless all numbers whose names begin so are the same; their names.

        The difference may be `relative` to the largest of a tensor's numbers, and `least` in any case: of a bias before
        BatchNorm the gradient is zero, and what is there is rounding.
        """
        names = [name for name in self.one if name.startswith(prefix)]
        assert names == [name for name in self.two if name.startswith(prefix)]
        for name in names:
            atol = relative * float(self.one[name].abs().max()) + least
            message = f"{name}: {{}}"
            assert_close(self.two[name], self.one[name], rtol=0, atol=atol, msg=message.format)
        return names


def run(modules: Sequence[ModuleType], folder: Path) -> dict[ModuleType, OneAndTwo]:
    """`everything` of all modules, here and in two processes beside, where warnings of users' mistakes are errors."""
    for side in ("one", "two"):
        for module in modules:
            (folder / side / module.__name__).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **world, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    names = [module.__name__ for module in modules]
    command = [sys.executable, "-W", "error::UserWarning", __file__, str(folder / "two"), *names]
    started = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)
    ]
    try:
        one: dict[ModuleType, Numbers] = {
            module: module.everything(ALONE, folder / "one" / module.__name__) for module in modules
        }
        assert [process.wait(timeout=TIMEOUT_SECONDS) for process in started] == [0, 0]
    finally:
        for process in started:  # a failure here leaves none behind
            process.kill()
            process.wait()
    places = {module: folder / "two" / module.__name__ for module in modules}
    return {module: OneAndTwo(one[module], torch.load(place / NUMBERS), place) for module, place in places.items()}


def main(folder: Path, names: Sequence[str]) -> None:
    """What one of two processes runs."""
    torch.set_num_threads(1)
    with join_world() as world:
        for name in names:
            found: Numbers = importlib.import_module(name).everything(world, folder / name)
            if world.is_main:
                torch.save(found, folder / name / NUMBERS)


def whole(tensor: Tensor) -> Tensor:
    """A copy of all of a tensor, however it is spread over processes."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
