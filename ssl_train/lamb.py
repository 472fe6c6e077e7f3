"""LAMB: Adam's steps, each matrix's made a share of its own length; taken or left out by a flag on the device."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ssl_train.lars import global_norms, local

EPS = 1e-6
_TINY = torch.finfo(torch.float32).tiny


class Lamb(Optimizer):
    """Layer-wise adaptive moments for large batches (arXiv 1904.00962, algorithm 2, with Adam's bias correction).

    For a parameter w with gradient g and moments m and v, the slow truth of step t = 1, 2, ... is

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        d = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + 1e-6) + weight_decay * w
        if weight_decay and |w| > 0 and |d| > 0:
            d = d * |w| / |d|
        w = w - lr * d

    What is not decayed (biases, norms, layer scales) is not adapted either, as in the implementations that DeiT III was
    trained with. Lengths are those of whole parameters, however they are sharded: one collective. Where `found_inf` is
    set and not 0 (see `optim.step_if_finite`), nothing moves, t neither, and the host does not wait to know.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0, "betas": betas})
        for group in self.param_groups:
            for parameter in group["params"]:  # there from the beginning: every checkpoint has the same entries
                self.state[parameter]["step"] = torch.zeros((), device=parameter.device)
                self.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
                self.state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure: give it gradients")
        pieces = [piece for group in self.param_groups if (piece := self._piece(group)) is not None]
        self._adapt([piece for piece in pieces if piece.weight_decay])
        for piece in pieces:
            torch._foreach_mul_(piece.updates, self._taken(piece.weights[0].device) * -piece.lr)
            torch._foreach_add_(piece.weights, piece.updates)

    def _taken(self, device: torch.device) -> Tensor:
        """1 where the step is to be taken, else 0; a scalar on the device."""
        if self.found_inf is None:
            return torch.ones((), device=device)
        return (self.found_inf.to(device) == 0).float().squeeze()

    def _piece(self, group: dict[str, Any]) -> "_Piece | None":
        """Move a group's moments, and say what its weights are to be moved by before lengths are adapted."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return None
        (beta1, beta2), states = group["betas"], [self.state[parameter] for parameter in parameters]
        weights = [local(parameter) for parameter in parameters]
        taken = self._taken(weights[0].device)
        gradients = [torch.where(taken > 0, local(parameter.grad), 0.0) for parameter in parameters]
        first, second = ([local(state[name]) for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_mul_(first, 1 - taken * (1 - beta1))
        torch._foreach_add_(first, gradients, alpha=1 - beta1)
        torch._foreach_mul_(second, 1 - taken * (1 - beta2))
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta2)
        steps = [local(state["step"]) for state in states]
        torch._foreach_add_(steps, taken)
        step = steps[0].clamp_min(1)
        scales = torch._foreach_sqrt(second)
        torch._foreach_mul_(scales, (1 - beta2**step).rsqrt())
        torch._foreach_add_(scales, EPS)
        updates = torch._foreach_div(first, scales)
        torch._foreach_mul_(updates, 1 / (1 - beta1**step))
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        return _Piece(parameters, weights, list(updates), group["lr"], group["weight_decay"])

    def _adapt(self, pieces: list["_Piece"]) -> None:
        """Give every update the length of its weight, in one collective for all groups."""
        weights = [weight for piece in pieces for weight in piece.weights]
        updates = [update for piece in pieces for update in piece.updates]
        if not weights:
            return
        is_sharded = any(isinstance(parameter, DTensor) for piece in pieces for parameter in piece.parameters)
        weight_norms, update_norms = global_norms([*weights, *updates], sharded=is_sharded).chunk(2)
        known = (weight_norms > 0) & (update_norms > 0)
        factors = torch.where(known, weight_norms / update_norms.clamp_min(_TINY), 1.0)
        torch._foreach_mul_(updates, list(factors.unbind()))


class _Piece(NamedTuple):
    """A group's parameters with a gradient, this process's parts of them, and what they are to be moved by."""

    parameters: list[nn.Parameter]
    weights: list[Tensor]
    updates: list[Tensor]
    lr: float
    weight_decay: float
