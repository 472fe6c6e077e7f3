"""Losses between two views of an image: contrasted with other images (MoCo v3, SimCLR), or without any (BYOL)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ssl_train.ops.gather import at_least_fp32, first_row, gathered, gathered_with_gradient


class Contrast(NamedTuple):
    """A contrastive loss, and how often the right row was the nearest."""

    loss: Float[Tensor, ""]
    top1: Float[Tensor, ""]
    """Share, in [0, 1], of the rows whose positive is more similar than every negative; no gradient."""


def info_nce(queries: Float[Tensor, "rows dim"], keys: Float[Tensor, "rows dim"], *, temperature: float) -> Contrast:
    """2 tau times the cross-entropy of finding a query's key among the keys of all processes.

    Row i of `keys` belongs to row i of `queries`; both are made unit-length here, and keys have no gradient. The mean
    over this process's queries; gradients are to be averaged over processes. With N rows in all it equals

        loss = 0
        for i in range(N):
            similarities = [cos(queries[i], keys[j]) / tau for j in range(N)]
            loss += -log(exp(similarities[i]) / sum(exp(s) for s in similarities))
        loss *= 2 * tau / N

    The factor makes the gradient's size independent of tau. In fp32 at least.
    Source: MoCo v3 (arXiv 2104.02057), algorithm 1 and equation 1.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q, k = F.normalize(at_least_fp32(queries), dim=-1), F.normalize(at_least_fp32(keys.detach()), dim=-1)
        logits = q @ gathered(k).T / temperature
        positives = torch.arange(len(q), device=q.device) + first_row(q)
        return Contrast(2 * temperature * F.cross_entropy(logits, positives), _top1(logits, positives))


def symmetric_info_nce(
    queries: tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]],
    keys: tuple[Float[Tensor, "rows dim"], Float[Tensor, "rows dim"]],
    *,
    temperature: float,
) -> Contrast:
    """info_nce(queries of view 1, keys of view 2) + info_nce(queries of view 2, keys of view 1); the mean of the top-1.

    Source: MoCo v3 (arXiv 2104.02057), algorithm 1.
    """
    one = info_nce(queries[0], keys[1], temperature=temperature)
    other = info_nce(queries[1], keys[0], temperature=temperature)
    return Contrast(one.loss + other.loss, (one.top1 + other.top1) / 2)


def nt_xent(first: Float[Tensor, "rows dim"], second: Float[Tensor, "rows dim"], *, temperature: float) -> Contrast:
    """The normalised, temperature-scaled cross-entropy among both views of the images of all processes.

    Row i of both is the same image; they are made unit-length here, and all of them have a gradient, from the losses
    of all processes. The mean over this process's rows. With z = first + second (2 N rows in all) it equals

        loss = 0
        for i in range(2 * N):
            j = (i + N) % (2 * N)
            others = [exp(cos(z[i], z[k]) / tau) for k in range(2 * N) if k != i]
            loss += -log(exp(cos(z[i], z[j]) / tau) / sum(others))
        loss /= 2 * N

    In fp32 at least. Source: SimCLR (arXiv 2002.05709), equation 1 and algorithm 1.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = [F.normalize(at_least_fp32(view), dim=-1) for view in (first, second)]
        views = [gathered_with_gradient(view) for view in own]
        everyone = torch.cat(views)  # all of the first views, then all of the second
        place = torch.arange(len(first), device=first.device) + first_row(first)
        itself = torch.cat([place, place + len(views[0])])
        positives = torch.cat([place + len(views[0]), place])
        logits = torch.cat(own) @ everyone.T / temperature
        logits = logits.masked_fill(_one_hot(itself, len(everyone)), float("-inf"))
        return Contrast(F.cross_entropy(logits, positives), _top1(logits, positives))


def regression_loss(predictions: Float[Tensor, "rows dim"], targets: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Squared distance of unit-length rows, the mean over rows; targets have no gradient. It equals

        mean over i of 2 - 2 * cos(predictions[i], targets[i])

    In fp32 at least. Source: BYOL (arXiv 2006.07733), equation 2.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        p, t = F.normalize(at_least_fp32(predictions), dim=-1), F.normalize(at_least_fp32(targets.detach()), dim=-1)
        return (2 - 2 * (p * t).sum(-1)).mean()


@torch.no_grad()
def direction_spread(rows: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    """Standard deviation of the coordinates of unit-length rows over this process's rows, times sqrt(dim).

    About 1 when directions are spread evenly, 0 when all rows point the same way: complete collapse.
    Source: SimSiam (arXiv 2011.10566), section 4.1.
    """
    unit = F.normalize(at_least_fp32(rows.detach()), dim=-1)
    return unit.var(0, unbiased=False).sum().sqrt()


def _top1(logits: Float[Tensor, "rows all_rows"], positives: Tensor) -> Float[Tensor, ""]:
    return (logits.detach().argmax(-1) == positives).float().mean()


def _one_hot(places: Tensor, length: int) -> Bool[Tensor, "rows length"]:
    return places[:, None] == torch.arange(length, device=places.device)
