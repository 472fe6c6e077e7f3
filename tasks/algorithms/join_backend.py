"""Where a join's products are made: on processors by 8-bit integers, on a GPU in half precision.

Both screen so that no pair is lost and decide in float64; they differ by the rounding of that float64 alone.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from tasks.algorithms.blocks import Array, Rows
from tasks.algorithms.devices import torch_device
from tasks.algorithms.join_codes import encode
from tasks.algorithms.join_device import TILE_ROWS, OnDevice, pairs_on_device, to_device
from tasks.algorithms.join_edges import Cells, Edges
from tasks.algorithms.join_screen import Candidates, pairs_between
from tasks.algorithms.join_threads import in_order

Item = TypeVar("Item")
Result = TypeVar("Result")


class Backend(Protocol):
    """What a join asks of a device. `Any` is a set of rows made ready, in the backend's own form."""

    run_rows: int
    """How many rows, counted once per cell, of consecutive cells are made ready together."""

    def prepare(self, vectors: Array, cells: Cells | None = None) -> Any:
        """Rows [n, dim] made ready, with the cells they are in."""
        ...

    def subset(self, prepared: Any, members: Rows) -> Any:
        """Some of the rows that are ready."""
        ...

    def pairs(self, left: Any, right: Any, threshold: float, *, upper: bool, cell: int = -1) -> Edges:
        """Pairs above the threshold; `upper`: of the same rows, i < j; `cell`: only if it is their first shared one."""
        ...

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results in order."""
        ...


class Processor:
    """All the threads torch has; each takes a block, or some cells."""

    run_rows = 8192

    def prepare(self, vectors: Array, cells: Cells | None = None) -> Candidates:
        known = np.zeros((len(vectors), 0), dtype=np.int32) if cells is None else np.ascontiguousarray(cells)
        return Candidates.of(encode(vectors), known)

    def subset(self, prepared: Candidates, members: Rows) -> Candidates:
        return prepared.subset(members)

    def pairs(self, left: Candidates, right: Candidates, threshold: float, *, upper: bool, cell: int = -1) -> Edges:
        return pairs_between(left, right, threshold, upper=upper, cell=cell)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return in_order(function, items)


class Gpu:
    """One CUDA device (or, slowly, for tests, the processor as if it were one)."""

    run_rows = 262_144

    def __init__(self, device: str, *, tile_rows: int = TILE_ROWS) -> None:
        self.device, self.tile_rows = device, tile_rows

    def prepare(self, vectors: Array, cells: Cells | None = None) -> OnDevice:
        return to_device(vectors, cells, self.device)

    def subset(self, prepared: OnDevice, members: Rows) -> OnDevice:
        return prepared.subset(torch.from_numpy(members).to(self.device))

    def pairs(self, left: OnDevice, right: OnDevice, threshold: float, *, upper: bool, cell: int = -1) -> Edges:
        return pairs_on_device(left, right, threshold, upper=upper, cell=cell, tile_rows=self.tile_rows)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)


def backend_for(device: str) -> Backend:
    """The backend of "cpu", "cuda", "cuda:1", or of "auto": a GPU where torch has one.

    Raises ValueError for a device that torch does not have.
    """
    found = torch_device(device)
    return Processor() if found == "cpu" else Gpu(found)
