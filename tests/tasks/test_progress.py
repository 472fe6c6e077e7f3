"""What a person sees of long work: how far, how fast, what was kept and why the rest was not, without slowing it."""

import threading
import time
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tasks import news, progress
from tasks.news import News, Teller
from tasks.progress import StageProgress
from tasks.stage import Outcome
from tasks.workers import listening, map_parts


class Screen:
    """The terminal and the UI, and the clock they go by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.lines, self.shown = 100.0, list[str](), list[dict[str, Any]]()
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress, "in_run", lambda: True)
        monkeypatch.setattr(progress, "run_logger", lambda: self)
        monkeypatch.setattr(progress, "create_progress_artifact", self.create)
        monkeypatch.setattr(progress, "update_progress_artifact", self.change)

    def info(self, line: str) -> None:
        self.lines.append(line)

    def create(self, **shown: Any) -> UUID:
        self.shown.append(shown)
        return uuid4()

    def change(self, artifact: UUID, **shown: Any) -> None:
        self.shown.append(shown)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def test_the_line_tells_rate_remaining_time_success_and_the_first_reasons(screen: Screen) -> None:
    shown = StageProgress("download")
    drops = {"http_404": 20, "timeout": 10, "dns": 5, "tls": 3, "noai": 1}
    for done in range(1, 3):
        screen.now += 10
        shown.part_done(done, 10, Outcome(100, 61, drops))
    assert screen.lines[-1] == (
        "download: 2/10 parts, 0.1/s, about 80 s left; 200 rows at 10/s, 61.0% kept; most dropped: http_404 20.0%, "
        "timeout 10.0%, dns 5.0%, tls 3.0%"
    )
    assert screen.shown[-1]["progress"] == 20
    assert screen.shown[-1]["description"] == screen.lines[-1]


def test_parts_that_failed_or_count_nothing_are_done_all_the_same(screen: Screen) -> None:
    shown = StageProgress("fit")
    screen.now += 20
    shown.part_done(1, 2, None)
    shown.part_done(2, 2, Outcome(0, 0))
    assert screen.lines == ["fit: 1/2 parts, 0.05/s, about 20 s left"]
    assert screen.shown[-1] == {"progress": 100, "description": "fit: 2/2 parts, 0.1/s"}


def test_many_short_parts_are_shown_every_few_seconds_only(screen: Screen) -> None:
    shown = StageProgress("screen")
    for done in range(1, 10_001):
        screen.now += 0.001
        shown.part_done(done, 10_000, Outcome(10, 10))
    assert len(screen.shown) <= 1 + 10 / 2 + 1
    assert len(screen.lines) <= 1
    assert screen.shown[-1]["progress"] == 100


def test_a_part_that_is_not_done_is_counted_while_it_runs_and_once_when_it_is(screen: Screen) -> None:
    shown = StageProgress("download")
    screen.now += 10
    shown.part_news(News("part-00001", 0.5, 50, 40, {"timeout": 10}))
    shown.part_done(1, 4, Outcome(100, 100))
    assert screen.lines[-1] == (
        "download: 1/4 parts, 0.15/s, about 17 s left; 150 rows at 15/s, 93.3% kept; most dropped: timeout 6.7%"
    )
    assert screen.shown[-1]["progress"] == 37.5
    screen.now += 10
    shown.part_news(News("part-00001", 1.0))
    shown.part_done(2, 4, Outcome(100, 80, {"timeout": 20}))
    assert "200 rows at 10/s, 90.0% kept" in screen.lines[-1]
    assert screen.shown[-1]["progress"] == 50


def test_another_pass_over_the_parts_is_counted_for_itself(screen: Screen) -> None:
    shown = StageProgress("url_policy")
    for _ in range(2):
        for done in (1, 2):
            screen.now += 20
            shown.part_done(done, 2, Outcome(100, 90, {"port": 10}))
    assert screen.lines[-2].startswith("url_policy: 1/2 parts, 0.05/s, about 20 s left; 100 rows at 5/s, 90.0% kept")
    assert screen.lines[-1].startswith("url_policy: 2/2 parts")


def test_one_long_part_is_shown_before_it_is_done(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one part waits until its news stand on the screen."""
    monkeypatch.setattr(progress, "_ARTIFACT_SECONDS", 0.01)
    monkeypatch.setattr(news, "_SECONDS", 0.0)
    seen = threading.Event()

    def change(artifact: UUID, **shown: Any) -> None:
        if "50.0% kept" in shown["description"]:
            seen.set()

    monkeypatch.setattr(progress, "update_progress_artifact", change)
    shown = StageProgress("download")

    def part() -> bool:
        with Teller("stage/part-00000", 4) as teller:
            teller.row(None)
            teller.row("timeout")
            screen.now += 5
            return seen.wait(20)

    with listening("stage", shown.part_news), shown.live(1):
        (done,), failures = map_parts(part, [()])
    assert (done, failures) == (True, {})


def test_a_ui_that_does_not_answer_does_not_end_the_work(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise httpx.ConnectError("no server")

    said: list[str] = []
    monkeypatch.setattr(screen, "warning", said.append, raising=False)
    monkeypatch.setattr(progress, "update_progress_artifact", gone)
    shown = StageProgress("download")
    for done in (1, 2):
        screen.now += 10
        shown.part_done(done, 2, None)
    assert said == ["download: its progress could not be shown: no server"]


def test_telling_costs_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    shown, outcome = StageProgress("screen"), Outcome(10_000, 6_000, {"http_404": 3_000, "timeout": 1_000})
    started = time.process_time()
    for done in range(1, 2_001):
        shown.part_done(done, 1_000_000, outcome)
    teller = Teller("stage/part", 100_000)
    for _ in range(100_000):
        teller.row("timeout")
    assert time.process_time() - started < 1.0
    assert len(screen.shown) == 1
