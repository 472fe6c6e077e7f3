"""Cross-entropy between the class tokens of student crops and teacher views."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


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
