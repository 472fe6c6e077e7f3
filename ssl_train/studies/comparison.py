"""All methods on all kinds of backbone, on one small labelled set: what each learns, how long it takes, what collapses.

python -m ssl_train.studies.comparison --out docs/comparison [--methods dino ibot] [--backbones vit] [--steps 200]
    [--minutes M]

All runs of a backbone see the same images, crops, batch and number of steps; loss, heads, optimizer and the ViT's
initial weights are those of the method's debug recipe. Labels are for scoring alone (but for the supervised run):
nearest neighbours (k = 20) and a logistic regression on held-out images, before and after. Writes README.md and
comparison.json after every pair; a pair that stands there with the very same settings is not run again, so that a study
that was stopped (or by `--minutes` stopped itself between two pairs) goes on where it was.
So few steps on so small networks rank nothing: the table shows that every pair works, and what it costs. That a method
learns is claimed of the ViT alone, by a margin that stands below and was set before the runs; a miss is exit code 1.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ssl_train.config import TrainConfig, load_recipe, plain_values
from ssl_train.distributed import World
from ssl_train.errors import TrainError
from ssl_train.evaluate.features import read_split
from ssl_train.evaluate.frozen import build_untrained
from ssl_train.metrics import read_metrics
from ssl_train.models import Model, load_backbone
from ssl_train.studies.learning import K, score
from ssl_train.studies.learning_sets import SETS
from ssl_train.trainer import TEACHER, Trainer
from storage.filesystem import write_bytes

SIDE_PIXELS, LOCAL_PIXELS, BATCH_IMAGES = 32, 16, 64
STEPS: Mapping[str, int] = {"vit": 200, "resnet": 100, "internimage": 100}
"""About what a minute of one core has time for."""
MARGIN = 5.0
"""Points of k-NN by which the ViT of a self-supervised debug recipe must be better after training than before."""
BACKBONES: Mapping[str, str | None] = {
    "vit": None,
    "resnet": "{kind: resnet, size: tiny, image_size: 32}",
    "internimage": "{kind: internimage, size: nano, image_size: 32}",
}
"""Null for the ViT of the method's debug recipe: all have one size, but not the same initial weights and positions."""
VIT = "{kind: vit, size: tiny, patch_size: 8, image_size: 32, layer_scale: null, mask_token: false}"
"""Of methods whose debug recipe has another backbone."""
NAMES: Mapping[str, str] = {"vit": "ViT-tiny", "resnet": "ResNet, one block a stage", "internimage": "InternImage-nano"}
METHODS: Mapping[str, str] = {
    "dinov2": "debug_learning",
    "ibot": "debug_ibot",
    "dino": "debug_dino",
    "swav": "debug_swav",
    "mocov3": "debug_mocov3",
    "byol": "debug_byol",
    "simclr": "debug_simclr",
    "sscd": "debug_sscd",
    "supervised": "debug_supervised",
}
MULTI_CROP = frozenset({"dinov2", "ibot", "dino"})
MASKED = frozenset({"dinov2", "ibot"})
"""Methods that hide patches, for which only a ViT has a token."""
OTHER_BACKBONE = frozenset({"sscd"})
OTHER_CROPS: Mapping[str, str] = {"sscd": "global_pixels", "supervised": "pixels"}
"""Methods with an augmentation of their own, and its setting for a crop's side."""
CS = (0.1, 1.0)
"""Of the logistic regressions, one of which is picked on a part of the training images."""
FIGURES = "comparison.json"
HEADER = (
    *("method", "backbone", "steps", "k-NN before", "after", "linear before", "after"),
    *("seconds", "rank", "entropy / of the mean"),
)
Pair: TypeAlias = tuple[str, str]
"""Method and backbone."""
Scores: TypeAlias = dict[tuple[Model, int], dict[str, float]]
"""By the model and the seed that its weights are drawn from."""
WATCHED = ("feature_rank", "teacher_entropy", "teacher_marginal_entropy", "prototypes_used")
"""What tells of collapse, from the last line of metrics.jsonl: a rank near 1, or an entropy near 0."""


def pairs(methods: Sequence[str], backbones: Sequence[str]) -> list[Pair]:
    """(method, backbone): all for which the method is defined."""
    return [(m, b) for m in methods for b in backbones if b == "vit" or m not in MASKED]


def config_of(method: str, backbone: str, *, data: Path, work: Path, steps: int) -> TrainConfig:
    """One run: the method's debug recipe on the common images, crops, batch and steps."""
    model = BACKBONES[backbone] or (VIT if method in OTHER_BACKBONE else None)
    changes = [
        f"output_dir={work}",
        f"data.folder={data / 'train'}",
        f"num_steps={steps}",
        f"data.batch_images={BATCH_IMAGES}",
        f"optim.warmup_steps={steps // 10}",
        f"checkpoint={{every_steps: {steps}, keep_last: 1, export_every_steps: {steps}}}",
        *([f"model={model}"] if model else []),
        *_crops(method),
    ]
    return load_recipe(METHODS[method], changes)


def _crops(method: str) -> list[str]:
    if method in OTHER_CROPS:
        return [f"augment.{OTHER_CROPS[method]}={SIDE_PIXELS}"]
    local = 2 if method in MULTI_CROP else 0
    return [
        f"augment={{global_pixels: {SIDE_PIXELS}, global_scale: [0.5, 1.0], num_local: {local}, "
        f"local_pixels: {LOCAL_PIXELS}, local_scale: [0.2, 0.5], blur: [0.0, 0.2, 0.1], solarize: [0.0, 0.0, 0.0], "
        "gray: 0.0, flip: 0.0, device: device}"  # a mirrored 2 is no 2
    ]


def compared(config: TrainConfig, data: Path, untrained: Scores) -> dict[str, Any]:
    """Train one run; its scores before and after, processor's seconds, and what tells of collapse.

    `untrained` holds the scores of networks that other runs have begun with, and gets this one's.
    """
    started = time.process_time()
    Trainer(config, World(0, 1, torch.device("cpu"))).run()
    seconds = time.process_time() - started
    train, classes = read_split(str(data), "train")
    test, _ = read_split(str(data), "test", classes)
    last = read_metrics(config.output_dir)[-1]
    begun = (config.model, config.seed)
    if begun not in untrained:
        untrained[begun] = score(build_untrained(*begun), train, test, config, cs=CS)
    trained = load_backbone(str(Path(config.output_dir) / TEACHER))
    return {
        "before": untrained[begun],
        "after": score(trained, train, test, config, cs=CS),
        "seconds": round(seconds, 1),
        "loss": round(last["loss"], 3),
        **{name: round(last[name], 3) for name in WATCHED if last.get(name) is not None},
    }


def as_markdown(found: Sequence[Mapping[str, Any]], *, set_name: str) -> str:
    """The table."""
    lines = [
        "# All methods on all kinds of backbone",
        "",
        f"Steps of {BATCH_IMAGES} images of `{set_name}`, {SIDE_PIXELS} pixels, on a CPU; scored on held-out "
        f"images, percent told right: {K} nearest neighbours (k-NN) and a logistic regression (linear). Written by "
        "`python -m ssl_train.studies.comparison`. So few steps rank nothing; they show that every pair works. A ViT "
        "is that of the method's debug recipe: DINO's kin, SSCD and the supervised run begin with DINOv2's initial "
        "weights, the others with MoCo v3's, whose nearest neighbours are better before any training. Seconds are the "
        "processor's, for training alone. `rank` "
        "is how many directions the class tokens spread over; `entropy`, in nats, that of a teacher's target and of "
        "the mean target; both near 0 is collapse. iBOT and DINOv2 hide patches, for which only a ViT has a token.",
        "",
        told_margin(found),
        "",
        f"| {' | '.join(HEADER)} |",
        "|---" * len(HEADER) + "|",
    ]
    for run in found:
        before, after = run["before"], run["after"]
        entropies = [f"{run[name]:.2f}" for name in WATCHED[1:3] if name in run]
        lines.append(
            f"| {run['method']} | {NAMES[run['backbone']]} | {run['steps']} | {before['knn']:.1f} | "
            f"{after['knn']:.1f} | {before['linear']:.1f} | {after['linear']:.1f} | {run['seconds']:.0f} | "
            f"{run.get('feature_rank', float('nan')):.1f} | {' / '.join(entropies) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def told_margin(found: Sequence[Mapping[str, Any]]) -> str:
    """Which methods have reached the margin, and which have not."""
    gains = gained(found)
    told = [
        f"{', '.join(f'{method} {gains[method]:+.1f}' for method in methods)} {word} it"
        for word, methods in (
            ("reach", [method for method, points in gains.items() if points >= MARGIN]),
            ("miss", [method for method, points in gains.items() if points < MARGIN]),
        )
        if methods
    ]
    end = "; ".join(told) or "no run yet"
    return f"The margin on the ViT, {MARGIN:+g} points of k-NN, was set before the runs: {end}."


def gained(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Points of k-NN that each self-supervised method has gained on the ViT, if that is its debug recipe's."""
    return {
        run["method"]: run["after"]["knn"] - run["before"]["knn"]
        for run in found
        if run["backbone"] == "vit" and run["method"] not in OTHER_BACKBONE | {"supervised"}
    }


def settings_of(config: TrainConfig, set_name: str) -> str:
    """A fingerprint of all that decides a run's figures: its settings, but not where it reads and writes."""
    values = plain_values(config)
    del values["output_dir"], values["data"]["folder"]
    content = json.dumps([set_name, K, CS, values], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def found_before(out: Path) -> dict[Pair, dict[str, Any]]:
    """The runs that a study has written, by their pair."""
    path = out / FIGURES
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {(run["method"], run["backbone"]): run for run in runs}


def compare(options: argparse.Namespace) -> bool:
    """Run each pair that is not there yet, while there is time; whether all are there, and the margin is reached."""
    started, untrained = time.monotonic(), Scores()
    with tempfile.TemporaryDirectory() as made:
        data = Path(made) / options.set
        SETS[options.set](data)
        configs = {
            (method, backbone): config_of(
                method,
                backbone,
                data=data,
                work=Path(made) / f"{method}-{backbone}",
                steps=options.steps or STEPS[backbone],
            )
            for method, backbone in pairs(options.methods, options.backbones)
        }
        settings = {pair: settings_of(config, options.set) for pair, config in configs.items()}
        found = {
            pair: run
            for pair, run in found_before(options.out).items()
            if run["settings"] == settings.get(pair, run["settings"])
        }
        missing = [pair for pair in configs if pair not in found]
        for pair in missing:
            if time.monotonic() - started > options.minutes * 60:
                break
            steps = configs[pair].num_steps
            head = {"method": pair[0], "backbone": pair[1], "steps": steps, "settings": settings[pair]}
            found[pair] = head | compared(configs[pair], data, untrained)
            print(found[pair], flush=True)
            _write(found, options.out, set_name=options.set)
    print(told_margin(list(found.values())))
    left = sum(pair not in found for pair in missing)
    if left:
        print(f"{left} pairs are left: run the same command again")
    return left == 0 and all(points >= MARGIN for points in gained(list(found.values())).values())


def main(arguments: Sequence[str]) -> int:
    """Train every pair, write the table after each, and say what was found; 1 for pairs left, or a missed margin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--set", choices=sorted(SETS), default="digits")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--backbones", nargs="*", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--steps", type=int, help=f"of every run, in place of {dict(STEPS)}")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no pair after so long")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        return 0 if compare(options) else 1
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _write(found: Mapping[Pair, Mapping[str, Any]], out: Path, *, set_name: str) -> None:
    runs = [found[pair] for pair in pairs(list(METHODS), list(BACKBONES)) if pair in found]
    write_bytes(str(out / FIGURES), (json.dumps(runs, indent=1) + "\n").encode())
    write_bytes(str(out / "README.md"), as_markdown(runs, set_name=set_name).encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
