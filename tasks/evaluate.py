"""Evaluation as a task: k-NN accuracy of the frozen teacher on a labelled set, and of the untrained network."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from storage.filesystem import file_sha256, read_bytes, write_bytes
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest
from tasks.child import run_child
from tasks.collect import Collection, list_members
from tasks.config import StageConfig
from tasks.launch import TEACHER
from tasks.progress import run_logger
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
SCORES = "scores.json"


class Evaluate(StageConfig):
    """k-NN evaluation of the checkpoint."""

    dataset: str
    """Folder with train/<label>/* and test/<label>/*."""
    ks: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (10, 20, 100, 200)
    """Numbers of neighbours; the first is the one that reports show."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of a neighbour's vote."""


@stage_task(name="evaluate")
def evaluate(checkpoint: Manifest, config: Evaluate, layout: Layout) -> Manifest:
    """scores.json of a checkpoint. Raises ChildFailed with the last words, EmptyCollection without images."""
    labelled = Collection(name="labelled", path=config.dataset)
    images = len(list_members(labelled))
    stage = Stage("evaluate", version=VERSION, config=config, inputs={"checkpoint": checkpoint}, layout=layout)
    if stage.finished:
        return stage.reuse()
    entry = next(entry for entry in checkpoint.files if entry.path == TEACHER)
    settings: dict[str, Any] = {
        "checkpoint": checkpoint.file(TEACHER),
        "checkpoint_sha256": entry.sha256,
        "dataset": config.dataset,
        "output": stage.path(SCORES),
        "ks": list(config.ks),
        "temperature": config.temperature,
    }
    write_bytes(stage.path("eval.yaml"), yaml.safe_dump(settings).encode())
    run_child(
        [sys.executable, "-m", "ssl_train.evaluate.knn", stage.path("eval.yaml")],
        log_file=Path(stage.path("log.txt")),
        on_line=run_logger().info,
    )
    size, sha256 = file_sha256(stage.path(SCORES))
    files = [FileEntry(SCORES, 0, size, sha256)]
    scores = json.loads(read_bytes(stage.path(SCORES)))
    return stage.publish([Outcome(images, images, files=files)], facts=score_facts(scores))


def score_facts(scores: dict[str, Any]) -> dict[str, Any]:
    """The numbers that the funnel, the report and the lineage show, in percent."""
    first = next(iter(scores["trained"]["top1"]))
    return {
        "k": int(first),
        "knn_top1": round(scores["trained"]["top1"][first], 2),
        "untrained_knn_top1": round(scores["untrained"]["top1"][first], 2),
        "num_train": scores["num_train"],
        "num_test": scores["num_test"],
        "num_classes": scores["num_classes"],
    }
