import json
from pathlib import Path

import pytest

from ssl_train import metrics
from ssl_train.evaluate.probe import KnnProbe
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


def test_a_warning_stands_in_every_line_and_is_printed_once_until_it_recovers(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(start: int, stop: int, waited: float) -> None:
        log = MetricsLog(str(tmp_path), Metrics(every_steps=1), num_steps=100, start=start, batch_images=8)
        for step in range(start, stop):
            clock.now += 1.0
            log.log(step, {**VALUES, "loader_wait_seconds": waited})
        log.close()

    train(0, 8, waited=0.5)
    train(8, 12, waited=0.5)  # resumed: it is known already
    train(12, 20, waited=0.1)
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("step")]
    assert [line.split(":")[0] for line in told] == ["warning", "recovered"]
    assert "loader_starves at step 5: 50 % of a step" in told[0]
    assert told[1] == "recovered: loader_starves at step 15"
    warned = [line["step"] for line in read_metrics(str(tmp_path)) if "loader_starves" in line.get("warning", {})]
    assert warned == list(range(5, 15))


def test_a_line_speaks_for_all_steps_since_the_last_one_of_waiting_and_of_the_longest_gradient(
    tmp_path: Path, clock: Clock
) -> None:
    log = MetricsLog(
        str(tmp_path), Metrics(every_steps=2), num_steps=4, start=0, batch_images=8, ideal_image_seconds=0.025
    )
    for step, (waited, norm) in enumerate([(0.5, 9.0), (0.1, 1.0), (0.0, float("nan")), (0.0, 2.0)]):
        clock.now += 1.0
        log.log(step, {**VALUES, "loader_wait_seconds": waited, "grad_norm_backbone": norm, "grad_norm_head": 0.5})
    log.close()
    lines = read_metrics(str(tmp_path))
    assert [line["loader_wait_share"] for line in lines] == [pytest.approx(0.3), 0.0]
    assert [line["grad_norm_peak"] for line in lines] == [9.0, 2.0]
    assert [line["mfu"] for line in lines] == [pytest.approx(0.2)] * 2  # 8 images a second at 0.025 s each
    assert all(line["memory_bytes"] > 1 << 20 for line in lines)


def test_lines_are_due_at_the_last_step_at_their_own_and_at_those_of_the_accuracy() -> None:
    due = Metrics(every_steps=4, knn=KnnProbe(folder="x", every_steps=6))
    assert [step for step in range(1, 14) if due.is_due(step, 13)] == [4, 6, 8, 12, 13]
