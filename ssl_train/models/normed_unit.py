"""A piece of a backbone with BatchNorms inside: recomputed without counting a batch twice, compiled around them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ssl_train.models.backbone import Unit
from ssl_train.models.projectors import BatchNorm


class NormedUnit(Unit):
    """A unit whose norms keep statistics of the batches that they see."""

    def forward(self, *inputs: Any) -> Any:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.compute, *inputs, use_reentrant=False, context_fn=self._counted_once)
        return self.compute(*inputs)

    def compile_compute(self, *, fullgraph: bool) -> None:
        """Compiled in pieces: statistics that all processes share are collectives between them."""
        super().compile_compute(fullgraph=False)

    def _counted_once(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the forward pass and of its repetition: the latter must not count the batch once more."""
        return nullcontext(), left_alone(self)


@contextmanager
def left_alone(module: nn.Module) -> Iterator[None]:
    """Norms inside take no note of the batches that they see in the meantime: they write to copies.

    They compute as they always do; a repetition that took another way would not fit what autograd keeps of the first.
    """
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        norm._buffers.update({name: None if one is None else one.clone() for name, one in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
