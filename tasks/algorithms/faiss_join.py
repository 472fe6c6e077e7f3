"""Candidate pairs by Faiss: an inverted file with product-quantised codes (IVF-PQ), searched in large batches.

What DINOv2 used (arXiv 2304.07193, App. A.3). Codes only say which pairs to look at; the vectors decide
(`pair_similarity`). Memory: code_bytes + 8 bytes per indexed vector. GPUs are used where Faiss has them.
"""

from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from tasks.algorithms.blocks import Floats, Rows

MAX_NEIGHBOURS = 2048
"""As far as a search is extended: Faiss's limit on GPUs."""
_LEAST_FOR_CODES = 256
_TRAIN_PER_LIST = 64
_BATCH = 65_536


class Candidates(NamedTuple):
    """Pairs (query number, indexed row) to be looked at; how many queries had to be searched further, and how many
    have more candidates than the furthest search returns."""

    queries: Rows
    rows: Rows
    num_extended: int
    num_cut: int


def train_index(sample: npt.NDArray[np.floating], *, num_lists: int, code_bytes: int) -> Any:
    """An empty IVF-PQ index of inner products, trained on `sample` [rows, dim] (scaled to unit length).

    The code's bytes are the largest divisor of dim that is not above `code_bytes`; lists are at most rows / 64. Fewer
    than 256 rows cannot train codes: then vectors are stored whole.
    """
    units = _unit(sample)
    dim = units.shape[1]
    lists = max(1, min(num_lists, len(units) // _TRAIN_PER_LIST))
    bytes_used = max(size for size in range(1, min(code_bytes, dim) + 1) if dim % size == 0)
    kind = f"PQ{bytes_used}np" if len(units) >= _LEAST_FOR_CODES else "Flat"
    # np: no polysemous training, which takes seconds for every byte and serves a search that is not used here
    index: Any = faiss.index_factory(dim, f"IVF{lists},{kind}", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # it would warn on standard error
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1
    index.train(units)
    return index


def add_vectors(index: Any, vectors: npt.NDArray[np.floating]) -> None:
    """Append vectors [rows, dim] to a trained index; they are numbered on from those it has."""
    for start in range(0, len(vectors), _BATCH):
        index.add(_unit(vectors[start : start + _BATCH]))


def to_bytes(index: Any) -> bytes:
    """The index as Faiss writes it to files."""
    return bytes(faiss.serialize_index(index).data)


def from_bytes(data: bytes, *, gpu: bool = True) -> Any:
    """An index of `to_bytes`, on all GPUs where Faiss finds some and `gpu` is not False."""
    index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    if gpu and getattr(faiss, "get_num_gpus", int)() > 0:
        return faiss.index_cpu_to_all_gpus(index)
    return index


def search(
    index: Any, queries: npt.NDArray[np.floating], *, neighbours: int, probes: int, at_least: float
) -> Candidates:
    """Of every query the indexed rows whose estimated cosine is at least `at_least`.

    neighbours + 1 rows are asked for (a vector finds itself), four times as many for the queries where all of them are
    above the bound, and so on to 2048. Memory: 12 * (neighbours + 1) bytes per query.
    """
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", probes)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    furthest = min(MAX_NEIGHBOURS, max(1, index.ntotal))
    waiting, asked = np.arange(len(queries)), min(neighbours + 1, furthest)
    num_extended = num_cut = 0
    while len(waiting):
        further = [np.zeros(0, np.int64)]
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            similarity, rows = index.search(_unit(queries[batch]), asked)
            near = (similarity >= at_least) & (rows >= 0)
            full = near.all(axis=1)
            if asked < furthest:
                near[full] = False  # searched again, for more
                further.append(batch[full])
            else:
                num_cut += int(full.sum()) if asked < index.ntotal else 0
            query, place = np.nonzero(near)
            found.append((batch[query], rows[query, place].astype(np.int64)))
        waiting = np.concatenate(further)
        num_extended += len(waiting) if asked == min(neighbours + 1, furthest) else 0
        asked = min(4 * asked, furthest)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    return Candidates(columns[0], columns[1], num_extended, num_cut)


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    floats = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return np.ascontiguousarray(floats / np.where(lengths > 0, lengths, 1.0), dtype=np.float32)
