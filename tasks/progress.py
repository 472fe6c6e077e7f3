"""What a person sees of long work while it runs: a progress artifact in the UI and a log line in the terminal."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

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
    """Parts done of parts to do, and what became of their rows; cheap to update, shown at most every few seconds."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started = self._logged = self._shown = time.monotonic()
        self._artifact: UUID | None = None
        self._rows_in = self._rows_kept = 0
        self._drops: Counter[str] = Counter()

    def part_done(self, done: int, total: int, part: PartCounts | None) -> None:
        """Tell that `done` of `total` parts are done, the last with these counts (None: it failed, or has none)."""
        if part is not None:
            self._rows_in += part.rows_in
            self._rows_kept += part.rows_kept
            self._drops.update(part.drops)
        self.update(done, total)

    def update(self, done: float, total: float, unit: str = "parts") -> None:
        """Tell that `done` of `total` are done."""
        now = time.monotonic()
        if not in_run() or not total:
            return
        if self._artifact is None:
            self._create(100.0 * done / total, unit)
        elif done >= total or now - self._shown >= _ARTIFACT_SECONDS:
            progress = min(100.0, 100.0 * done / total)
            update_progress_artifact(self._artifact, progress=progress, description=self._described(unit, now))
            self._shown = now
        if now - self._logged >= _LOG_SECONDS:
            rate = done / (now - self._started)
            remaining = f", about {(total - done) / rate:.0f} s left" if rate else ""
            rows = f"; {found}" if (found := self.rows(now - self._started)) else ""
            run_logger().info(f"{self.stage}: {done:g}/{total:g} {unit}, {rate:.2g}/s{remaining}{rows}")
            self._logged = now

    def rows(self, seconds: float) -> str:
        """Rows so far: how many, how fast, how many of them kept, and why the most of the others were not."""
        if not self._rows_in:
            return ""
        text = f"{self._rows_in:,} rows at {self._rows_in / max(seconds, 1e-9):,.0f}/s, "
        text += f"{self._rows_kept / self._rows_in:.1%} kept"
        top = ", ".join(f"{reason} {count / self._rows_in:.1%}" for reason, count in self._drops.most_common(_TOP))
        return f"{text}; most dropped: {top}" if top else text

    def _described(self, unit: str, now: float) -> str:
        rows = self.rows(now - self._started)
        return f"{self.stage}: {unit} done" + (f"; {rows}" if rows else "")

    def _create(self, progress: float, unit: str) -> None:
        created = create_progress_artifact(
            progress=progress,
            key=f"progress-{self.stage.replace('_', '-')}",
            description=self._described(unit, time.monotonic()),
        )
        self._artifact = created if isinstance(created, UUID) else None
