import pytest
import torch
from torch.testing import assert_close

from tests.ssl_train import two_processes_views
from tests.ssl_train.one_and_two import OneAndTwo, run


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> OneAndTwo:
    return run(two_processes_views, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("scenario", two_processes_views.SCENARIOS)
def test_two_processes_have_the_losses_gradients_and_weights_of_one(both: OneAndTwo, scenario: str) -> None:
    tolerance = 1e-6 if two_processes_views.precision_of(scenario) == torch.float64 else 1e-3
    names = both.compare(f"{scenario}:", relative=tolerance, least=1e-6)
    assert sum("gradient" in name for name in names) >= two_processes_views.STEPS * 20
    assert any("running_var" in name for name in names)


def test_rows_of_all_processes_have_the_gradient_of_all_losses(both: OneAndTwo) -> None:
    assert len(both.compare("gathered") + both.compare("gradient of gathered")) == 2


@pytest.mark.parametrize("kind", ["rows", "maps", "nothing"])
def test_norms_see_the_rows_of_all_processes_however_many_each_has(both: OneAndTwo, kind: str) -> None:
    assert len(both.compare(f"norm of {kind}")) == 5


@pytest.mark.parametrize("scenario", ["mocov3_resnet_lars", "simclr", "swav_queue"])
def test_a_skipped_step_leaves_no_trace_in_momenta(both: OneAndTwo, scenario: str) -> None:
    momenta = [value for name, value in both.one.items() if name.startswith(f"{scenario}: momentum")]
    assert len(momenta) > 10
    assert all(momentum.isfinite().all() for momentum in momenta)


def test_the_queue_holds_the_newest_rows_of_all_processes_and_none_of_a_skipped_step(both: OneAndTwo) -> None:
    queue = both.one["swav_queue: buffer queue"]
    assert queue.shape == (2, 6, 12)
    assert_close(queue.norm(dim=-1), torch.ones(2, 6))
    assert_close(both.two["swav_queue: buffer queue"], queue, rtol=0, atol=1e-4)
