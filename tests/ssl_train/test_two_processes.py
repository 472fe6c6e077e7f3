"""One process and two agree, of every method. One file, so that one pair of processes computes all that is compared."""

from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from ssl_train.checkpoint import Checkpointing, Checkpoints, heads_path
from ssl_train.evaluate.classify import read_classifier
from ssl_train.models import load_backbone
from tests.ssl_train import (
    copies_of_processes,
    two_processes,
    two_processes_views,
    two_prototype_methods,
    two_supervised,
)
from tests.ssl_train.one_and_two import ALONE, OneAndTwo, run
from tests.ssl_train.planted_classes import NAMES

MODULES = (two_processes, two_processes_views, two_prototype_methods, two_supervised, copies_of_processes)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[ModuleType, OneAndTwo]:
    return run(MODULES, tmp_path_factory.mktemp("processes"))


@pytest.fixture
def dinov2(sides: dict[ModuleType, OneAndTwo]) -> OneAndTwo:
    return sides[two_processes]


@pytest.fixture
def views(sides: dict[ModuleType, OneAndTwo]) -> OneAndTwo:
    return sides[two_processes_views]


@pytest.fixture
def supervised(sides: dict[ModuleType, OneAndTwo]) -> OneAndTwo:
    return sides[two_supervised]


@pytest.mark.parametrize("scenario", two_processes.SCENARIOS)
def test_dinov2_has_the_losses_gradients_and_teacher_of_one_process(dinov2: OneAndTwo, scenario: str) -> None:
    assert len(dinov2.compare(scenario, least=1e-7)) > 100


def test_targets_do_not_depend_on_how_rows_are_spread(dinov2: OneAndTwo) -> None:
    for name in ("sinkhorn", "sinkhorn bias", "centre"):
        assert_close(dinov2.two[name], dinov2.one[name])


def test_two_processes_find_the_accuracy_that_one_finds(dinov2: OneAndTwo) -> None:
    assert dinov2.two["knn broken"] == dinov2.one["knn broken"] == 1
    assert_close(dinov2.two["knn top1"], dinov2.one["knn top1"])
    assert dinov2.one["knn top1"] > 0


@pytest.mark.parametrize("place", [".", "async"])
def test_a_checkpoint_of_two_processes_is_read_by_one(dinov2: OneAndTwo, place: str) -> None:
    scenario, (method, _) = list(two_processes.SCENARIOS.items())[-1]
    networks, optimizer = two_processes.built(method, ALONE)
    checkpoints = Checkpoints(str(dinov2.folder / place), Checkpointing(), facts={}, world=ALONE)
    assert checkpoints.newest() == 2
    checkpoints.load(2, networks, optimizer)
    for name, parameter in networks.teacher.named_parameters():
        assert_close(parameter.detach(), dinov2.two[f"{scenario}: teacher {name}"], rtol=0, atol=0)
    assert {int(state["step"]) for state in optimizer.state.values()} == {2}


def test_the_teacher_of_two_processes_is_exported_whole(dinov2: OneAndTwo) -> None:
    scenario = list(two_processes.SCENARIOS)[-1]
    for name, tensor in load_backbone(str(dinov2.folder / "teacher.safetensors")).state_dict().items():
        assert_close(tensor, dinov2.two[f"{scenario}: teacher backbone.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize("scenario", two_prototype_methods.SCENARIOS)
def test_dino_and_ibot_have_the_losses_gradients_centres_and_teacher_of_one_process(
    sides: dict[ModuleType, OneAndTwo], scenario: str
) -> None:
    both = sides[two_prototype_methods]
    names = both.compare(f"{scenario}: ")
    assert len(names) > 100
    centred = [name for name in names if name.endswith(".center")]
    assert all(bool(both.one[name].any()) for name in centred)
    assert bool(centred) == ("Sinkhorn" not in scenario)


@pytest.mark.parametrize("scenario", two_processes_views.SCENARIOS)
def test_methods_that_compare_views_have_the_losses_gradients_and_weights_of_one_process(
    views: OneAndTwo, scenario: str
) -> None:
    tolerance = 1e-6 if two_processes_views.precision_of(scenario) == torch.float64 else 1e-3
    names = views.compare(f"{scenario}:", relative=tolerance, least=1e-6)
    assert sum("gradient" in name for name in names) >= two_processes_views.STEPS * 20
    assert any("running_var" in name for name in names)


def test_rows_of_all_processes_have_the_gradient_of_all_losses(views: OneAndTwo) -> None:
    assert len(views.compare("gathered") + views.compare("gradient of gathered")) == 2


@pytest.mark.parametrize("kind", ["rows", "maps", "nothing"])
def test_norms_see_the_rows_of_all_processes_however_many_each_has(views: OneAndTwo, kind: str) -> None:
    assert len(views.compare(f"norm of {kind}")) == 5


@pytest.mark.parametrize("scenario", ["mocov3_resnet_lars", "simclr", "swav_queue"])
def test_a_skipped_step_leaves_no_trace_in_momenta(views: OneAndTwo, scenario: str) -> None:
    momenta = [value for name, value in views.one.items() if name.startswith(f"{scenario}: momentum")]
    assert len(momenta) > 10
    assert all(momentum.isfinite().all() for momentum in momenta)


def test_the_queue_holds_the_newest_rows_of_all_processes_and_none_of_a_skipped_step(views: OneAndTwo) -> None:
    queue = views.one["swav_queue: buffer queue"]
    assert queue.shape == (2, 6, 12)
    assert_close(queue.norm(dim=-1), torch.ones(2, 6))
    assert_close(views.two["swav_queue: buffer queue"], queue, rtol=0, atol=1e-4)


@pytest.mark.parametrize("scenario", two_supervised.SCENARIOS)
def test_training_on_labels_has_the_losses_gradients_average_and_scores_of_one_process(
    supervised: OneAndTwo, scenario: str
) -> None:
    assert len(supervised.compare(f"{scenario}: ")) > 60
    assert supervised.one[f"{scenario}: score num_images"] == 12
    assert supervised.one[f"{scenario}: score num_undecodable"] == 1
    assert supervised.one[f"{scenario}: average class_head.head.weight"].any()


def test_a_classifier_that_two_processes_exported_is_whole(supervised: OneAndTwo) -> None:
    path = str(supervised.folder / "teacher.safetensors")
    read = read_classifier(path, heads_path(path))
    assert read.class_names == tuple(sorted(NAMES))
    for name, parameter in read.networks.named_parameters():
        assert_close(parameter.detach(), supervised.two[f"resnet widened: average {name}"], rtol=0, atol=0)


def test_sscd_has_the_losses_gradients_and_statistics_of_one_process(sides: dict[ModuleType, OneAndTwo]) -> None:
    assert len(sides[copies_of_processes].compare("")) > 100
