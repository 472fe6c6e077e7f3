"""Accuracy of linear classifiers on a trained teacher's frozen features and, beside it, on the untrained network's.

python -m ssl_train.evaluate.linear eval.yaml [key=value ...]
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

from ssl_train.evaluate.features import Labelled
from ssl_train.evaluate.frozen import Evaluation, Scores, command, trained_and_untrained
from ssl_train.evaluate.linear_features import Rows, block_features
from ssl_train.evaluate.linear_heads import Input, train_classifiers
from ssl_train.evaluate.logistic import fit_best_logistic
from ssl_train.models import Backbone

PUBLISHED_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
REFERENCE_ROWS = 256
HOLD_OUT_EVERY = 10
"""Every tenth training image of a class decides which classifier is taken."""


@dataclass(frozen=True, kw_only=True)
class LinearEvaluation(Evaluation):
    """Linear classifiers on a labelled folder (DINOv2, arXiv 2304.07193, section 7.1)."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    solver: Literal["sgd", "lbfgs"] = "sgd"
    """`sgd` trains a grid of classifiers as published; `lbfgs` fits logistic regressions to their minimum, which gives
    the same on every machine and suits sets of some ten thousand images."""
    num_blocks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 4)
    """Inputs to compare: class tokens of so many last blocks. `lbfgs` takes the first alone."""
    mean_patch: tuple[bool, ...] = (False, True)
    """Inputs to compare: without and with the mean patch token of the last block."""
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = PUBLISHED_RATES
    """`sgd`: peak learning rates to compare, for 256 images a step."""
    num_steps: Annotated[int, Field(ge=1)] = 12_500
    """`sgd`: steps."""
    batch_rows: Annotated[int, Field(ge=1)] = 1024
    """`sgd`: images a step (the published 128 on each of 8 GPUs)."""
    views: Annotated[int, Field(ge=0)] = 0
    """`sgd`: random crops of each training image whose features are cached; 0 for its central square."""
    cs: tuple[Annotated[float, Field(gt=0)], ...] = tuple(10.0**power for power in range(-4, 5))
    """`lbfgs`: weights of the cross-entropy against |weight|^2 / 2, to compare; features are standardised."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What classifiers may see."""
        return tuple(Input(blocks, mean) for blocks in self.num_blocks for mean in self.mean_patch)


def evaluate(config: LinearEvaluation) -> Scores:
    """The scores of the trained and of the untrained network, as they are written to `config.output`.

    Of each `top1`, of the classifier that is best on held-out training images, and `top1_best`, of all on the test
    images. The second is how published figures are made: chosen by what it is measured on, it is a little higher.
    """

    def judge(network: Backbone, train: Labelled, test: Labelled, *, pixels: int) -> Scores:
        def features(of: Labelled, views: int = 0) -> Rows:
            blocks, batch = max(config.num_blocks), config.batch_images
            return block_features(network, of.paths, num_blocks=blocks, pixels=pixels, batch_images=batch, views=views)

        asked, seen = features(test), features(train)
        if config.solver == "lbfgs":
            return by_logistic_regression(seen, train.labels, asked, test.labels, config)
        varied = features(train, config.views) if config.views else seen
        return by_gradient_descent(varied, seen, train.labels, asked, test.labels, config)

    return trained_and_untrained(config, judge)


def by_gradient_descent(
    varied: Rows, seen: Rows, labels: Tensor, asked: Rows, asked_labels: Tensor, config: LinearEvaluation
) -> Scores:
    """Scores of the grid: trained on the training images that are not held out, as they are `varied`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held = held_out(labels)
    kept = ~held
    batch = min(config.batch_rows, int(kept.sum()))
    heads = train_classifiers(
        varied.features[:, kept],
        labels[kept],
        widths=seen.widths,
        inputs=config.inputs,
        learning_rates=[rate * batch / REFERENCE_ROWS for rate in config.learning_rates],
        num_classes=int(labels.max()) + 1,
        num_steps=config.num_steps,
        batch_rows=batch,
        seed=0,
        device=device,
    )
    found = []
    for head in heads:
        pairs = ((seen.features[0, held], labels[held]), (asked.features[0], asked_labels))
        chosen, test = (percent_right(head.scores(rows.to(device), seen.widths), y.to(device)) for rows, y in pairs)
        for number, rate in enumerate(config.learning_rates):
            found.append({**head.given._asdict(), "lr": rate, "held_out": chosen[number], "top1": test[number]})
    best = max(found, key=lambda one: one["held_out"])
    return {
        "top1": best["top1"],
        "top1_best": max(one["top1"] for one in found),
        "chosen": best,
        "num_classifiers": len(found),
    }


def by_logistic_regression(
    seen: Rows, labels: Tensor, asked: Rows, asked_labels: Tensor, config: LinearEvaluation
) -> Scores:
    """Scores of the logistic regression for each input with the first number of blocks."""
    held, num_classes, found = held_out(labels), int(labels.max()) + 1, []
    for given in config.inputs[: len(config.mean_patch)]:
        columns = given.columns(seen.widths)
        train, test = standardised(seen.features[0][:, columns], asked.features[0][:, columns])
        fitted, c = fit_best_logistic(train, labels, held, num_classes=num_classes, cs=config.cs)
        (top1,) = percent_right(fitted.scores(test).unsqueeze(0), asked_labels)
        found.append({**given._asdict(), "c": c, "top1": top1})
    return {"top1": found[0]["top1"], "top1_best": max(one["top1"] for one in found), "inputs": found}


def held_out(labels: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Every tenth row of each class; the last of a class that has fewer, but two."""
    held = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        chosen = rows[HOLD_OUT_EVERY - 1 :: HOLD_OUT_EVERY]
        held[chosen if len(chosen) or len(rows) < 2 else rows[-1:]] = True
    return held


def standardised(train: Float[Tensor, "rows dim"], test: Float[Tensor, "other dim"]) -> tuple[Tensor, Tensor]:
    """Both, each column with the mean and the deviation of `train` made 0 and 1, in float64; constant ones are 0."""
    mean, deviation = train.double().mean(0), train.double().std(0, correction=0)
    scale = torch.where(deviation > 0, 1 / deviation.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return (train.double() - mean) * scale, (test.double() - mean) * scale


def percent_right(scores: Float[Tensor, "heads rows classes"], labels: Int[Tensor, " rows"]) -> list[float]:
    """Of each classifier."""
    shares: list[float] = (scores.argmax(-1) == labels).double().mean(-1).mul(100).tolist()
    return shares


def as_table(scores: Scores) -> str:
    """The scores for people."""
    lines = [f"{'':>10}  {'top-1':>7}  {'best on test':>12}"]
    for name in ("trained", "untrained"):
        lines.append(f"{name:>10}  {scores[name]['top1']:>7.2f}  {scores[name]['top1_best']:>12.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Evaluate and write; returns the exit code."""
    return command(arguments, LinearEvaluation, evaluate, as_table, usage=__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
