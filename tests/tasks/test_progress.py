"""What a person sees of long work: how far, how fast, what was kept and why the rest was not, without slowing it."""

import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from tasks import progress
from tasks.progress import StageProgress
from tasks.stage import Outcome


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
    assert "61.0% kept; most dropped: http_404 20.0%" in screen.shown[-1]["description"]


def test_parts_that_failed_or_count_nothing_are_done_all_the_same(screen: Screen) -> None:
    shown = StageProgress("fit")
    screen.now += 20
    shown.part_done(1, 2, None)
    shown.part_done(2, 2, Outcome(0, 0))
    assert screen.lines == ["fit: 1/2 parts, 0.05/s, about 20 s left"]
    assert screen.shown[-1] == {"progress": 100, "description": "fit: parts done"}


def test_many_short_parts_are_shown_every_few_seconds_only(screen: Screen) -> None:
    shown = StageProgress("screen")
    for done in range(1, 10_001):
        screen.now += 0.001
        shown.part_done(done, 10_000, Outcome(10, 10))
    assert len(screen.shown) <= 1 + 10 / 2 + 1
    assert len(screen.lines) <= 1
    assert screen.shown[-1]["progress"] == 100


def test_telling_costs_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    shown, outcome = StageProgress("screen"), Outcome(10_000, 6_000, {"http_404": 3_000, "timeout": 1_000})
    started = time.process_time()
    for done in range(1, 2_001):
        shown.part_done(done, 1_000_000, outcome)
    assert time.process_time() - started < 0.5
    assert len(screen.shown) == 1
