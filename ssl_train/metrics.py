"""What a run says of itself: one JSON line a step for programs, one line about a second for people, and warnings."""

import json
import math
import resource
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Annotated, Any

import torch
from pydantic import ConfigDict, Field

from ssl_train.evaluate.classify import Classify
from ssl_train.evaluate.probe import KnnProbe
from ssl_train.health import HISTORY_LINES, find_warnings
from ssl_train.sinks import Mlflow, Wandb, open_sinks

FILE = "metrics.jsonl"
WARNING = "warning"
"""Name, in a line, of the warnings that hold at its step: text by kind. Healthy lines have none."""


@dataclass(frozen=True)
class Metrics:
    """When the run is reported, how, and where to."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    every_steps: Annotated[int, Field(ge=1)] = 10
    """Steps between lines of metrics.jsonl (the last step always has one)."""
    print_seconds: Annotated[float, Field(ge=0)] = 1.0
    """Least time between lines on standard output."""
    mfu: bool | None = None
    """Tell which share of the device's own peak (measured at the start) the run reaches; null does so on CUDA alone."""
    layer_gradients: bool = False
    """Tell a gradient norm of the stem and of every layer, in the place of those of quarters of the blocks."""
    knn: KnnProbe | None = None
    """Accuracy of the teacher on labelled images while it trains; null for none."""
    classify: Classify | None = None
    """Top-1 and top-5 accuracy of a classifier on validation images while it trains; null for none."""
    tensorboard: bool = False
    """Write the numbers to OUTPUT_DIR/tensorboard too."""
    wandb: Wandb | None = None
    """Write the numbers to Weights & Biases too."""
    mlflow: Mlflow | None = None
    """Write the numbers to MLflow too."""

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether there is a line after `step` finished steps of `num_steps`."""
        looks = (self.knn is not None and self.knn.is_due(step)) or (
            self.classify is not None and self.classify.is_due(step, num_steps)
        )
        return looks or step == num_steps or step % self.every_steps == 0


class Silence:
    """The metrics of a process that does not report."""

    def log(self, step: int, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


class MetricsLog:
    """Writes metrics.jsonl and the sinks, prints progress and warnings; one process of a run has it.

    `ideal_image_seconds` is the time that an image's operations take at the peak of all devices together; None where
    no MFU is told.
    """

    def __init__(
        self,
        directory: str,
        config: Metrics,
        *,
        num_steps: int,
        start: int,
        batch_images: int,
        ideal_image_seconds: float | None = None,
    ) -> None:
        self._config, self._num_steps, self._batch_images = config, num_steps, batch_images
        self._ideal_image_seconds = ideal_image_seconds
        path = Path(directory) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sinks = open_sinks(
            directory, start, tensorboard=config.tensorboard, wandb=config.wandb, mlflow=config.mlflow
        )
        self._history = deque(_rewind(path, start), maxlen=HISTORY_LINES)
        self._warned = frozenset(self._history[-1].get(WARNING, ()) if self._history else ())
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._first_step, self._started = start, time.perf_counter()
        self._last_line = self._last_print = self._started
        self._step_of_last_line = start - 1
        self._waited = self._grad_norm_peak = 0.0

    def log(self, step: int, values: Mapping[str, float], *, at: float | None = None) -> None:
        """Report the step just taken, counted from 0; lines count finished steps. Non-finite values become null.

        `at` is when it was taken, in seconds of `time.perf_counter`; None is now.
        """
        now, is_last = time.perf_counter() if at is None else at, step + 1 == self._num_steps
        self._waited += values.get("loader_wait_seconds", 0.0)
        norms = [value for name, value in values.items() if name.startswith("grad_norm_") and math.isfinite(value)]
        self._grad_norm_peak = max(self._grad_norm_peak, *norms, 0.0)
        if self._config.is_due(step + 1, self._num_steps):
            self._write_line(step, {**values, "grad_norm_peak": self._grad_norm_peak, **self._speed(step, now)})
            self._last_line, self._step_of_last_line = now, step
            self._waited = self._grad_norm_peak = 0.0
        if is_last or now - self._last_print >= self._config.print_seconds:
            self._last_print = now
            self.say(self._sentence(step, values, now))

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(text, flush=True, file=sys.stdout)

    def close(self) -> None:
        """Close the file and the sinks."""
        self._file.close()
        self._sinks.close()

    def _write_line(self, step: int, values: Mapping[str, float]) -> None:
        line: dict[str, Any] = {"step": step + 1, "num_steps": self._num_steps}
        line |= {name: _finite(value) for name, value in values.items()}
        self._history.append(line)
        warnings = find_warnings(list(self._history))
        if warnings:
            line[WARNING] = warnings
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._sinks.write(step + 1, line)
        for kind in sorted(warnings.keys() - self._warned):
            self.say(f"warning: {kind} at step {step + 1}: {warnings[kind]}")
        for kind in sorted(self._warned - warnings.keys()):
            self.say(f"recovered: {kind} at step {step + 1}")
        self._warned = frozenset(warnings)

    def _speed(self, step: int, now: float) -> dict[str, float]:
        elapsed = max(now - self._last_line, 1e-9)
        seconds = elapsed / (step - self._step_of_last_line)
        images_per_second = self._batch_images / seconds
        ideal = self._ideal_image_seconds
        return {
            "step_seconds": seconds,
            "images_per_second": images_per_second,
            **({} if ideal is None else {"mfu": images_per_second * ideal}),
            "loader_wait_share": self._waited / elapsed,
            "memory_bytes": memory_bytes(),
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


def memory_bytes() -> int:
    """The most memory that this process has held so far: the device's where there is one, else the host's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_metrics(directory: str) -> list[dict[str, Any]]:
    """The lines of a run so far; a last line that is still being written is left out."""
    path = Path(directory) / FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def _rewind(path: Path, start: int) -> list[dict[str, Any]]:
    """Drop lines of steps that will be taken again: those after the checkpoint that the run goes on from."""
    kept = [line for line in read_metrics(str(path.parent)) if line["step"] <= start]
    if path.exists():
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    return kept


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
