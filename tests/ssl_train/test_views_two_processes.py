import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.distributed import World
from tests.ssl_train import two_processes_views

Both = tuple[dict[str, Tensor], dict[str, Tensor]]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The numbers of one process, and those of two."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "error::UserWarning", two_processes_views.__file__, str(folder)]
    started = [subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
    try:
        alone = two_processes_views.everything(World(0, 1, torch.device("cpu")))
        assert [process.wait(timeout=200) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return alone, torch.load(folder / "numbers.pt")


def compare(both: Both, prefix: str, *, tolerance: float = 1e-4) -> list[str]:
    alone, shared = both
    names = [name for name in alone if name.startswith(prefix)]
    assert names == [name for name in shared if name.startswith(prefix)]
    for name in names:
        scale = float(alone[name].abs().max())
        assert_close(
            shared[name],
            alone[name],
            rtol=0,
            atol=tolerance * scale + 1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return names


@pytest.mark.parametrize("scenario", two_processes_views.SCENARIOS)
def test_two_processes_have_the_losses_gradients_and_weights_of_one(one_and_two: Both, scenario: str) -> None:
    tolerance = 1e-6 if two_processes_views.precision_of(scenario) == torch.float64 else 1e-3
    names = compare(one_and_two, f"{scenario}:", tolerance=tolerance)
    assert sum("gradient" in name for name in names) >= two_processes_views.STEPS * 20
    assert any("running_var" in name for name in names)


def test_rows_of_all_processes_have_the_gradient_of_all_losses(one_and_two: Both) -> None:
    assert len(compare(one_and_two, "gathered") + compare(one_and_two, "gradient of gathered")) == 2


@pytest.mark.parametrize("kind", ["rows", "maps", "nothing"])
def test_norms_see_the_rows_of_all_processes_however_many_each_has(one_and_two: Both, kind: str) -> None:
    assert len(compare(one_and_two, f"norm of {kind}")) == 5


@pytest.mark.parametrize("scenario", ["mocov3_resnet_lars", "simclr", "swav_queue"])
def test_a_skipped_step_leaves_no_trace_in_momenta(one_and_two: Both, scenario: str) -> None:
    alone, _ = one_and_two
    momenta = [value for name, value in alone.items() if name.startswith(f"{scenario}: momentum")]
    assert len(momenta) > 10
    assert all(momentum.isfinite().all() for momentum in momenta)


def test_the_queue_holds_the_newest_rows_of_all_processes_and_none_of_a_skipped_step(one_and_two: Both) -> None:
    alone, shared = one_and_two
    queue = alone["swav_queue: buffer queue"]
    assert queue.shape == (2, 6, 12)
    assert_close(queue.norm(dim=-1), torch.ones(2, 6))
    assert_close(shared["swav_queue: buffer queue"], queue, rtol=0, atol=1e-4)
