"""Weighted k-nearest-neighbour accuracy of a trained teacher and, beside it, of the same network before training.

python -m ssl_train.evaluate.knn eval.yaml [key=value ...]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.evaluate.features import Labelled, class_tokens
from ssl_train.evaluate.frozen import Evaluation, Scores, command, trained_and_untrained
from ssl_train.models import Backbone

TOP = (1, 5)


@dataclass(frozen=True, kw_only=True)
class KnnEvaluation(Evaluation):
    """Weighted k-NN on a labelled folder (DINO, arXiv 2104.14294, section 4.1; DINOv2's temperature)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ks: tuple[Annotated[int, Field(ge=1)], ...] = (10, 20, 100, 200)
    """Numbers of neighbours; those beyond the training images count all of them."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Temperature of a neighbour's vote."""


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


def evaluate(config: KnnEvaluation) -> Scores:
    """The scores of the trained and of the untrained network, as they are written to `config.output`."""

    def judge(network: Backbone, train: Labelled, test: Labelled, *, pixels: int) -> Scores:
        seen, asked = (
            class_tokens(network, split.paths, pixels=pixels, batch_images=config.batch_images)
            for split in (train, test)
        )
        found = knn_accuracy(seen, train.labels, asked, test.labels, ks=config.ks, temperature=config.temperature)
        return {f"top{top}": {str(k): tops[top] for k, tops in found.items()} for top in TOP}

    return trained_and_untrained(config, judge)


def as_table(scores: Scores) -> str:
    """The scores for people."""
    lines = [
        f"{'k':>6}  {'trained top-1':>14}  {'untrained top-1':>15}  {'trained top-5':>14}  {'untrained top-5':>15}"
    ]
    for k in scores["trained"]["top1"]:
        cells = [scores[name][top][k] for top in ("top1", "top5") for name in ("trained", "untrained")]
        lines.append("{:>6}  {:>14.2f}  {:>15.2f}  {:>14.2f}  {:>15.2f}".format(k, *cells))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Evaluate and write; returns the exit code."""
    return command(arguments, KnnEvaluation, evaluate, as_table, usage=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
