import json
from pathlib import Path

import pytest

from ssl_train import metrics
from ssl_train.metrics import Metrics, MetricsLog, read_metrics

VALUES = {"loss": 1.5, "lr": 1e-3}


class Clock:
    """A clock that goes on only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics.time, "perf_counter", clock)
    return clock


def write(folder: Path, *, start: int, stop: int, every: int, clock: Clock, seconds: float) -> None:
    log = MetricsLog(str(folder), Metrics(every_steps=every), num_steps=10, start=start, batch_images=8)
    for step in range(start, stop):
        clock.now += seconds
        log.log(step, VALUES)
    log.close()


def test_lines_are_printed_once_a_second_at_most_and_at_the_end(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, start=0, stop=10, every=1, clock=clock, seconds=0.4)
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["3/10", "6/10", "9/10", "10/10"]


def test_lines_tell_speed_and_time_to_go(tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, start=0, stop=8, every=4, clock=clock, seconds=2.0)
    assert [
        (line["step"], line["step_seconds"], line["images_per_second"], line["eta_seconds"])
        for line in read_metrics(str(tmp_path))
    ] == [
        (4, 2.0, 4.0, 12.0),
        (8, 2.0, 4.0, 4.0),
    ]
    assert capsys.readouterr().out.splitlines()[-1].endswith("4.0 images/s  eta 0:00:04")


def test_lines_of_steps_taken_again_are_not_written_twice(tmp_path: Path, clock: Clock) -> None:
    write(tmp_path, start=0, stop=7, every=1, clock=clock, seconds=1.0)
    write(tmp_path, start=4, stop=10, every=1, clock=clock, seconds=1.0)
    assert [line["step"] for line in read_metrics(str(tmp_path))] == list(range(1, 11))


def test_a_line_cut_by_a_kill_is_passed_over(tmp_path: Path, clock: Clock) -> None:
    write(tmp_path, start=0, stop=2, every=1, clock=clock, seconds=1.0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "num_st')
    write(tmp_path, start=2, stop=4, every=1, clock=clock, seconds=1.0)
    assert [line["step"] for line in read_metrics(str(tmp_path))] == [1, 2, 3, 4]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path, clock: Clock) -> None:
    log = MetricsLog(str(tmp_path), Metrics(every_steps=1), num_steps=2, start=0, batch_images=8)
    log.log(0, {"loss": float("nan"), "lr": float("inf")})
    log.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["loss"], line["lr"]) == (None, None)
