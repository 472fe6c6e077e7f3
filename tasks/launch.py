"""Pretraining as a task: `torchrun` as a child process that streams its log and metrics and dies with the run."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Self, cast

from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment
from prefect.states import raise_state_exception
from pydantic import Field, model_validator

from ssl_train.config import TrainConfig, dump_config, load_config, plain_values
from ssl_train.errors import ConfigError
from storage.filesystem import file_sha256, is_url, write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.child import run_child
from tasks.config import StageConfig
from tasks.progress import StageProgress, run_logger
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
TEACHER = "teacher.safetensors"
HEADS = "heads.safetensors"
METRICS = "metrics.jsonl"
_LOG_SECONDS = 1.0
_NOT_DECIDING = frozenset({"output_dir", "checkpoint", "metrics", "efficiency"})
_SHOWN_METRICS = frozenset(
    {"feature_rank", "images_per_second", "knn_top1", "mfu", "teacher_entropy", "teacher_student_kl"}
)


class Pretrain(StageConfig):
    """The training run on the packed set: a recipe of the trainer and changes to it; data and folder are filled in."""

    recipe: str = "vitl16_short"
    """Name of a recipe (ssl_train/recipes), or the path of a YAML file of the same form."""
    overrides: tuple[str, ...] = ()
    """Changes to the recipe: key.of.setting=value, for instance optim.lr=1e-3."""
    num_processes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Processes of torchrun on each node: one per GPU."""
    num_nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes; more than one needs `nodes_rendezvous`, and the same flow started on each."""
    nodes_rendezvous: str | None = None
    """host:port of torchrun's rendezvous when there are several nodes."""

    max_restarts: Annotated[int, Field(ge=0, le=100)] = 3
    """How often torchrun starts all processes anew, from the newest checkpoint, when one has died."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        self.train()  # a wrong recipe or key is said when the config is read, not after days of curation
        if self.num_nodes > 1 and self.nodes_rendezvous is None:
            raise ValueError("num_nodes > 1 needs nodes_rendezvous: host:port of one of the nodes.")
        return self

    def train(self) -> TrainConfig:
        """The recipe with its changes."""
        try:
            return load_config(self.recipe, self.overrides)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    def deciding(self) -> dict[str, Any]:
        """What decides the weights: the trainer's settings without those of speed, reporting and saving."""
        values = plain_values(self.train())
        return {"train": {key: value for key, value in values.items() if key not in _NOT_DECIDING}}


def pretrain_stage(dataset: Manifest, config: Pretrain, layout: Layout) -> Stage:
    """The place of a training run: the same wherever it is started."""
    return Stage("pretrain", version=VERSION, config=config, inputs={"dataset": dataset}, layout=layout)


@stage_task(name="pretrain")
def pretrain(dataset: Manifest, config: Pretrain, layout: Layout) -> Manifest:
    """Train on the dataset's shards; the manifest holds the teacher checkpoint and the metrics.

    A killed training goes on from its newest checkpoint. Raises ChildFailed with torchrun's last words.
    """
    if is_url(layout.root):
        raise ValueError(
            f"pretraining writes checkpoints to a local or shared folder, and root is {layout.root}. Run the flow "
            "`pretrain` with a local root on the GPU node."
        )
    stage = pretrain_stage(dataset, config, layout)
    if stage.finished:
        return stage.reuse()
    shards = tuple(dataset.file(entry.path) for entry in dataset.files if entry.path.endswith(".tar"))
    train = config.train()
    settings = dataclasses.replace(
        train,
        output_dir=stage.directory,
        data=dataclasses.replace(train.data, shards=shards, folder=None),
    )
    run_yaml = stage.path("run.yaml")
    write_bytes(run_yaml, dump_config(settings).encode())
    environment = {"OMP_NUM_THREADS": "1"} if config.num_processes > 1 else {}
    if config.num_nodes > 1:  # nodes count their restarts differently, and one store would mix them up
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    run_child(
        [*torchrun(config), "-m", "ssl_train.train", run_yaml],
        log_file=Path(stage.path("log.txt")),
        on_line=_Watcher(Path(stage.path(METRICS))),
        environment=environment,
    )
    files = [_entry(stage, name) for name in (TEACHER, HEADS, METRICS)]
    outcome = Outcome(dataset.rows_kept, dataset.rows_kept, files=files)
    return stage.publish([outcome], facts=_facts(Path(stage.path(METRICS))))


@stage_task(name="pretrain")
def pretrain_elsewhere(dataset: Manifest, config: Pretrain, layout: Layout, deployment: str) -> Manifest:
    """The same through a deployment on a GPU work pool, waited for; `layout.root` must be storage that both reach.

    Raises the child run's error when it fails; cancelling this run cancels it.
    """
    stage = pretrain_stage(dataset, config, layout)
    if stage.finished:
        return stage.reuse()
    parameters = {"root": layout.root, "dataset": dataset.reference, "config": config.model_dump(mode="json")}
    run = cast(FlowRun, run_deployment(deployment, parameters=parameters, timeout=None, as_subflow=True))
    raise_state_exception(cast("State[Any]", run.state))
    if not stage.finished:
        raise RuntimeError(
            f"deployment {deployment} completed, but {stage.directory} holds no finished training: does its worker "
            f"reach {layout.root}?"
        )
    return stage.reuse()


def torchrun(config: Pretrain) -> list[str]:
    """The launcher's words, for one node or several."""
    argv = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={config.num_processes}"]
    argv.append(f"--max-restarts={config.max_restarts}")
    if config.num_nodes == 1:
        return [*argv, "--standalone"]
    return [*argv, f"--nnodes={config.num_nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={config.nodes_rendezvous}"]


class _Watcher:
    """Told every line of the trainer's log: forwards about one a second and every warning; steps are progress."""

    def __init__(self, metrics: Path) -> None:
        self._metrics, self._progress, self._logged = metrics, StageProgress("pretrain"), 0.0

    def __call__(self, line: str) -> None:
        if line.startswith(("warning: ", "recovered: ")):
            run_logger().warning(line)
            return
        now = time.monotonic()
        if now - self._logged < _LOG_SECONDS:
            return
        self._logged = now
        run_logger().info(line)
        newest = _last_line(self._metrics)
        if newest:
            self._progress.update(newest["step"], newest["num_steps"], "steps")


def _last_line(path: Path) -> dict[str, Any]:
    """The newest whole line of metrics.jsonl; {} before the first."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
    return dict(json.loads(lines[-1])) if lines else {}


def _entry(stage: Stage, name: str) -> FileEntry:
    size, sha256 = file_sha256(stage.path(name))
    return FileEntry(name, 0, size, sha256)


def _facts(metrics: Path) -> dict[str, Any]:
    """First and last values of the losses, from the metrics."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    first, last = lines[0], lines[-1]
    shown = sorted(name for name in last if "loss" in name or name in _SHOWN_METRICS)
    return {"steps": last["step"], **{f"{name}, first and last": [first.get(name), last.get(name)] for name in shown}}
