"""One method twice, its random patch projection free and frozen: MoCo v3's experiment on stability.

python -m ssl_train.studies.stability_pair --set digits --out docs/stability [--steps N] [--recipe NAME] [key=value ...]
python -m ssl_train.studies.stability_pair --data FOLDER --out FOLDER [--steps N] [--recipe NAME] [key=value ...]

Trains both in `--work` (runs that are there already go on, or are only read): every layer's gradient at every step, the
teacher's nearest neighbours every few. Writes README.md, the pictures and the figures (stability.json) into `--out`.
`--data` is a folder with train/<label>/* and test/<label>/*. Source: MoCo v3 (arXiv 2104.02057), sections 4.1 and 4.2.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_train.config import TrainConfig, load_recipe
from ssl_train.distributed import join_world
from ssl_train.errors import ConfigError, TrainError
from ssl_train.evaluate.probe import KnnProbe
from ssl_train.studies.learning_sets import SETS
from ssl_train.studies.stability import Run, charts, deepest_dip, read_run
from ssl_train.trainer import Trainer
from storage.errors import StorageError
from storage.filesystem import write_bytes

RECIPE = "debug_mocov3"
LOOKS = 16
"""Looks at nearest neighbours in a run, about."""
K = 20
FROZEN: Mapping[str, bool] = {"free": False, "frozen": True}
"""The two runs, by whether the patch projection stays as it was drawn."""


def pair_of(
    recipe: str, data: Path, work: Path, *, steps: int | None, changes: Sequence[str]
) -> dict[str, TrainConfig]:
    """Both runs: the recipe with its changes, alike but for the patch projection. ConfigError for what does not fit."""
    found = {}
    for name, frozen in FROZEN.items():
        ours = [
            f"output_dir={work / name}",
            f"data.folder={data / 'train'}",
            f"model.frozen_stem={str(frozen).lower()}",
        ]
        config = load_recipe(recipe, [*ours, *changes])
        num_steps = steps or config.num_steps
        look = KnnProbe(
            folder=str(data), every_steps=max(1, num_steps // LOOKS), k=K, pixels=config.augment.global_pixels
        )
        metrics = replace(config.metrics, every_steps=1, layer_gradients=True, knn=look)
        found[name] = replace(config, num_steps=num_steps, metrics=metrics)
    return found


def train_pair(configs: Mapping[str, TrainConfig]) -> list[Run]:
    """Train both, one after the other; what their metrics say."""
    with join_world() as world:
        for config in configs.values():
            Trainer(config, world).run()
    return [read_run(Path(config.output_dir), name) for name, config in configs.items()]


def figures(run: Run) -> dict[str, Any]:
    """What is told of a run: accuracy, its deepest dip, and every spike as (step, times the usual)."""
    return {
        "knn": run.accuracy,
        "deepest_dip": round(deepest_dip(run.accuracy), 2),
        "spikes": {
            part: [(spike.step, round(spike.ratio, 1)) for spike in spikes]
            for part, spikes in run.spikes().items()
            if spikes
        },
        "loss_at_last": run.loss[-1][1],
    }


def as_markdown(found: Mapping[str, Mapping[str, Any]], pictures: Sequence[str], command: str) -> str:
    """The page of it all."""
    lines = [
        "# Stability: a random patch projection, free and frozen",
        "",
        "MoCo v3's authors saw ViTs' accuracy dip where the gradient of the first layer, the patch projection, jumps, "
        "and the jumps gone when that layer stays as it was drawn (arXiv 2104.02057, section 4). The same two runs, "
        f"small. Written by `{command}`. A spike is a gradient norm that is three times its usual and stands out of "
        "its noise (`ssl_train/studies/stability.py`).",
        "",
        "| patch projection | k-NN at last, % | best | deepest dip, points | spikes | in which layers |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in found.items():
        values = [value for _, value in run["knn"]]
        parts = ", ".join(f"{part} {len(spikes)}" for part, spikes in run["spikes"].items()) or "none"
        count = sum(map(len, run["spikes"].values()))
        lines.append(
            f"| {name} | {values[-1]:.1f} | {max(values):.1f} | {run['deepest_dip']:.1f} | {count} | {parts} |"
        )
    lines += [line for picture in pictures for line in ("", f"![{picture}]({picture}.svg)")]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Train, write, tell; returns the exit code (2 for a mistake that is explained)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=sorted(SETS), help="a small set that needs no download, in place of --data")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--work", type=Path, help="where the runs are made; a folder beside --out if left out")
    parser.add_argument("--steps", type=int, help="steps of each run; the recipe's if left out")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes of the recipe")
    options = parser.parse_args(arguments)
    work = options.work or options.out.with_name(options.out.name + "-runs")
    try:
        configs = pair_of(options.recipe, _data(options, work), work, steps=options.steps, changes=options.changes)
        runs = train_pair(configs)
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    given = [f"--set {options.set}" if options.set else f"--data {options.data}", f"--recipe {options.recipe}"]
    given += [f"--steps {options.steps}"] if options.steps else []
    command = f"python -m ssl_train.studies.stability_pair {' '.join([*given, *options.changes])} --out FOLDER"
    found = {run.name: figures(run) for run in runs}
    pictures = dict(zip(["accuracy", "loss", *(f"gradients-{run.name}" for run in runs)], charts(runs), strict=True))
    for name, picture in pictures.items():
        write_bytes(str(options.out / f"{name}.svg"), (picture + "\n").encode())
    write_bytes(str(options.out / "stability.json"), (json.dumps(found) + "\n").encode())
    write_bytes(str(options.out / "README.md"), as_markdown(found, list(pictures), command).encode())
    for name, run in found.items():
        print(f"{name}: spikes {run['spikes'] or 'none'}, deepest dip {run['deepest_dip']} points")
    return 0


def _data(options: argparse.Namespace, work: Path) -> Path:
    if options.set:
        data = work / options.set
        if not data.exists():
            SETS[options.set](data)
        return data
    if not options.data:
        raise ConfigError("give --set, or --data (a folder with train/<label>/* and test/<label>/*)")
    return Path(options.data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
