import pytest
from torch.testing import assert_close

from ssl_train.checkpoint import Checkpointing, Checkpoints
from ssl_train.models import load_backbone
from tests.ssl_train import two_processes
from tests.ssl_train.one_and_two import ALONE, OneAndTwo, run


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> OneAndTwo:
    return run(two_processes, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("scenario", two_processes.SCENARIOS)
def test_two_processes_have_the_losses_gradients_and_teacher_of_one(both: OneAndTwo, scenario: str) -> None:
    assert len(both.compare(scenario, least=1e-7)) > 100


def test_targets_do_not_depend_on_how_rows_are_spread(both: OneAndTwo) -> None:
    for name in ("sinkhorn", "sinkhorn bias", "centre"):
        assert_close(both.two[name], both.one[name])


def test_two_processes_find_the_accuracy_that_one_finds(both: OneAndTwo) -> None:
    assert both.two["knn broken"] == both.one["knn broken"] == 1
    assert_close(both.two["knn top1"], both.one["knn top1"])
    assert both.one["knn top1"] > 0


@pytest.mark.parametrize("place", [".", "async"])
def test_a_checkpoint_of_two_processes_is_read_by_one(both: OneAndTwo, place: str) -> None:
    scenario, (method, _) = list(two_processes.SCENARIOS.items())[-1]
    networks, optimizer = two_processes.built(method, ALONE)
    checkpoints = Checkpoints(str(both.folder / place), Checkpointing(), facts={}, world=ALONE)
    assert checkpoints.newest() == 2
    checkpoints.load(2, networks, optimizer)
    for name, parameter in networks.teacher.named_parameters():
        assert_close(parameter.detach(), both.two[f"{scenario}: teacher {name}"], rtol=0, atol=0)
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_the_teacher_of_two_processes_is_exported_whole(both: OneAndTwo) -> None:
    scenario = list(two_processes.SCENARIOS)[-1]
    for name, tensor in load_backbone(str(both.folder / "teacher.safetensors")).state_dict().items():
        assert_close(tensor, both.two[f"{scenario}: teacher backbone.{name}"], rtol=0, atol=0)
