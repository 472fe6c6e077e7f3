"""Many linear classifiers on the same frozen features, trained together: every learning rate, every input, one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ssl_train.schedules import WarmUpCosine

MOMENTUM = 0.9
INIT_STD = 0.01


class Input(NamedTuple):
    """Which columns of the features a classifier sees."""

    num_blocks: int
    """Class tokens of so many last blocks."""
    with_mean: bool
    """And the mean patch token of the last one."""

    def columns(self, widths: Sequence[int]) -> slice:
        """Of features that are the blocks' class tokens, first block first, then the mean patch: `widths` of each."""
        *blocks, mean = widths
        if self.num_blocks > len(blocks):
            raise ValueError(f"{self.num_blocks} blocks are asked for, the features hold {len(blocks)}")
        start = sum(blocks[: len(blocks) - self.num_blocks])
        return slice(start, sum(blocks) + (mean if self.with_mean else 0))


class Classifiers(NamedTuple):
    """One classifier for each learning rate, on one input."""

    given: Input
    learning_rates: tuple[float, ...]
    weight: Float[Tensor, "rates classes dim"]
    bias: Float[Tensor, "rates classes"]

    def scores(self, features: Float[Tensor, "rows all"], widths: Sequence[int]) -> Float[Tensor, "rates rows classes"]:
        """Logits of every class by every classifier."""
        x = features[:, self.given.columns(widths)]
        return torch.baddbmm(self.bias[:, None, :], x.expand(len(self.weight), -1, -1), self.weight.transpose(1, 2))


def train_classifiers(
    features: Float[Tensor, "views rows all"],
    labels: Int[Tensor, " rows"],
    *,
    widths: Sequence[int],
    inputs: Sequence[Input],
    learning_rates: Sequence[float],
    num_classes: int,
    num_steps: int,
    batch_rows: int,
    seed: int,
    device: torch.device,
) -> list[Classifiers]:
    """SGD with momentum 0.9, no weight decay, half a cosine to 0; the losses of all classifiers are added up.

    As they share no weight, each is trained as if it were alone. A step sees `batch_rows` rows, each as one of its
    `views`. Rates are those of the step: published ones are for 256 images and are scaled by the caller. Weights
    begin as N(0, 0.01), biases as 0. Source: DINOv2 (arXiv 2304.07193), section 7.1.
    """
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor(learning_rates, device=device)
    shapes = [features[0, :1, given.columns(widths)].shape[1] for given in inputs]
    # Every learning rate begins with the same weights: rates are what is compared.
    weights = [(torch.randn(num_classes, dim, generator=generator) * INIT_STD).to(device) for dim in shapes]
    heads = [
        Classifiers(given, tuple(learning_rates), w.repeat(len(rates), 1, 1), w.new_zeros(len(rates), num_classes))
        for given, w in zip(inputs, weights, strict=True)
    ]
    momenta = [(torch.zeros_like(head.weight), torch.zeros_like(head.bias)) for head in heads]
    schedule = WarmUpCosine(1.0, 0.0, num_steps)
    for step in range(num_steps):
        rows = torch.randint(features.shape[1], (min(batch_rows, features.shape[1]),), generator=generator)
        views = torch.randint(len(features), rows.shape, generator=generator)
        x, y = features[views, rows].to(device), labels[rows].to(device)
        for head, (of_weight, of_bias) in zip(heads, momenta, strict=True):
            error = head.scores(x, widths).softmax(-1).sub_(F.one_hot(y, num_classes)).div_(len(x))
            seen = x[:, head.given.columns(widths)].expand(len(rates), -1, -1)
            of_weight.mul_(MOMENTUM).baddbmm_(error.transpose(1, 2), seen)
            of_bias.mul_(MOMENTUM).add_(error.sum(1))
            head.weight.addcmul_(of_weight, rates[:, None, None], value=-schedule(step))
            head.bias.addcmul_(of_bias, rates[:, None], value=-schedule(step))
    return heads
