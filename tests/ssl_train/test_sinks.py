"""TensorBoard is read back from its files; W&B and MLflow, which are not installed here, are told by their calls."""

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ssl_train.config import load_recipe
from ssl_train.errors import ConfigError
from ssl_train.metrics import Metrics, MetricsLog, read_metrics
from ssl_train.sinks import Mlflow, Wandb, imported

VALUES = {"loss": 1.5, "lr": 1e-3, "teacher_entropy": float("nan")}


def train(folder: Path, config: Metrics, *, start: int = 0, stop: int = 4) -> None:
    log = MetricsLog(str(folder), config, num_steps=10, start=start, batch_images=8)
    for step in range(start, stop):
        log.log(step, VALUES | {"loss": float(step)})
    log.close()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_lines_numbers_and_steps_taken_again_once(tmp_path: Path) -> None:
    config = Metrics(every_steps=2, tensorboard=True)
    train(tmp_path, config, stop=8)
    train(tmp_path, config, start=4, stop=8)
    found = scalars(tmp_path)
    assert found["loss"] == [(2, 1.0), (4, 3.0), (6, 5.0), (8, 7.0)]
    assert "images_per_second" in found
    assert "teacher_entropy" not in found  # never finite


class FakeRun:
    """What the tests need of a wandb run."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given, self.rows, self.is_finished = given, dict[int, dict[str, float]](), False
        self.id = given["id"] or "fresh"

    def log(self, row: dict[str, float], step: int) -> None:
        self.rows[step] = row

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    runs = list[FakeRun]()

    def init(**given: Any) -> FakeRun:
        runs.append(FakeRun(given))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", module("wandb", init=init))
    monkeypatch.setitem(sys.modules, "wandb.errors", module("wandb.errors", Error=type("Error", (Exception,), {})))
    return runs


def module(name: str, **content: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__dict__.update(content)
    return made


def test_wandb_gets_the_lines_offline_and_a_resumed_training_goes_on_in_its_run(
    tmp_path: Path, wandb: list[FakeRun]
) -> None:
    config = Metrics(every_steps=2, wandb=Wandb(project="curated"))
    train(tmp_path, config)
    train(tmp_path, config, start=4, stop=6)
    first, second = wandb
    assert (first.given["project"], first.given["mode"], first.given["id"]) == ("curated", "offline", None)
    assert second.given["id"] == first.id
    assert {step: row["loss"] for step, row in first.rows.items()} == {2: 1.0, 4: 3.0}
    assert list(second.rows) == [6]
    assert first.is_finished


def test_a_sink_that_fails_is_told_of_once_and_the_training_goes_on(
    tmp_path: Path, wandb: list[FakeRun], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(self: FakeRun, row: Mapping[str, float], step: int) -> None:
        raise sys.modules["wandb.errors"].Error("no route to host")

    monkeypatch.setattr(FakeRun, "log", unreachable)
    train(tmp_path, Metrics(every_steps=1, wandb=Wandb()))
    assert capsys.readouterr().err.count("WandbRun takes no more numbers: no route to host") == 1
    assert len(read_metrics(str(tmp_path))) == 4


def test_mlflow_gets_the_lines_into_a_local_database_and_no_step_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[tuple[str, Any]]()

    def call(name: str) -> Any:
        return lambda *given, **named: calls.append((name, given or named))

    def start_run(run_id: str | None, run_name: str | None) -> Any:
        calls.append(("start_run", run_id))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "fresh"))

    def log_metrics(row: dict[str, float], *, step: int, synchronous: bool) -> None:
        calls.append(("log_metrics", (step, row["loss"], synchronous)))

    plain = {name: call(name) for name in ("set_tracking_uri", "set_experiment", "end_run")}
    fake = module("mlflow", start_run=start_run, log_metrics=log_metrics, **plain)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    for start in (0, 2):
        train(tmp_path, Metrics(every_steps=2, mlflow=Mlflow()), start=start, stop=start + 2)
    assert [called for name, called in calls if name == "start_run"] == [None, "fresh"]
    assert [called for name, called in calls if name == "log_metrics"] == [(2, 1.0, False), (4, 3.0, False)]
    assert calls[0] == ("set_tracking_uri", (f"sqlite:///{tmp_path / 'mlflow.db'}",))
    assert calls[-1][0] == "end_run"


@pytest.mark.parametrize("setting", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_with_the_setting_that_wants_it(
    tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, setting, None)  # as where it is not installed
    config = load_recipe("debug", [f"metrics.{setting}={{}}"]).metrics
    with pytest.raises(ConfigError, match=rf"metrics\.{setting} needs the package {setting} .*pip install {setting}"):
        train(tmp_path, config)


def test_tensorboard_that_is_not_installed_is_named_too() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.tensorboard needs the package tensorboard"):
        imported("ssl_train.no_such_module", package="tensorboard", setting="metrics.tensorboard")
