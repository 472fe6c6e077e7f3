"""What a person sees of long work while it runs: a progress artifact in the UI and a log line in the terminal."""

import logging
import time
from typing import Any
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger

_ARTIFACT_SECONDS = 2.0
_LOG_SECONDS = 10.0


def in_run() -> bool:
    """True inside a Prefect flow or task run; tests and scripts that call `task.fn` are outside."""
    return TaskRunContext.get() is not None or FlowRunContext.get() is not None


def run_logger() -> Any:
    """The run's logger inside a run, else the module's."""
    return get_run_logger() if in_run() else logging.getLogger("tasks")


class StageProgress:
    """Parts done of parts to do; cheap to update, shown at most every few seconds."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._started = self._logged = self._shown = time.monotonic()
        self._artifact: UUID | None = None

    def update(self, done: float, total: float, unit: str = "parts") -> None:
        """Tell that `done` of `total` are done."""
        now = time.monotonic()
        if not in_run() or not total:
            return
        if self._artifact is None:
            self._create(100.0 * done / total, unit)
        elif done >= total or now - self._shown >= _ARTIFACT_SECONDS:
            update_progress_artifact(self._artifact, progress=min(100.0, 100.0 * done / total))
            self._shown = now
        if now - self._logged >= _LOG_SECONDS:
            rate = done / (now - self._started)
            remaining = f", about {(total - done) / rate:.0f} s left" if rate else ""
            run_logger().info(f"{self.stage}: {done:g}/{total:g} {unit}, {rate:.2g}/s{remaining}")
            self._logged = now

    def _create(self, progress: float, unit: str) -> None:
        created = create_progress_artifact(
            progress=progress, key=f"progress-{self.stage.replace('_', '-')}", description=f"{self.stage}: {unit} done"
        )
        self._artifact = created if isinstance(created, UUID) else None
