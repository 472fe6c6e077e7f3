import pytest
from torch.testing import assert_close

from ssl_train.checkpoint import heads_path
from ssl_train.evaluate.classify import read_classifier
from tests.ssl_train import two_supervised
from tests.ssl_train.one_and_two import OneAndTwo, run
from tests.ssl_train.planted_classes import NAMES


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> OneAndTwo:
    return run(two_supervised, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("scenario", two_supervised.SCENARIOS)
def test_two_processes_have_the_losses_gradients_average_and_scores_of_one(both: OneAndTwo, scenario: str) -> None:
    assert len(both.compare(f"{scenario}: ")) > 60
    assert both.one[f"{scenario}: score num_images"] == 12
    assert both.one[f"{scenario}: score num_undecodable"] == 1
    assert both.one[f"{scenario}: average class_head.head.weight"].any()


def test_a_classifier_that_two_processes_exported_is_whole(both: OneAndTwo) -> None:
    path = str(both.folder / "teacher.safetensors")
    read = read_classifier(path, heads_path(path))
    assert read.class_names == tuple(sorted(NAMES))
    for name, parameter in read.networks.named_parameters():
        assert_close(parameter.detach(), both.two[f"resnet widened: average {name}"], rtol=0, atol=0)
