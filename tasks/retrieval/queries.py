"""The curated sources' images as retrieval asks with them: how deep each is searched, where it stands among clusters.

Cost: queries * clusters * dim products. Memory of a task: its queries twice as float32, its products with 2,048
centroids at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.tables import write_table
from storage.vectors import read_array
from tasks.algorithms.neighbours import finder_for, nearest
from tasks.algorithms.sampling import Keys, id_keys
from tasks.retrieval.part_chunks import Chunk
from tasks.retrieval.rules import Retrieve, SourceMode, modes_of
from tasks.retrieval.sorted_runs import write_run
from tasks.stage import Outcome

_NONE = -1


@dataclass(frozen=True)
class Survey:
    """What the sources amount to: their rows of the composition, and which queries are drawn (by key, up to which)."""

    counts: Mapping[str, int]
    modes: Sequence[SourceMode]
    inspect_up_to: Mapping[str, int]
    recall_up_to: int = _NONE
    depths: Mapping[str, int] = field(default_factory=dict)
    """Neighbours of each query of the sources in mode sample."""


def survey(chunks: Sequence[Chunk], config: Retrieve) -> Survey:
    """One pass over ids and sources. Memory: a chunk's, and 8 bytes per query that is drawn. Raises UnknownSource."""
    counts: dict[str, int] = {}
    drawn: dict[str, tuple[Keys, Keys]] = {}
    none = np.zeros(0, dtype=np.uint64)
    for chunk in chunks:
        ids, (names, codes) = chunk.ids(), sources_of(chunk)
        for code, name in enumerate(names):
            mine = ids[codes == code]
            counts[name] = counts.get(name, 0) + len(mine)
            inspect, recall = drawn.get(name, (none, none))
            drawn[name] = (
                _smallest(inspect, id_keys(mine, seed=config.seed), config.inspect_queries),
                _smallest(recall, id_keys(mine, seed=config.seed + 1), config.recall_queries),
            )
    modes = modes_of(counts, config)
    depths = {row.source: row.neighbours for row in modes if row.mode == "sample"}
    recall = _smallest(none, np.concatenate([none, *(drawn[name][1] for name in depths)]), config.recall_queries)
    up_to = {name: int(keys.max()) if len(keys) else _NONE for name, (keys, _) in drawn.items()}
    return Survey(counts, modes, up_to, int(recall.max()) if len(recall) else _NONE, depths)


def sources_of(chunk: Chunk) -> tuple[list[str], npt.NDArray[np.int64]]:
    """(names, which of them each row has)"""
    encoded = chunk.column("source").combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices, dtype=np.int64)


def _smallest(held: Keys, more: Keys, num: int) -> Keys:
    keys = np.concatenate([held, more])
    return keys if len(keys) <= num else np.partition(keys, num - 1)[:num] if num else keys[:0]


def write_queries(
    chunk: Chunk, out: str, *, found: Survey, config: Retrieve, centroids: str, positions: str, exact: bool
) -> Outcome:
    """queries-*.parquet of one chunk and, unless the search is exact, the run `probes`: query (its place in the chunk)
    and depth, grouped by the position of each cell it looks into. Raises ValueError for other dimensions."""
    vectors, ids, (names, codes) = chunk.vectors(), chunk.ids(), sources_of(chunk)
    searched = np.array([found.depths.get(name, 0) for name in names], dtype=np.int64)[codes]
    inspect = _drawn(id_keys(ids, seed=config.seed), [found.inspect_up_to[name] for name in names], codes)
    recall = _drawn(id_keys(ids, seed=config.seed + 1), [found.recall_up_to for _ in names], codes) & (searched > 0)
    depth = np.where(inspect, np.maximum(searched, config.inspect_neighbours), searched)
    probes = np.where((depth > 0) & (not exact), config.num_probes, 1)
    places = np.asarray(read_array(centroids), dtype=np.float16)  # float16: products of these are exact
    finder = finder_for(config.efficiency.device)
    near = nearest(places, vectors, num=np.minimum(probes, len(places)), finder=finder)
    table = pa.table(
        {
            "query": np.arange(chunk.first_row, chunk.first_row + len(ids)),
            "query_id": chunk.column("id"),
            "sha256": chunk.column("sha256"),
            "source": chunk.column("source"),
            "cluster": near.rows[near.offsets[:-1]].astype(np.int32),
            "depth": depth.astype(np.int32),
            "inspect": inspect,
            "recall": recall & (not exact),
        }
    )
    entry = write_table(f"{out}.parquet", table)
    if exact:
        return Outcome(len(ids), len(ids), files=[entry])
    query = np.repeat(np.arange(len(ids)), np.diff(near.offsets))
    asks = depth[query] > 0
    cells = np.asarray(read_array(positions))[near.rows[asks]]
    columns = {"query": query[asks].astype(np.int32), "depth": depth[query[asks]].astype(np.int32)}
    run = write_run(f"{out}.probes", cells, len(places), columns)
    return Outcome(len(ids), len(ids), files=[entry, *run.files])


def _drawn(keys: Keys, up_to: Sequence[int], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whose keys are at most their source's limit; a limit of -1 lets none pass."""
    some = np.array([limit >= 0 for limit in up_to], dtype=bool)
    limits = np.array([max(limit, 0) for limit in up_to], dtype=np.uint64)
    return np.asarray(some[codes] & (keys <= limits[codes]))
