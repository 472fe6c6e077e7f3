"""SGD with momentum, and LARS: steps that are taken or left out by a flag on the device, sharded weights or not."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ssl_train.distributed import all_reduce_sum


class Lars(Optimizer):
    """SGD with momentum; with `trust`, a matrix's update is as long as that share of the matrix itself.

    For a parameter w with gradient g and momentum buffer m, the slow truth of a step is

        d = g + weight_decay * w
        if trust is not None and w has more than one dimension and |w| > 0 and |d| > 0:
            d = d * trust * |w| / |d|
        m = momentum * m + d
        w = w - lr * m

    Lengths are those of whole parameters, however they are sharded: one collective. Where `found_inf` is set and not 0
    (see `optim.step_if_finite`), weights and momenta stay as they are, and the host does not wait to know. Momenta are
    there from the beginning, so that every checkpoint has the same entries.
    Source: LARS (arXiv 1708.03888), algorithm 1, but that momenta hold no learning rate, as MoCo v3 and SwAV have it.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, params: Iterable[nn.Parameter] | Iterable[dict[str, Any]], *, momentum: float, trust: float | None
    ) -> None:
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0, "momentum": momentum})
        self.trust = trust
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure: give it gradients")
        pieces = [piece for group in self.param_groups if (piece := self._piece(group)) is not None]
        if self.trust is not None:
            self._adapt(pieces, self.trust)
        for piece in pieces:
            self._take(piece)

    def _piece(self, group: dict[str, Any]) -> "_Piece | None":
        """What a group is to be moved by, before its lengths are adapted."""
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return None
        weights = [local(parameter) for parameter in parameters]
        updates = [self._clean(local(parameter.grad)) for parameter in parameters]
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        return _Piece(parameters, weights, updates, momenta, group["lr"], group["momentum"])

    def _clean(self, gradient: Tensor) -> Tensor:
        """A gradient of one's own; zeros in the place of a bad step's, which no factor of 0 would make finite."""
        if self.found_inf is None:
            return gradient.clone()
        return torch.where(self.found_inf.to(gradient.device) > 0, 0.0, gradient)

    def _adapt(self, pieces: list["_Piece"], trust: float) -> None:
        """Lengths of all matrices' updates, in one collective for all groups."""
        chosen = [(piece, i) for piece in pieces for i, p in enumerate(piece.parameters) if p.ndim > 1]
        if not chosen:
            return
        weights = [piece.weights[i] for piece, i in chosen]
        updates = [piece.updates[i] for piece, i in chosen]
        is_sharded = any(isinstance(piece.parameters[i], DTensor) for piece, i in chosen)
        lengths = global_norms([*weights, *updates], sharded=is_sharded)
        weight_norms, update_norms = lengths.chunk(2)
        known = (weight_norms > 0) & (update_norms > 0)
        factors = torch.where(known, trust * weight_norms / update_norms.clamp_min(_TINY), 1.0)
        torch._foreach_mul_(updates, list(factors.unbind()))

    def _take(self, piece: "_Piece") -> None:
        if self.found_inf is None:
            torch._foreach_mul_(piece.momenta, piece.momentum)
            torch._foreach_add_(piece.momenta, piece.updates)
            torch._foreach_add_(piece.weights, piece.momenta, alpha=-piece.lr)
            return
        # A bad step's factors: 1 for the momenta, 0 for what is added to them and for what they do.
        taken = (self.found_inf.to(piece.weights[0].device) == 0).float().squeeze()
        torch._foreach_mul_(piece.momenta, 1 - taken * (1 - piece.momentum))
        torch._foreach_mul_(piece.updates, taken)
        torch._foreach_add_(piece.momenta, piece.updates)
        torch._foreach_add_(piece.weights, torch._foreach_mul(piece.momenta, taken * -piece.lr))


_TINY = torch.finfo(torch.float32).tiny


class _Piece(NamedTuple):
    """A group's parameters with a gradient, and this process's parts of what belongs to them."""

    parameters: list[nn.Parameter]
    weights: list[Tensor]
    updates: list[Tensor]
    momenta: list[Tensor]
    lr: float
    momentum: float


def global_norms(tensors: list[Tensor], *, sharded: bool) -> Float[Tensor, " tensors"]:
    """The length of each tensor, of which a process may hold a part, or none."""
    own = torch.stack(torch._foreach_norm(tensors)).float()
    return all_reduce_sum(own.square()).sqrt() if sharded else own


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, as storage that can be written to."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
