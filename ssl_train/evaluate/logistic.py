"""Multinomial logistic regression on features: the same weights on every run, for sets that fit a CPU."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

MAX_STEPS = 1000
GRADIENT_TOLERANCE = 1e-9
HISTORY = 20


class Logistic(NamedTuple):
    """Class scores are features @ weight.T + bias."""

    weight: Float[Tensor, "classes dim"]
    bias: Float[Tensor, " classes"]

    def scores(self, features: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows classes"]:
        """Logits of every class."""
        return F.linear(features.to(self.weight.dtype), self.weight, self.bias)


def fit_logistic(
    features: Float[Tensor, "rows dim"],
    labels: Int[Tensor, " rows"],
    *,
    num_classes: int,
    c: float,
    start: Logistic | None = None,
) -> Logistic:
    """The minimum of c * sum of cross-entropies + |weight|^2 / 2 (the bias is free), by L-BFGS in float64.

    That is scikit-learn's LogisticRegression(C=c). The problem is convex: `start` decides how long it takes, not where
    it ends. Memory: rows x (dim + classes) x 8 bytes, and HISTORY copies of the weights.
    """
    x, scale = features.double(), 1.0 / (c * len(features))
    if start is None:
        start = Logistic(x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes))
    weight, bias = (tensor.detach().clone().requires_grad_() for tensor in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_STEPS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * scale * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(loss)
    return Logistic(weight.detach(), bias.detach())


def fit_best_logistic(
    features: Float[Tensor, "rows dim"],
    labels: Int[Tensor, " rows"],
    is_held_out: Tensor,
    *,
    num_classes: int,
    cs: Sequence[float],
) -> tuple[Logistic, float]:
    """The regression with the c that is best on the held-out rows (of equals the smallest), fitted to all; and c.

    Source: DINOv2's logistic regression (arXiv 2304.07193, section 7.1), whose c is picked on a tenth of the images.
    """
    fitted: Logistic | None = None
    best, best_c = -1.0, min(cs)
    kept = ~is_held_out
    for c in sorted(cs):  # each begins where the last, smoother one ended
        fitted = fit_logistic(features[kept], labels[kept], num_classes=num_classes, c=c, start=fitted)
        hits = (fitted.scores(features[is_held_out]).argmax(-1) == labels[is_held_out]).double().mean().item()
        if hits > best:
            best, best_c = hits, c
    return fit_logistic(features, labels, num_classes=num_classes, c=best_c), best_c
