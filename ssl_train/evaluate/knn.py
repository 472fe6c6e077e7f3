"""Weighted k-nearest-neighbour accuracy of a trained teacher and, beside it, of the same network before training.

python -m ssl_train.evaluate.knn eval.yaml [key=value ...]
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.errors import TrainError
from ssl_train.evaluate.features import class_tokens, read_split
from ssl_train.models import Backbone, Model
from ssl_train.models.load import read_backbone
from ssl_train.settings import read_settings
from storage.errors import StorageError
from storage.filesystem import write_bytes

TOP = (1, 5)
MAX_PIXELS = 224


@dataclass(frozen=True)
class KnnEvaluation:
    """Weighted k-NN on a labelled folder (DINO, arXiv 2104.14294, section 4.1; DINOv2's temperature)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str
    """The teacher: an export of the trainer, or a published checkpoint."""
    dataset: str
    """Folder with train/<label>/* and test/<label>/*."""
    output: str
    """Where scores.json is written."""
    checkpoint_sha256: str | None = None
    """Checksum that the checkpoint must have."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = (10, 20, 100, 200)
    """Numbers of neighbours; those beyond the training images count all of them."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of a neighbour's vote."""
    pixels: Annotated[int, Field(ge=1)] | None = None
    """Side of the images shown to the network; null for its own, 224 at most."""
    batch_images: Annotated[int, Field(ge=1)] = 64
    """Images at a time."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of the untrained network; null for the seed that the trained one began with, where its file tells it."""


def knn_accuracy(
    train: Float[Tensor, "train dim"],
    train_labels: Int[Tensor, " train"],
    test: Float[Tensor, "test dim"],
    test_labels: Int[Tensor, " test"],
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    block: int = 1024,
) -> dict[int, dict[int, float]]:
    """Percent of test rows whose class is among the 1 and the 5 with most votes, by number of neighbours.

    Similarity is the cosine; each of the k nearest training rows votes for its class with exp(similarity /
    temperature). Memory: block x train floats.
    """
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    ks = sorted({min(k, len(train)) for k in ks})
    train, test = _around_their_mean(F.normalize(train.float(), dim=-1), F.normalize(test.float(), dim=-1))
    train_squares = train.square().sum(-1)
    hits = {k: dict.fromkeys(TOP, 0) for k in ks}
    for rows, labels in zip(test.split(block), test_labels.split(block), strict=True):
        # cosine - 1 = -distance^2 / 2
        below_one = rows @ train.T - 0.5 * (train_squares + rows.square().sum(-1, keepdim=True))
        similarity, nearest = below_one.topk(ks[-1], dim=-1)
        # The nearest one's vote is 1: shares are what counts, and nothing overflows.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        for k in ks:
            counts = votes.new_zeros(len(rows), num_classes).scatter_add_(1, train_labels[nearest[:, :k]], votes[:, :k])
            ranked = counts.sort(dim=-1, descending=True, stable=True).indices  # of equal votes, the lower class
            for top in TOP:
                hits[k][top] += int((ranked[:, :top] == labels[:, None]).sum())
    return {k: {top: 100 * count / len(test) for top, count in tops.items()} for k, tops in hits.items()}


def _around_their_mean(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both without the mean of `train`: distances are the same, and keep their digits where all rows are near it.

    The features of an untrained network differ in their fifth digit; their cosines would all round to one.
    """
    mean = train.mean(0)
    return train - mean, test - mean


def evaluate(config: KnnEvaluation) -> dict[str, Any]:
    """The scores of the trained and of the untrained network, as they are written to `config.output`."""
    train, classes = read_split(config.dataset, "train")
    test, _ = read_split(config.dataset, "test", classes)
    trained, model, facts = read_backbone(config.checkpoint, config.checkpoint_sha256)
    seed = config.seed if config.seed is not None else int(facts.get("seed", 0))
    untrained = build_untrained(model, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = config.pixels or min(trained.image_size, MAX_PIXELS)
    scores: dict[str, Any] = {}
    for name, network in (("trained", trained), ("untrained", untrained)):
        network.to(device)
        features = [
            class_tokens(network, split.paths, pixels=pixels, batch_images=config.batch_images)
            for split in (train, test)
        ]
        accuracy = knn_accuracy(
            features[0], train.labels, features[1], test.labels, ks=config.ks, temperature=config.temperature
        )
        scores[name] = {f"top{top}": {str(k): tops[top] for k, tops in accuracy.items()} for top in TOP}
    counts = {"num_train": len(train.paths), "num_test": len(test.paths), "num_classes": len(classes)}
    return {**scores, **counts, "classes": list(classes), "pixels": pixels, "seed": seed, "settings": asdict(config)}


def build_untrained(model: Model, seed: int) -> Backbone:
    """The network with the very weights from which a run with this seed starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.build()


def as_table(scores: dict[str, Any]) -> str:
    """The scores for people."""
    lines = [
        f"{'k':>6}  {'trained top-1':>14}  {'untrained top-1':>15}  {'trained top-5':>14}  {'untrained top-5':>15}"
    ]
    for k in scores["trained"]["top1"]:
        cells = [scores[name][top][k] for top in ("top1", "top5") for name in ("trained", "untrained")]
        lines.append("{:>6}  {:>14.2f}  {:>15.2f}  {:>14.2f}  {:>15.2f}".format(k, *cells))
    lines.append("{num_train} training and {num_test} test images of {num_classes} classes".format(**scores))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Evaluate and write; returns the exit code (2 for a mistake that the message explains)."""
    if not arguments:
        print(__doc__)
        return 2
    try:
        config = read_settings(KnnEvaluation, arguments[0], arguments[1:])
        scores = evaluate(config)
        write_bytes(config.output, json.dumps(scores, indent=1).encode())
    except (TrainError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
