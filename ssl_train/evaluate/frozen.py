"""What every evaluation of a frozen network shares: its settings, the untrained network beside it, and its command."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Protocol, TypeVar

import torch
from pydantic import ConfigDict, Field

from ssl_train.errors import TrainError
from ssl_train.evaluate.features import Labelled, read_split
from ssl_train.models import Backbone, Model
from ssl_train.models.load import read_backbone
from ssl_train.settings import explained, read_settings
from storage.errors import StorageError
from storage.filesystem import write_bytes

MAX_PIXELS = 224
Scores = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A checkpoint and the labelled images that it is judged by."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str
    """The teacher: an export of the trainer, or a published checkpoint."""
    dataset: str
    """Folder with train/<label>/* and test/<label>/*."""
    output: str
    """Where scores.json is written."""
    checkpoint_sha256: str | None = None
    """Checksum that the checkpoint must have."""
    pixels: Annotated[int, Field(ge=1)] | None = None
    """Side of the images shown to the network; null for its own, 224 at most."""
    batch_images: Annotated[int, Field(ge=1)] = 64
    """Images that the network sees at a time."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the untrained network; null for the seed that the trained one began with, where its file tells it."""


class Judge(Protocol):
    """Gives the scores of one network, which lies on its device; images are shown `pixels` wide."""

    def __call__(self, network: Backbone, train: Labelled, test: Labelled, *, pixels: int) -> Scores: ...


def trained_and_untrained(config: Evaluation, judge: Judge) -> Scores:
    """The scores of the trained network and of the same one before training, and what they were made from."""
    train, classes = read_split(config.dataset, "train")
    test, _ = read_split(config.dataset, "test", classes)
    trained, model, facts = read_backbone(config.checkpoint, config.checkpoint_sha256)
    seed = config.seed if config.seed is not None else int(facts.get("seed", 0))
    pixels = config.pixels or min(trained.image_size, MAX_PIXELS)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scores: Scores = {}
    for name, network in (("trained", trained), ("untrained", build_untrained(model, seed))):
        scores[name] = judge(network.to(device), train, test, pixels=pixels)
    counts = {"num_train": len(train.paths), "num_test": len(test.paths), "num_classes": len(classes)}
    return {**scores, **counts, "classes": list(classes), "pixels": pixels, "seed": seed, "settings": asdict(config)}


def build_untrained(model: Model, seed: int) -> Backbone:
    """The network with the very weights from which a run with this seed starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build()


Config = TypeVar("Config", bound=Evaluation)


def command(
    arguments: Sequence[str],
    settings: type[Config],
    evaluate: Callable[[Config], Scores],
    as_table: Callable[[Scores], str],
    *,
    usage: str | None,
) -> int:
    """Evaluate, write `output` and print a table; returns the exit code (2 for a mistake that the message explains)."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{usage}\nSettings in eval.yaml:\n{explained(settings)}")
        return 0 if arguments else 2
    try:
        config = read_settings(settings, arguments[0], arguments[1:])
        scores = evaluate(config)
        write_bytes(config.output, json.dumps(scores, indent=1).encode())
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_table(scores))
    print("{num_train} training and {num_test} test images of {num_classes} classes".format(**scores))
    return 0
