"""Centering and sharpening, both, each alone, neither: why DINO does not collapse, drawn as in its paper.

python -m ssl_train.studies.collapse --set digits --out docs/collapse [--steps N] [--recipe NAME] [key=value ...]
python -m ssl_train.studies.collapse --data FOLDER|TARS --out collapse.html [--steps N] [--recipe NAME] [key=value ...]
python -m ssl_train.studies.collapse --runs NAME=FOLDER [NAME=FOLDER ...] --out collapse.html

Trains four small runs of a recipe, one after the other, in a folder beside the page or in `--work` (a run that is there
already goes on, or is only read), or reads runs that somebody made. `--out` is one page (.html), or a folder that gets
README.md, the pictures and the figures (collapse.json). Source: DINO (arXiv 2104.14294), section 5.3 and figure 7.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeAlias

from ssl_train.config import TrainConfig, load_config, load_recipe
from ssl_train.distributed import join_world
from ssl_train.errors import ConfigError, TrainError
from ssl_train.methods.dino import Dino
from ssl_train.methods.dinov2 import DinoV2
from ssl_train.methods.ibot import Ibot
from ssl_train.metrics import read_metrics
from ssl_train.studies.charts import Point, line_chart, page, table
from ssl_train.studies.learning_sets import SETS
from ssl_train.trainer import Trainer
from storage.errors import StorageError

RECIPE = "debug_dino"
NUM_LINES = 200
"""Lines of metrics of a run, about: what a chart can show."""
END_SHARE = 0.1
"""The last part of a run, whose means the verdict is on."""
TELLS_NOTHING = 0.05
"""Nats that a target says of its image, below which all images have the same one."""
NEAR_END = 0.1
"""Share of log(prototypes) within which an entropy is at 0, or at log(prototypes)."""

SelfDistillation: TypeAlias = Dino | Ibot | DinoV2


class Variant(NamedTuple):
    """What keeps a run's targets apart."""

    centering: bool
    sharpening: bool


VARIANTS: Mapping[str, Variant] = {
    "both": Variant(True, True),
    "centering only": Variant(True, False),
    "sharpening only": Variant(False, True),
    "neither": Variant(False, False),
}


class Curves(NamedTuple):
    """What a run's metrics say, in nats, by step."""

    num_prototypes: int
    entropy: list[Point]
    """Mean entropy of a teacher's target."""
    divergence: list[Point]
    """KL(teacher || student)."""
    told: list[Point]
    """Entropy of the mean target less the mean entropy of a target: what a target says of its image."""

    @property
    def highest(self) -> float:
        """The entropy of a target that prefers no prototype."""
        return math.log(self.num_prototypes)


def with_variant(config: TrainConfig, variant: Variant) -> TrainConfig:
    """The run without what the variant leaves out.

    Without sharpening the teacher's temperature is the student's. Raises ConfigError for a method that has neither.
    """
    method = config.method
    if not isinstance(method, SelfDistillation) or method.centering == "none":
        raise ConfigError(
            f"method.kind = {method.kind} has no centering and sharpening to leave out; take a recipe of dino, ibot or "
            "dinov2 whose method.centering is not none"
        )
    if not variant.centering:
        method = replace(method, centering="none")
    if not variant.sharpening:
        alike = (method.student_temperature,) * 2
        method = replace(method, teacher_temperature=alike)
        method = replace(method, patch_temperature=alike) if isinstance(method, Ibot) else method
    return replace(config, method=method)


def train_variants(config: TrainConfig, folder: Path) -> dict[str, Path]:
    """Train each variant in its own folder below `folder`; the folders by name."""
    found = {}
    with join_world() as world:
        for name, variant in VARIANTS.items():
            found[name] = folder / name.replace(" ", "_")
            Trainer(replace(with_variant(config, variant), output_dir=str(found[name])), world).run()
    return found


def read_curves(folder: Path) -> Curves:
    """The curves of the run in a folder. Raises ConfigError when there is none, or one of another method."""
    lines = [line for line in read_metrics(str(folder)) if line.get("teacher_entropy") is not None]
    if not lines:
        raise ConfigError(
            f"{folder} holds no metrics with a teacher's entropy: give folders of DINO, iBOT or DINOv2 runs"
        )
    head = getattr(load_config(str(folder / "run.yaml")).method, "dino_head", None)
    if head is None:
        raise ConfigError(f"{folder}/run.yaml names no method.dino_head: its number of prototypes is needed")
    return Curves(
        head.num_prototypes,
        [(line["step"], line["teacher_entropy"]) for line in lines],
        [(line["step"], line["teacher_student_kl"]) for line in lines if line.get("teacher_student_kl") is not None],
        [(line["step"], line["teacher_marginal_entropy"] - line["teacher_entropy"]) for line in lines],
    )


class Verdict(NamedTuple):
    """Where a run has ended, as means over its last part."""

    entropy: float
    divergence: float
    told: float
    collapsed: bool
    words: str


def verdict(curves: Curves) -> Verdict:
    """Whether all images have the same target in the end, and which one.

    The paper reads a collapse off a KL that goes to zero. In short runs the KL does not show it: a student lags behind
    a target that moves as a whole. What a target says of its image does, and is zero in every collapse.
    """
    entropy, divergence, told = (_end(points) for points in (curves.entropy, curves.divergence, curves.told))
    share = entropy / curves.highest
    if not told < TELLS_NOTHING:
        words = f"no collapse: a target says {told:.2f} nats of its image"
    elif share < NEAR_END:
        words = "collapsed to one prototype: every image has the same target, and its entropy is near 0"
    elif share > 1 - NEAR_END:
        words = "collapsed to all prototypes alike: every image has the same target, and its entropy is near log(K)"
    else:
        words = "collapsed to one answer: every image has the same target, with several prototypes in it"
    return Verdict(entropy, divergence, told, told < TELLS_NOTHING, words)


def _end(points: Sequence[Point]) -> float:
    """The mean over the last part of a curve; no number when there is none."""
    values = [value for _, value in points]
    return fmean(values[-max(1, round(END_SHARE * len(values))) :]) if values else math.nan


def charts(runs: Mapping[str, Curves]) -> dict[str, str]:
    """The three pictures, by what they show: how undecided targets are, what is left to learn, what targets tell."""
    heights = sorted({curves.num_prototypes for curves in runs.values()})
    marks = [(f"log(K), K = {number:,}", math.log(number)) for number in heights]
    drawn = {
        "entropy": ("Entropy of the teacher's targets", {name: curves.entropy for name, curves in runs.items()}, marks),
        "kl": ("KL(teacher || student)", {name: curves.divergence for name, curves in runs.items()}, []),
        "told": ("What a target says of its image", {name: curves.told for name, curves in runs.items()}, []),
    }
    return {
        stem: line_chart(lines, title=title, x_label="step", y_label="nats", marks=at)
        for stem, (title, lines, at) in drawn.items()
    }


def rows(runs: Mapping[str, Curves]) -> list[list[str]]:
    """The table's lines: where each run has ended."""
    found = {name: verdict(curves) for name, curves in runs.items()}
    return [
        [name, f"{end.entropy:.2f} of {runs[name].highest:.2f}", f"{end.divergence:.3f}", f"{end.told:.3f}", end.words]
        for name, end in found.items()
    ]


def as_page(runs: Mapping[str, Curves]) -> str:
    """Curves and verdicts as one HTML page."""
    return page(TITLE, [f"<p>{INTRODUCTION}</p>", table(HEADER, rows(runs)), *charts(runs).values()])


def write_folder(runs: Mapping[str, Curves], out: Path, made_by: str) -> None:
    """Curves and verdicts as README.md, one SVG for each picture, and collapse.json."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = charts(runs)
    for stem, picture in pictures.items():
        (out / f"{stem}.svg").write_text(picture + "\n", encoding="utf-8")
    cells = [HEADER, ["---"] * len(HEADER), *rows(runs)]
    lines = [f"# {TITLE}", "", INTRODUCTION, "", made_by, "", *(f"| {' | '.join(line)} |" for line in cells)]
    lines += [line for stem in pictures for line in ("", f"![{stem}]({stem}.svg)")]
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {
        name: {
            "num_prototypes": curves.num_prototypes,
            **{line: [(step, round(value, PLACES)) for step, value in getattr(curves, line)] for line in LINES},
            "end": verdict(curves)._asdict(),
        }
        for name, curves in runs.items()
    }
    (out / "collapse.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


LINES, PLACES = ("entropy", "divergence", "told"), 4
TITLE = "Collapse: centering and sharpening"
HEADER = ["run", "entropy (nats)", "KL (nats)", "said of an image (nats)", "in the end"]
INTRODUCTION = (
    "A teacher's centre keeps one prototype from winning everywhere, and pulls towards all of them alike; its low "
    "temperature keeps them from being alike, and pulls towards one. Where one of them is missing, the entropy of the "
    "targets goes to 0 or to log(K), and the cross-entropy that is left to learn, the KL, goes to zero with it. What a "
    "target says of its image is the entropy of the mean target less the mean entropy of a target. The table's numbers "
    "are means over the last tenth of a run. (arXiv 2104.14294, section 5.3.)"
)


def main(arguments: Sequence[str]) -> int:
    """Train or read, write the page, tell the verdicts; returns the exit code (2 for a mistake that is explained)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of images, or WebDataset tars (a path or a glob)")
    parser.add_argument("--set", choices=sorted(SETS), help="a small set that needs no download, in place of --data")
    parser.add_argument("--runs", nargs="+", default=[], metavar="NAME=FOLDER", help="finished runs, to be read only")
    parser.add_argument("--out", required=True, type=Path, help="a page (.html), or a folder")
    parser.add_argument("--work", type=Path, help="where runs are made; a folder beside --out if left out")
    parser.add_argument("--steps", type=int, help="steps of each run; the recipe's if left out")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of the recipe")
    options = parser.parse_args(arguments)
    try:
        folders = _named(options.runs) if options.runs else _trained(options)
        runs = {name: read_curves(folder) for name, folder in folders.items()}
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.out.suffix == ".html":
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(as_page(runs), encoding="utf-8")
    else:
        write_folder(runs, options.out, _made_by(options))
    for name, curves in runs.items():
        print(f"{name}: {verdict(curves).words}")
    print(f"drawn in {options.out}")
    return 0


def _trained(options: argparse.Namespace) -> dict[str, Path]:
    work = options.work or options.out.with_name(options.out.stem + "-runs")
    data = options.data
    if options.set:
        data = str(work / options.set)
        if not Path(data).exists():
            SETS[options.set](Path(data))
    return train_variants(_config(options, data), work)


def _config(options: argparse.Namespace, data: str | None) -> TrainConfig:
    if not data:
        raise ConfigError(
            "give --set, or --data (a folder of images, or tars) to train, or --runs NAME=FOLDER to read runs"
        )
    source = "shards" if data.endswith(".tar") else "folder"
    config = load_recipe(options.recipe, [f"data.{source}={data}", *options.changes])
    steps = options.steps or config.num_steps
    lines = replace(config.metrics, every_steps=max(1, steps // NUM_LINES))
    return replace(config, num_steps=steps, metrics=lines)


def _made_by(options: argparse.Namespace) -> str:
    if options.runs:
        return "Read from runs by `python -m ssl_train.studies.collapse --runs`."
    given = [f"--set {options.set}" if options.set else f"--data {options.data}", f"--recipe {options.recipe}"]
    given += [f"--steps {options.steps}"] if options.steps else []
    return f"Written by `python -m ssl_train.studies.collapse {' '.join([*given, *options.changes])} --out FOLDER`."


def _named(runs: Iterable[str]) -> dict[str, Path]:
    pairs = [run.partition("=") for run in runs]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        raise ConfigError(f"--runs wants NAME=FOLDER, not {', '.join(wrong)}")
    return {name: Path(folder) for name, _, folder in pairs}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
