"""How the logits of the heads are gone through: how many at a time, and by which code. None of it changes results."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from torch import Tensor

_CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 512 << 20}
_KEPT_BYTES = {"cpu": 1 << 30, "cuda": 2 << 30}
_TILE_BYTES = {"cpu": 1 << 20, "cuda": 256 << 20}

Bytes = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Budget:
    """Bytes for logits over prototypes, and who goes through them."""

    __pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    chunk_bytes: Bytes | None = None
    """Logits made at a time: enough rows that a product is worth reading the prototypes for. Null for 64 MiB on a CPU,
    512 MiB on a GPU."""
    kept_bytes: Annotated[int, Field(ge=0)] | None = None
    """A teacher's fp32 logits up to this size are kept for Sinkhorn-Knopp's iterations; larger ones are made anew for
    each. Null for 1 GiB on a CPU, 2 GiB on a GPU. Those in half precision are always kept."""
    kernels: Literal["auto", "torch", "triton"] = "auto"
    """`auto` takes Triton's on a GPU where they work, and torch's operations elsewhere."""

    def chunk_on(self, device: str) -> int:
        """Bytes of a chunk on a type of device."""
        return self.chunk_bytes or _CHUNK_BYTES.get(device, _CHUNK_BYTES["cpu"])

    def kept_on(self, device: str) -> int:
        """Bytes that may be kept on a type of device."""
        default = _KEPT_BYTES.get(device, _KEPT_BYTES["cpu"])
        return default if self.kept_bytes is None else self.kept_bytes

    @staticmethod
    def current() -> "Budget":
        """The budget of the innermost `within`, or the default."""
        return _CURRENT.get(_DEFAULT)

    @contextmanager
    def within(self) -> Iterator[None]:
        """The context in which this budget holds."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)


_DEFAULT = Budget()
_CURRENT: ContextVar[Budget] = ContextVar("prototype_loss_budget")


def rows_within(budget_bytes: int, num_prototypes: int, *, copies: int = 1) -> int:
    """Rows of fp32 logits, so many copies of each, that fit; one at least."""
    return max(1, budget_bytes // (4 * num_prototypes * copies))


def tiles_of(table: Tensor, *, copies: int = 1) -> tuple[Tensor, ...]:
    """A table [rows, ..., prototypes] in pieces that a core's cache holds: a pass over one of them costs no memory."""
    per_row = table[:1].numel() if len(table) else 1
    return table.split(rows_within(_TILE_BYTES.get(table.device.type, _TILE_BYTES["cpu"]), per_row, copies=copies))
