"""What a run says of itself: one JSON line a step for programs, one line about a second for people."""

import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import ConfigDict, Field

FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Metrics:
    """When the run is reported."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    every_steps: Annotated[int, Field(ge=1)] = 10
    """Steps between lines of metrics.jsonl (the last step always has one)."""
    print_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Least time between lines on standard output."""


class MetricsLog:
    """Writes metrics.jsonl and prints progress; one process of a run has it."""

    def __init__(self, directory: str, config: Metrics, *, num_steps: int, start: int, batch_images: int) -> None:
        self._config, self._num_steps, self._batch_images = config, num_steps, batch_images
        path = Path(directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _rewind(path, start)
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._first_step, self._started = start, time.perf_counter()
        self._last_line = self._last_print = self._started
        self._step_of_last_line = start - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Report the step just taken, counted from 0; lines count finished steps. Non-finite values become null."""
        now, is_last = time.perf_counter(), step + 1 == self._num_steps
        if is_last or (step + 1) % self._config.every_steps == 0:
            line = {"step": step + 1, "num_steps": self._num_steps, **values, **self._speed(step, now)}
            self._file.write(json.dumps({name: _finite(value) for name, value in line.items()}) + "\n")
            self._file.flush()
            self._last_line, self._step_of_last_line = now, step
        if is_last or now - self._last_print >= self._config.print_seconds:
            self._last_print = now
            self.say(self._sentence(step, values, now))

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(text, flush=True, file=sys.stdout)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _speed(self, step: int, now: float) -> dict[str, float]:
        seconds = max(now - self._last_line, 1e-9) / (step - self._step_of_last_line)
        return {
            "step_seconds": seconds,
            "images_per_second": self._batch_images / seconds,
            "eta_seconds": self._eta(step, now),
        }

    def _eta(self, step: int, now: float) -> float:
        per_step = (now - self._started) / (step + 1 - self._first_step)
        return per_step * (self._num_steps - step - 1)

    def _sentence(self, step: int, values: Mapping[str, float], now: float) -> str:
        speed = self._batch_images * (step + 1 - self._first_step) / max(now - self._started, 1e-9)
        eta = timedelta(seconds=round(self._eta(step, now)))
        return (
            f"step {step + 1}/{self._num_steps}  loss {values['loss']:.4f}  lr {values['lr']:.2e}  "
            f"{speed:.1f} images/s  eta {eta}"
        )


def read_metrics(directory: str) -> list[dict[str, Any]]:
    """The lines of a run so far; a last line that is still being written is left out."""
    path = Path(directory) / FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _rewind(path: Path, start: int) -> None:
    """Drop lines of steps that will be taken again: those after the checkpoint that the run goes on from."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(str(path.parent)) if line["step"] <= start]
    path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
