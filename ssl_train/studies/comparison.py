"""All methods on all kinds of backbone, on one small labelled set: what each learns, how long it takes, what collapses.

python -m ssl_train.studies.comparison --out docs/comparison [--methods dino ibot] [--backbones vit] [--steps 200]

Every run sees the same images, crops, batch and number of steps; loss, heads and optimizer are those of the method's
debug recipe. Labels are for scoring alone (but for the supervised run, which shows what labels give): nearest
neighbours (k = 20) and a logistic regression on held-out images, before and after. Writes README.md and
comparison.json.
So few steps on so small networks rank nothing: the table shows that every pair works, and what it costs.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ssl_train.config import TrainConfig, load_recipe
from ssl_train.data.augment import MultiCrop
from ssl_train.distributed import World
from ssl_train.errors import TrainError
from ssl_train.evaluate.features import read_split
from ssl_train.evaluate.knn import build_untrained
from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from ssl_train.studies.learning import K, score
from ssl_train.studies.learning_sets import SETS
from ssl_train.trainer import TEACHER, Trainer

SIDE_PIXELS, LOCAL_PIXELS, BATCH_IMAGES, STEPS = 32, 16, 64, 200
BACKBONES: Mapping[str, str] = {
    "vit": "{{kind: vit, size: tiny, patch_size: 8, image_size: 32, layer_scale: null, mask_token: {mask}}}",
    "resnet": "{{kind: resnet, size: tiny, stem_kind: small, image_size: 32}}",
    "internimage": "{{kind: internimage, size: nano, image_size: 32}}",
}
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
MULTI_CROP = frozenset({"dinov2", "ibot", "dino", "swav"})
MASKED = frozenset({"dinov2", "ibot"})
"""Methods that hide patches, for which only a ViT has a token."""
CS = (0.1, 1.0)
"""Of the logistic regressions, one of which is picked on a part of the training images."""
WATCHED = ("feature_rank", "teacher_entropy", "teacher_marginal_entropy", "prototypes_used")
"""What tells of collapse, from the last line of metrics.jsonl: a rank near 1, or an entropy near 0."""


def pairs(methods: Sequence[str], backbones: Sequence[str]) -> list[tuple[str, str]]:
    """(method, backbone): all for which the method is defined."""
    return [(m, b) for m in methods for b in backbones if b == "vit" or m not in MASKED]


def config_of(method: str, backbone: str, *, data: Path, work: Path, steps: int) -> TrainConfig:
    """One run: the method's debug recipe on the common images, crops, batch and steps."""
    recipe = load_recipe(METHODS[method], [f"output_dir={work}", f"data.folder={data / 'train'}"])
    vit = BACKBONES[backbone].format(mask=str(method in MASKED).lower())
    changes = [
        f"model={vit}",
        f"num_steps={steps}",
        f"data.batch_images={BATCH_IMAGES}",
        f"optim.warmup_steps={steps // 10}",
        f"checkpoint={{every_steps: {steps}, keep_last: 1, export_every_steps: {steps}}}",
        *_crops(method, is_multi_crop=isinstance(recipe.augment, MultiCrop)),
    ]
    return load_recipe(METHODS[method], [f"output_dir={work}", f"data.folder={data / 'train'}", *changes])


def _crops(method: str, *, is_multi_crop: bool) -> list[str]:
    if not is_multi_crop:
        return [f"augment.{'pixels' if method == 'supervised' else 'global_pixels'}={SIDE_PIXELS}"]
    local = 2 if method in MULTI_CROP else 0
    return [
        f"augment={{global_pixels: {SIDE_PIXELS}, global_scale: [0.5, 1.0], num_local: {local}, "
        f"local_pixels: {LOCAL_PIXELS}, local_scale: [0.2, 0.5], blur: [0.0, 0.2, 0.1], solarize: [0.0, 0.0, 0.0], "
        "gray: 0.0, flip: 0.0}"  # a mirrored 2 is no 2
    ]


def compared(config: TrainConfig, data: Path) -> dict[str, Any]:
    """Train one run; its scores before and after, seconds, and what tells of collapse."""
    started = time.perf_counter()
    Trainer(config, World(0, 1, torch.device("cpu"))).run()
    seconds = time.perf_counter() - started
    train, classes = read_split(str(data), "train")
    test, _ = read_split(str(data), "test", classes)
    last = read_metrics(config.output_dir)[-1]
    networks = {
        "before": build_untrained(config.model, config.seed),
        "after": load_backbone(str(Path(config.output_dir) / TEACHER)),
    }
    return {
        **{when: score(network, train, test, config, cs=CS) for when, network in networks.items()},
        "seconds": round(seconds, 1),
        "loss": round(last["loss"], 3),
        **{name: round(last[name], 3) for name in WATCHED if last.get(name) is not None},
    }


def as_markdown(found: Sequence[Mapping[str, Any]], *, set_name: str, steps: int) -> str:
    """The table."""
    lines = [
        "# All methods on all kinds of backbone",
        "",
        f"{steps} steps of {BATCH_IMAGES} images of `{set_name}`, {SIDE_PIXELS} pixels, on a CPU; scored on held-out "
        f"images, percent told right: {K} nearest neighbours (k-NN) and a logistic regression (linear). Written by "
        "`python -m ssl_train.studies.comparison`. So few steps rank nothing; they show that every pair works. `rank` "
        "is how many directions the class tokens spread over; `entropy`, in nats, that of a teacher's target and of "
        "the mean target; both near 0 is collapse. iBOT and DINOv2 hide patches, for which only a ViT has a token.",
        "",
        "| method | backbone | k-NN before | after | linear before | after | seconds | rank | entropy / of the mean |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in found:
        before, after = run["before"], run["after"]
        entropies = [f"{run[name]:.2f}" for name in WATCHED[1:3] if name in run]
        lines.append(
            f"| {run['method']} | {NAMES[run['backbone']]} | {before['knn']:.1f} | {after['knn']:.1f} | "
            f"{before['linear']:.1f} | {after['linear']:.1f} | {run['seconds']:.0f} | "
            f"{run.get('feature_rank', float('nan')):.1f} | {' / '.join(entropies) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Train every pair, write the table after each, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--set", choices=sorted(SETS), default="digits")
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--backbones", nargs="*", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as made:
            data = Path(made) / options.set
            SETS[options.set](data)
            for method, backbone in pairs(options.methods, options.backbones):
                work = Path(made) / f"{method}-{backbone}"
                config = config_of(method, backbone, data=data, work=work, steps=options.steps)
                found.append({"method": method, "backbone": backbone, **compared(config, data)})
                print(found[-1], flush=True)
                _write(found, options.out, set_name=options.set, steps=options.steps)
    except TrainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(found: Sequence[Mapping[str, Any]], out: Path, *, set_name: str, steps: int) -> None:
    (out / "comparison.json").write_text(json.dumps(list(found), indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(as_markdown(found, set_name=set_name, steps=steps), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
