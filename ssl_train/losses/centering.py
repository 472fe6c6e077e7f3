"""How a teacher's logits become targets: by a running centre or by Sinkhorn-Knopp, over all ranks; or as they are."""

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssl_train.distributed import all_reduce_max, all_reduce_sum
from ssl_train.ops.prototype_loss import Projected, Targets, sinkhorn_targets

Kind = Literal["softmax", "sinkhorn_knopp", "none"]


@torch.no_grad()
def sinkhorn_knopp(
    logits: Float[Tensor, "rows prototypes"], *, temperature: float, iterations: int = 3
) -> Float[Tensor, "rows prototypes"]:
    """Targets whose rows sum to one and whose prototypes are used equally, as near as `iterations` bring them.

    The rows of all processes count as one matrix; a process may hold any number of them, none too. Equal to

        q = exp(logits / temperature)
        repeat: divide each column (prototype) by its sum over all rows; divide each row by its sum

    The largest logit is subtracted first: it cancels, and nothing overflows. The divisions by the number of rows and
    of prototypes in the papers cancel too. Source: SwAV (arXiv 2006.09882), section 3.2; DINOv2 section 4.
    """
    scaled = logits.float() / temperature
    q = (scaled - _global_max(scaled)).exp_()
    tiny = torch.finfo(q.dtype).tiny
    for _ in range(iterations):
        q /= all_reduce_sum(q.sum(0)).clamp_min(tiny)
        q /= q.sum(1, keepdim=True).clamp_min(tiny)
    return q


class SinkhornKnopp(nn.Module):
    """Sinkhorn-Knopp as a way of making targets: it keeps nothing from step to step."""

    def forward(self, teacher: Projected, temperature: float) -> Targets:
        return sinkhorn_targets(teacher, temperature=temperature)

    def commit(self, *, finite: Tensor | bool = True) -> None:
        """Nothing to keep."""


class Uncentred(nn.Module):
    """softmax(logits / temperature) and nothing more: one prototype may win everything, which DINO calls a collapse.

    For the study of that (`ssl_train.studies.collapse`), and for whoever doubts that a centre is needed.
    """

    def forward(self, teacher: Projected, temperature: float) -> Targets:
        return Targets(*teacher, temperature, teacher.weight.new_zeros(len(teacher.weight), dtype=torch.float32))

    def commit(self, *, finite: Tensor | bool = True) -> None:
        """Nothing to keep."""


class SoftmaxCentering(nn.Module):
    """softmax((logits - centre) / temperature); the centre is a running mean of all processes' logits.

    A step uses the centre of the steps before it: `forward` measures the batch's mean, `commit` lets it in once the
    step has been taken (a step that is skipped for a non-finite loss leaves no trace). The mean is over all rows of
    all processes; DINOv2's code averages the means of the processes, which is the same where they hold equally many.
    DINO's code lets it in right after the loss, DINOv2's right before the next one: every loss sees the same centre.
    Source: DINO (arXiv 2104.14294), equation 4.
    """

    center: Tensor

    def __init__(self, num_prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(1, num_prototypes))
        self._measured: Tensor | None = None

    @torch.no_grad()
    def forward(self, teacher: Projected, temperature: float) -> Targets:
        self._measured = self._mean(*teacher)
        return Targets(*teacher, temperature, -self.center[0] / temperature)

    @torch.no_grad()
    def commit(self, *, finite: Tensor | bool = True) -> None:
        """Let the last batch's mean into the centre, if the step was `finite`; decided on the device, nobody waits."""
        if self._measured is not None:
            taken = torch.as_tensor(finite, device=self.center.device)
            self.center.copy_(torch.where(taken, self.center.lerp(self._measured, 1 - self.momentum), self.center))
            self._measured = None

    def _mean(
        self, bottleneck: Float[Tensor, "rows dim"], weight: Float[Tensor, "prototypes dim"]
    ) -> Float[Tensor, "1 prototypes"]:
        # The mean of products is the product of the mean: no logits, and a collective of `dim` numbers.
        sums = bottleneck.sum(0, dtype=torch.float32)
        sums, count = all_reduce_sum(torch.cat([sums, sums.new_tensor([len(bottleneck)])])).split([len(sums), 1])
        mean = F.linear(sums / count.clamp_min(1), weight.float())
        return torch.where(count > 0, mean, self.center[0]).unsqueeze(0)


Centering: TypeAlias = SinkhornKnopp | SoftmaxCentering | Uncentred


def build_centering(kind: Kind, *, num_prototypes: int, momentum: float) -> Centering:
    """The way of making targets that a config names."""
    if kind == "softmax":
        return SoftmaxCentering(num_prototypes, momentum)
    return SinkhornKnopp() if kind == "sinkhorn_knopp" else Uncentred()


def _global_max(x: Float[Tensor, "rows prototypes"]) -> Float[Tensor, ""]:
    largest = x.max() if x.numel() else x.new_tensor(float("-inf"))
    return all_reduce_max(largest)
