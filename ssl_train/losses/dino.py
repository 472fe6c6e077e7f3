"""Cross-entropy between the class tokens of student crops and teacher views: its pairs, its plain form, its signs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ssl_train.ops.prototype_loss import PrototypeLoss

NUM_VIEWS = 2
"""Crops that the teacher sees."""


def pair_shares(num_local: int, weight: float = 1.0) -> list[list[float]]:
    """[crops][views]: what each (student crop, teacher view) pair counts. Global crops come first, and no crop is
    compared with itself; all other pairs count alike, and add up to `weight` (DINO, arXiv 2104.14294, equation 3)."""
    num_pairs = NUM_VIEWS * num_local + NUM_VIEWS * (NUM_VIEWS - 1)
    share = weight / num_pairs
    views = [[share * (crop != view) for view in range(NUM_VIEWS)] for crop in range(NUM_VIEWS)]
    return views + [[share] * NUM_VIEWS for _ in range(num_local)]


@torch.no_grad()
def prototype_monitors(dino: PrototypeLoss, weight: float = 1.0) -> dict[str, Float[Tensor, ""]]:
    """Entropies in nats of a target, and of their mean: both near 0 is collapse, both near log(prototypes) too.

    A mean target's exponential is how many prototypes are in use: its share of all of them is `prototypes_used`.
    KL(teacher || student), in nats, is the mean cross-entropy of a pair less the mean entropy of a target: every view
    is in equally many pairs. `weight` is what all pairs count together.
    """
    marginal = torch.special.entr(dino.marginal).sum()
    monitors = {
        "teacher_entropy": dino.target_entropy,
        "teacher_marginal_entropy": marginal,
        "prototypes_used": marginal.exp() / len(dino.marginal),
    }
    if weight:
        monitors["teacher_student_kl"] = dino.by_crop.sum() / weight - dino.target_entropy
    return monitors


def dino_loss(
    student: Float[Tensor, "crops batch prototypes"],
    teacher: Float[Tensor, "views batch prototypes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over all (student crop, teacher view) pairs of their cross-entropy, a mean over the batch each.

    `student` holds logits, `teacher` probabilities. Equal to

        total = 0
        for s in student:
            for t in teacher:
                total += mean over images i of -sum_k t[i, k] * log softmax(s[i] / temperature)[k]

    and computed as one product per student crop: cross-entropy is linear in the teacher's probabilities.
    Source: DINO (arXiv 2104.14294), equation 3.
    """
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    return -(log_probabilities * teacher.sum(0)).sum() / student.shape[1]


def swapped_dino_loss(
    student: Float[Tensor, "views batch prototypes"],
    teacher: Float[Tensor, "views batch prototypes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Sum over all pairs of different views (the same crop is never its own target).

    Equal to the loop of `dino_loss` without the pairs where s and t are the same view.
    """
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)
    return -(log_probabilities * (teacher.sum(0) - teacher)).sum() / student.shape[1]
