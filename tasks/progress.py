"""What a person sees of long work while it runs: a progress artifact in the UI and a log line in the terminal."""

import contextvars
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

from tasks.news import News

_ARTIFACT_SECONDS = 2.0
_LOG_SECONDS = 10.0
_TOP = 4


def in_run() -> bool:
    """True inside a Prefect flow or task run; tests and scripts that call `task.fn` are outside."""
    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


def run_logger() -> Any:
    """The run's logger inside a run, else the module's."""
    return get_run_logger() if in_run() else logging.getLogger("tasks")


class PartCounts(Protocol):
    """What a finished part tells: its rows, how many were kept, the others by reason."""

    @property
    def rows_in(self) -> int: ...
    @property
    def rows_kept(self) -> int: ...
    @property
    def drops(self) -> Mapping[str, int]: ...


class StageProgress:
    """Parts done of parts to do, and what became of their rows; cheap to update, shown at most every few seconds.

    A stage may go over its parts several times: what is told is the pass that is running.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started = self._logged = self._shown = self._last = time.monotonic()
        self._artifact: UUID | None = None
        self._done = self._rows_in = self._rows_kept = 0
        self._drops: Counter[str] = Counter()
        self._running: dict[str, News] = {}
        self._lock = threading.Lock()

    def part_done(self, done: int, total: int, part: PartCounts | None) -> None:
        """Tell that `done` of `total` parts are done, the last with these counts (None: it failed, or has none)."""
        with self._lock:
            if done <= self._done:  # another pass
                self._started, self._rows_in, self._rows_kept = self._last, 0, 0
                self._drops.clear()
            self._done, self._last = done, time.monotonic()
            if part is not None:
                self._rows_in += part.rows_in
                self._rows_kept += part.rows_kept
                self._drops.update(part.drops)
            self._update(done, total, "parts")

    def part_news(self, news: News) -> None:
        """Take what a part tells that is not done yet. In any thread, and without waiting; shown by `live`."""
        if news.done < 1:
            self._running[news.part] = news
        else:
            self._running.pop(news.part, None)

    @contextmanager
    def live(self, total: int) -> Iterator[None]:
        """Inside the block the progress of a pass over `total` parts is shown though no part may be done for long."""
        if not in_run() or not total:
            yield
            return
        over, context = threading.Event(), contextvars.copy_context()

        def show() -> None:
            with self._lock:
                self._update(self._done, total, "parts")

        def tick() -> None:
            while not over.wait(_ARTIFACT_SECONDS):
                context.run(show)

        with self._lock:
            self._started, self._done, self._rows_in, self._rows_kept = time.monotonic(), 0, 0, 0
            self._drops.clear()
            self._running.clear()
        ticker = threading.Thread(target=tick, name=f"progress-{self.stage}", daemon=True)
        ticker.start()
        try:
            yield
        finally:
            over.set()
            ticker.join()

    def update(self, done: float, total: float, unit: str = "parts") -> None:
        """Tell that `done` of `total` are done."""
        with self._lock:
            self._update(done, total, unit)

    def _update(self, done: float, total: float, unit: str) -> None:
        now = time.monotonic()
        if not in_run() or not total:
            return
        reached = min(done + sum(news.done for news in list(self._running.values())), total)
        progress = 100.0 * reached / total
        if self._artifact is None:
            self._create(progress, self._line(done, total, unit, reached, now))
        elif done >= total or now - self._shown >= _ARTIFACT_SECONDS:
            self._change(progress, self._line(done, total, unit, reached, now))
            self._shown = now
        if now - self._logged >= _LOG_SECONDS:
            run_logger().info(self._line(done, total, unit, reached, now))
            self._logged = now

    def _line(self, done: float, total: float, unit: str, reached: float, now: float) -> str:
        """How far, how fast, how long still; then what became of the rows."""
        seconds = now - self._started
        text = f"{self.stage}: {done:g}/{total:g} {unit}"
        if reached and seconds > 0:
            text += f", {reached / seconds:.2g}/s"
            text += f", about {(total - reached) * seconds / reached:.0f} s left" if reached < total else ""
        rows = self.rows(seconds)
        return f"{text}; {rows}" if rows else text

    def rows(self, seconds: float) -> str:
        """Rows so far: how many, how fast, how many of them kept, and why the most of the others were not."""
        running = list(self._running.values())
        rows_in = self._rows_in + sum(news.rows_in for news in running)
        rows_kept = self._rows_kept + sum(news.rows_kept for news in running)
        drops = sum((Counter(news.drops) for news in running), Counter(self._drops))
        if not rows_in:
            return ""
        text = f"{rows_in:,} rows at {rows_in / max(seconds, 1e-9):,.0f}/s, {rows_kept / rows_in:.1%} kept"
        top = ", ".join(f"{reason} {count / rows_in:.1%}" for reason, count in drops.most_common(_TOP))
        return f"{text}; most dropped: {top}" if top else text

    def _create(self, progress: float, description: str) -> None:
        key = f"progress-{self.stage.replace('_', '-')}"
        try:
            created = create_progress_artifact(progress=progress, key=key, description=description)
        except httpx.HTTPError as error:
            self._unshown(error)
            return
        self._artifact = created if isinstance(created, UUID) else None

    def _change(self, progress: float, description: str) -> None:
        try:
            if self._artifact is not None:
                update_progress_artifact(self._artifact, progress=progress, description=description)
        except httpx.HTTPError as error:
            self._unshown(error)

    def _unshown(self, error: Exception) -> None:
        """A UI that does not answer for a moment must not end hours of work."""
        run_logger().warning(f"{self.stage}: its progress could not be shown: {error}")
