"""Where a run's numbers go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow; each only where asked for."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeGuard

from pydantic import ConfigDict, Field

from ssl_train.errors import ConfigError


@dataclass(frozen=True)
class Wandb:
    """A run of Weights & Biases."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    project: Annotated[str, Field(min_length=1)] = "ssl_train"
    """Its project."""
    name: str | None = None
    """Its name; null lets W&B find one."""
    mode: Literal["offline", "online"] = "offline"
    """`offline` writes below output_dir, for `wandb sync` later; `online` sends what is written as it comes."""


@dataclass(frozen=True)
class Mlflow:
    """A run of MLflow."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    experiment: Annotated[str, Field(min_length=1)] = "ssl_train"
    """Its experiment."""
    name: str | None = None
    """Its name; null lets MLflow find one."""
    tracking_uri: str | None = None
    """Server or database; null for sqlite:///OUTPUT_DIR/mlflow.db, which needs no network."""


class Sink(Protocol):
    """Takes the numbers of the steps that metrics.jsonl has a line for."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers after `step` finished steps."""
        ...

    def close(self) -> None:
        """Everything is written."""
        ...


class TensorBoard:
    """Event files in output_dir/tensorboard; steps that a resumed run takes again replace the first ones."""

    def __init__(self, directory: str, start: int) -> None:
        writer = imported("torch.utils.tensorboard", package="tensorboard", setting="metrics.tensorboard").SummaryWriter
        self._writer = writer(str(Path(directory) / "tensorboard"), purge_step=start + 1 if start else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandbRun:
    """Calls of wandb; a resumed training goes on in the same run."""

    def __init__(self, directory: str, config: Wandb) -> None:
        wandb = imported("wandb", package="wandb", setting="metrics.wandb")
        kept = Path(directory) / "wandb-run.txt"
        run = wandb.init(dir=directory, resume="allow", id=_kept(kept), **asdict(config))
        kept.write_text(run.id)
        self._run = run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


class MlflowRun:
    """Calls of mlflow; a resumed training goes on in the same run, and no step waits for the server."""

    def __init__(self, directory: str, config: Mlflow) -> None:
        self._mlflow = imported("mlflow", package="mlflow", setting="metrics.mlflow")
        kept = Path(directory) / "mlflow-run.txt"
        database = (Path(directory) / "mlflow.db").resolve()
        self._mlflow.set_tracking_uri(config.tracking_uri or f"sqlite:///{database}")
        self._mlflow.set_experiment(config.experiment)
        run = self._mlflow.start_run(run_id=_kept(kept), run_name=config.name)
        kept.write_text(run.info.run_id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One metric a name."""
        self._mlflow.log_metrics(dict(values), step=step, synchronous=False)

    def close(self) -> None:
        """Send what waits and end the run."""
        self._mlflow.end_run()


class Sinks:
    """All sinks of a run. One that fails is told of once and left out: the training goes on, metrics.jsonl has all."""

    def __init__(self, opened: list[Sink]) -> None:
        self._open = opened

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Finite numbers after `step` finished steps."""
        finite = {name: value for name, value in values.items() if _is_number(value)}
        for sink in list(self._open):
            self._try(sink, lambda sink=sink: sink.write(step, finite))  # type: ignore[misc]

    def close(self) -> None:
        """Close them all."""
        for sink in list(self._open):
            self._try(sink, sink.close)

    def _try(self, sink: Sink, act: Callable[[], None]) -> None:
        try:
            act()
        except _failures() as error:
            self._open.remove(sink)
            print(f"{type(sink).__name__} takes no more numbers: {error}", file=sys.stderr)


def open_sinks(directory: str, start: int, *, tensorboard: bool, wandb: Wandb | None, mlflow: Mlflow | None) -> Sinks:
    """The sinks that a config names. Raises ConfigError for one whose package is not installed."""
    sinks: list[Sink] = []
    if tensorboard:
        sinks.append(TensorBoard(directory, start))
    if wandb is not None:
        sinks.append(WandbRun(directory, wandb))
    if mlflow is not None:
        sinks.append(MlflowRun(directory, mlflow))
    return Sinks(sinks)


def imported(module: str, *, package: str, setting: str) -> Any:
    """A module that is needed only here. Raises ConfigError naming the setting that wants it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{setting} needs the package {package} ({error}): pip install {package}, or leave {setting} out."
        ) from error


def _failures() -> tuple[type[BaseException], ...]:
    """What a service that is not there raises: the operating system's errors, and its client's own."""
    names = {"wandb.errors": "Error", "mlflow.exceptions": "MlflowException"}
    own = [getattr(sys.modules[module], name, None) for module, name in names.items() if module in sys.modules]
    return (OSError, *(error for error in own if isinstance(error, type)))


def _kept(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
