"""Does it learn? A tiny ViT trained on a small labelled set for minutes must beat itself untrained, by a stated margin.

python -m ssl_train.studies.learning --out docs/learning [--labelled NAME=FOLDER ...] [key=value ...]

Labels are for scoring alone: nearest neighbours (k = 20) and a logistic regression on the class tokens of images that
were held out. The margins stand below, and were set before the runs; one that is missed is exit code 1. Writes curves
as SVG, a page of them (README.md) and the figures (learning.json) into the folder. Takes some CPU minutes a set.
`--labelled` adds a set of one's own (train/<label>/*, test/<label>/*); `key=value` changes the recipe.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ssl_train.config import TrainConfig, load_recipe
from ssl_train.distributed import World
from ssl_train.errors import TrainError
from ssl_train.evaluate.features import Labelled, class_tokens, read_split
from ssl_train.evaluate.frozen import build_untrained
from ssl_train.evaluate.knn import knn_accuracy
from ssl_train.evaluate.linear import held_out, percent_right, standardised
from ssl_train.evaluate.logistic import fit_best_logistic
from ssl_train.evaluate.probe import KnnProbe
from ssl_train.metrics import read_metrics
from ssl_train.models import Backbone, load_backbone
from ssl_train.studies.charts import line_chart
from ssl_train.studies.learning_sets import SETS
from ssl_train.trainer import TEACHER, Trainer

RECIPE = "debug_learning"
K = 20
LOOK_STEPS = 100
CS = tuple(10.0**power for power in range(-4, 3))


class Margin(NamedTuple):
    """Points of percent by which the trained network must be better than the untrained one."""

    knn: float
    linear: float


MARGINS: Mapping[str, Margin] = {"digits": Margin(knn=15.0, linear=2.0)}
"""Of the digits, a logistic regression on an untrained network's features tells 93 % already."""
DEFAULT_MARGIN = Margin(knn=10.0, linear=5.0)
CHARTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "loss": ("nats", {"loss": "total", "dino_global": "DINO, global", "dino_local": "DINO, local", "ibot": "iBOT"}),
    "knn": ("percent of held-out images", {"knn_top1": "k-NN top-1 of the teacher"}),
    "entropy": (
        "nats",
        {
            "teacher_entropy": "of a target",
            "teacher_marginal_entropy": "of the mean target",
            "teacher_student_kl": "KL(teacher || student)",
        },
    ),
    "rank": ("directions", {"feature_rank": "spread of the student's class tokens"}),
}
"""Of each picture: unit of y, and the lines by their names in metrics.jsonl."""


def study(name: str, folder: Path, work: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Train on a set's training images and score both networks on its held-out ones; figures and curves."""
    config = load_recipe(RECIPE, [f"output_dir={work}", f"data.folder={folder / 'train'}", *changes])
    look = KnnProbe(folder=str(folder), every_steps=LOOK_STEPS, k=K, pixels=config.augment.global_pixels)
    config = replace(config, metrics=replace(config.metrics, knn=look))
    started = time.perf_counter()
    Trainer(config, World(0, 1, torch.device("cpu"))).run()
    seconds = time.perf_counter() - started
    train, classes = read_split(str(folder), "train")
    test, _ = read_split(str(folder), "test", classes)
    untrained = score(build_untrained(config.model, config.seed), train, test, config)
    trained = score(load_backbone(str(work / TEACHER)), train, test, config)
    margin = MARGINS.get(name, DEFAULT_MARGIN)
    gained = {way: trained[way] - untrained[way] for way in Margin._fields}
    return {
        "untrained": untrained,
        "trained": trained,
        "gained": {way: round(points, 2) for way, points in gained.items()},
        "margin": margin._asdict(),
        "reached": all(gained[way] >= wanted for way, wanted in margin._asdict().items()),
        "num_train": len(train.paths),
        "num_test": len(test.paths),
        "classes": list(classes),
        "num_steps": config.num_steps,
        "batch_images": config.data.batch_images,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "curves": curves(work, untrained["knn"]),
    }


def score(
    network: Backbone, train: Labelled, test: Labelled, config: TrainConfig, *, cs: Sequence[float] = CS
) -> dict[str, float]:
    """Percent of the test images told right by nearest neighbours, and by a logistic regression."""
    pixels = config.augment.global_pixels
    seen, asked = (class_tokens(network, split.paths, pixels=pixels, batch_images=64) for split in (train, test))
    knn = knn_accuracy(seen, train.labels, asked, test.labels, ks=[K])
    rows, others = standardised(seen, asked)
    held, num_classes = held_out(train.labels), int(train.labels.max()) + 1
    fitted, _ = fit_best_logistic(rows, train.labels, held, num_classes=num_classes, cs=cs)
    (linear,) = percent_right(fitted.scores(others).unsqueeze(0), test.labels)
    return {"knn": round(next(iter(knn.values()))[1], 2), "linear": round(linear, 2)}


def curves(work: Path, untrained_knn: float) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every line that is drawn; accuracy begins with the untrained network's."""
    names = [name for _, lines in CHARTS.values() for name in lines]
    lines = read_metrics(str(work))
    found = {
        name: [(line["step"], round(line[name], 4)) for line in lines if line.get(name) is not None] for name in names
    }
    found["knn_top1"].insert(0, (0, untrained_knn))
    return found


def write_pictures(name: str, found: Mapping[str, Any], out: Path) -> list[str]:
    """The set's charts; their file names."""
    files = []
    for chart, (unit, lines) in CHARTS.items():
        marks = (("untrained", found["untrained"]["knn"]),) if chart == "knn" else ()
        picture = line_chart(
            {label: found["curves"][line] for line, label in lines.items() if found["curves"][line]},
            title=f"{name}: {chart}",
            x_label="step",
            y_label=unit,
            marks=marks,
        )
        files.append(f"{name}-{chart}.svg")
        (out / files[-1]).write_text(picture + "\n", encoding="utf-8")
    return files


def as_markdown(results: Mapping[str, Mapping[str, Any]], pictures: Mapping[str, Sequence[str]]) -> str:
    """The page of it all."""
    lines = [
        "# Does it learn?",
        "",
        f"A tiny ViT, trained by the recipe `{RECIPE}` without labels and scored with them on images that were held "
        "out, before and after. Written by `python -m ssl_train.studies.learning`, which fails where a gain is "
        "smaller than its margin; margins were set before the runs (that of the digits when the untrained network's "
        "scores were known). Percent of held-out images told right:",
        "",
        "| set | training / held-out images | | untrained | trained | gained | margin |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for way, label in (("knn", f"{K}-NN"), ("linear", "logistic regression")):
            lines.append(
                f"| {name} | {found['num_train']} / {found['num_test']} | {label} | {found['untrained'][way]:.1f} | "
                f"{found['trained'][way]:.1f} | {found['gained'][way]:+.1f} | {found['margin'][way]:+.0f} |"
            )
    for name, found in results.items():
        lines += ["", f"## {name}", ""]
        lines.append(
            f"{found['num_steps']} steps of {found['batch_images']} images, {found['seconds'] / 60:.1f} minutes on "
            f"{found['threads']} cores."
        )
        for file in pictures[name]:
            lines += ["", f"![{file.removesuffix('.svg')}]({file})"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Study every set, write, and say whether the margins were reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--sets", nargs="*", choices=sorted(SETS), default=sorted(SETS))
    parser.add_argument("--labelled", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("changes", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    try:
        with tempfile.TemporaryDirectory() as made:
            for name, folder in _folders(options.sets, options.labelled, Path(made)).items():
                results[name] = study(name, folder, Path(made) / f"run-{name}", options.changes)
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pictures = {name: write_pictures(name, found, options.out) for name, found in results.items()}
    (options.out / "learning.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(as_markdown(results, pictures), encoding="utf-8")
    for name, found in results.items():
        verdict = "reached" if found["reached"] else "MISSED"
        print(f"{name}: untrained {found['untrained']}, trained {found['trained']}, margin {found['margin']} {verdict}")
    return 0 if all(found["reached"] for found in results.values()) else 1


def _folders(sets: Sequence[str], labelled: Sequence[str], made: Path) -> dict[str, Path]:
    folders = {name: made / name for name in sets}
    for name, folder in folders.items():
        SETS[name](folder)
    for entry in labelled:
        name, _, path = entry.partition("=")
        folders[name] = Path(path)
    return folders


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
