import pytest

from tests.ssl_train import two_prototype_methods
from tests.ssl_train.one_and_two import OneAndTwo, run


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> OneAndTwo:
    return run(two_prototype_methods, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("scenario", two_prototype_methods.SCENARIOS)
def test_two_processes_have_the_losses_gradients_centres_and_teacher_of_one(both: OneAndTwo, scenario: str) -> None:
    names = both.compare(f"{scenario}: ")
    assert len(names) > 100
    centred = [name for name in names if name.endswith(".center")]
    assert all(bool(both.one[name].any()) for name in centred)
    assert bool(centred) == ("Sinkhorn" not in scenario)
