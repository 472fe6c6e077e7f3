"""Candidates for neighbours on a GPU: products in half precision, of each query the rows with the largest.

As on the processor they only choose candidates, which `neighbours` compares anew in float64; `margin` says how far a
product may be off, so that a query whose candidates cannot be told from the rest is asked for more of them. Hence both
give the same neighbours, to the last bit. The products are read once: the largest of every 64 says which 64 may hold a
candidate (of the `slots` largest entries each is the largest of its 64 or has a larger one beside it).
"""

from typing import NamedTuple

import numpy as np
import torch

from tasks.algorithms.blocks import Array, Floats, Rows
from tasks.algorithms.kmeans_device import sums_in_float32

Tensor = torch.Tensor
_CHUNK = 64
_QUERY_ROWS = 4096
_POOL_ROWS = 32_768  # with the queries: 256 MB of products


class DeviceCandidates(NamedTuple):
    """Of every query its `slots` best rows, [queries, slots], falling; -1 and -inf where there are fewer. margin
    [queries]: by how much two of a query's products may be in the wrong order."""

    rows: Rows
    approximate: Floats
    margin: Floats


class _Half(NamedTuple):
    """Rows [n, dim] in half precision; of each its length, and how far rounding moved it: [n]."""

    low: Tensor
    lengths: Tensor
    errors: Tensor

    @classmethod
    def of(cls, vectors: Array, device: str) -> "_Half":
        rows = torch.from_numpy(np.array(vectors)).to(device)
        low, exact = rows.half(), rows.float()
        return cls(low, exact.norm(dim=1), (exact - low.float()).norm(dim=1))


def candidates_on_device(
    pool: Array, cells: Rows, queries: Floats, offsets: Rows, asking: Rows, slots: int, *, device: str
) -> DeviceCandidates:
    """The rows of `pool` [rows, dim] in the cells that each query looks into with the largest products.

    cells [cells + 1]: cell c is pool[cells[c] : cells[c + 1]]; into it look asking[offsets[c] : offsets[c + 1]].
    Memory on the device: 2 * dim bytes per query and per row of one block, 12 * slots per query; 300 MB of products and
    what is found in them. Raises ValueError for rows that are not finite.
    """
    asked = _Half.of(queries, device)
    best = torch.full((len(queries), slots), -torch.inf, device=device)
    rows = torch.full((len(queries), slots), -1, dtype=torch.int64, device=device)
    longest = farthest = 0.0
    for cell in np.flatnonzero((np.diff(offsets) > 0) & (np.diff(cells) > 0)).tolist():
        mine = torch.from_numpy(asking[offsets[cell] : offsets[cell + 1]].copy()).to(device)
        for start in range(int(cells[cell]), int(cells[cell + 1]), _POOL_ROWS):
            block = _Half.of(pool[start : min(start + _POOL_ROWS, int(cells[cell + 1]))], device)
            longest, farthest = _larger(longest, block.lengths), _larger(farthest, block.errors)
            for some in mine.split(_QUERY_ROWS):
                found, where = _largest(asked.low[some], block.low, slots)
                joined = torch.cat([best[some], found], dim=1)
                best[some], order = joined.topk(slots, dim=1)
                rows[some] = torch.cat([rows[some], where + start], dim=1).gather(1, order)
    rows[best == -torch.inf] = -1
    margin = _margin(asked, longest, farthest, queries.shape[1])
    return DeviceCandidates(rows.cpu().numpy(), best.cpu().numpy(), margin.cpu().numpy())


def _larger(so_far: float, values: Tensor) -> float:
    if not bool(values.isfinite().all()):
        raise ValueError("a vector of the pool has values that are not finite; an encoder that gave such is broken")
    return max(so_far, float(values.max()))


def _largest(queries: Tensor, block: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """(the `slots` largest products of each query with the block's rows, which rows): as many as there are, at most."""
    num_rows = len(block)
    width = -(-num_rows // _CHUNK) * _CHUNK
    if width != num_rows:
        block = torch.nn.functional.pad(block, (0, 0, 0, width - num_rows))
    with sums_in_float32():
        products = queries @ block.T
    products[:, num_rows:] = -torch.inf
    tile = products.view(len(queries), -1, _CHUNK)
    chunks = tile.amax(dim=2).topk(min(slots, tile.shape[1]), dim=1).indices  # [queries, chunks]
    near = tile.gather(1, chunks[:, :, None].expand(-1, -1, _CHUNK)).flatten(1)
    values, order = near.topk(min(slots, near.shape[1]), dim=1)
    rows = chunks.gather(1, order // _CHUNK) * _CHUNK + order % _CHUNK
    return values.float(), rows


def _margin(queries: _Half, longest: float, farthest: float, dim: int) -> Tensor:
    """Twice a bound on |product in half precision - product|, and a little.

    x.y - x'.y' = x.(y - y') + (x - x').y'; then the sums' rounding in float32 (2^-22 per term, since tensor cores cut
    off) and the result's to half precision: 2^-11 of it, or 2^-25 where it is small.
    """
    length = queries.lengths + queries.errors
    rounding = 2.0**-11 + dim * 2.0**-22
    bound = queries.lengths * farthest + queries.errors * (longest + farthest)
    return 2.0 * (bound + rounding * length * (longest + farthest) + 2.0**-25) * (1.0 + 1e-4)
