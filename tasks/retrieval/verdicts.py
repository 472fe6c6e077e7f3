"""Verdicts part by part: which rules brought each image, and the query that brought it first.

Memory of a task: 44 bytes per image that a rule brings to its chunk of the pool, that chunk's tables one by one.
"""

import posixpath
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from storage.filesystem import join
from storage.tables import count_drops, kept, read_table, write_table
from storage.vectors import read_array
from tasks.algorithms.blocks import Rows
from tasks.algorithms.neighbours import id_words, nearest, ranks
from tasks.algorithms.sampling import id_keys
from tasks.pool import Verdicts, with_verdicts
from tasks.retrieval.part_chunks import Ids, concatenated
from tasks.retrieval.rules import SourceMode
from tasks.retrieval.search import CellChunk
from tasks.retrieval.sorted_runs import gather_groups, read_rows, run_offsets
from tasks.stage import Outcome


class Brought(NamedTuple):
    """Images (places in the chunk) with the rule that brought them, the query behind it and their similarity."""

    place: Rows
    rule: Rows
    similarity: npt.NDArray[np.float32]
    query: Ids

    @classmethod
    def together(cls, pieces: Sequence["Brought"]) -> "Brought":
        """By image, then rule, then falling similarity, then the query's id."""
        empty = np.zeros(0, dtype=np.int64)
        place = np.concatenate([empty, *(piece.place for piece in pieces)])
        rule = np.concatenate([empty, *(piece.rule for piece in pieces)])
        similarity = np.concatenate([empty.astype(np.float32), *(piece.similarity for piece in pieces)])
        query = concatenated([piece.query for piece in pieces])
        order = np.lexsort((*reversed(id_words(query)), -similarity, rule, place))
        return cls(place[order], rule[order], similarity[order], query[order])

    def first(self, *columns: Rows) -> "Brought":
        """The first entry of every combination of the (sorted) columns."""
        new = np.ones(len(self.place), dtype=bool)
        if len(new):
            new[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
        return Brought(self.place[new], self.rule[new], self.similarity[new], self.query[new])


def judge(
    part: CellChunk,
    out: str,
    *,
    modes: Sequence[SourceMode],
    hits: Sequence[str],
    clustered: Mapping[int, str],
    limits: str,
    counting: str,
    seed: int,
) -> Outcome:
    """part-*.parquet of the chunk's parts. `clustered`: the run of `queries_by_cluster` by the rule's number.

    facts: `unique` and `shared` by rule: images that it brings, and of these the ones that a rule before it brought.
    """
    chunk = part.chunk
    pieces = [_sampled(part, hits)] if hits else []
    if clustered:
        pieces += _of_clusters(part, clustered, limits, counting, seed)
    brought = Brought.together(pieces)
    by_rule = brought.first(brought.place, brought.rule)
    images = brought.first(brought.place)
    names = [mode.name for mode in modes]
    seen_before = ranks(by_rule.place) > 0
    facts = {
        "unique": dict(zip(names, np.bincount(by_rule.rule, minlength=len(names)).tolist(), strict=True)),
        "shared": dict(zip(names, np.bincount(by_rule.rule[seen_before], minlength=len(names)).tolist(), strict=True)),
    }
    details = _details(by_rule, images, names)
    outcomes = []
    for number, path in enumerate(chunk.tables):
        first, last = chunk.starts[number] - chunk.first_row, chunk.starts[number + 1] - chunk.first_row
        here = slice(*np.searchsorted(images.place, [first, last]))
        verdicts = Verdicts.keep(int(last - first))
        verdicts.drop[:] = "not_retrieved"
        place = images.place[here] - first
        verdicts.drop[place], verdicts.detail[place] = None, details[here]
        verdicts.value[place], verdicts.other[place] = images.similarity[here], images.query[here].astype(str)
        table = with_verdicts(kept(read_table(path)), verdicts)
        name = join(posixpath.dirname(out), f"part-{chunk.first_part + number:05d}.parquet")
        outcomes.append((write_table(name, table), count_drops(table)))
    dropped = sum(drops.get("not_retrieved", 0) for _, drops in outcomes)
    drops = {"not_retrieved": dropped} if dropped else {}
    return Outcome(chunk.num_rows, chunk.num_rows - dropped, drops, [entry for entry, _ in outcomes], facts)


def _sampled(part: CellChunk, hits: Sequence[str]) -> Brought:
    first = part.chunk.first_part
    names = ("row", "rule", "similarity", "query")
    columns, _ = gather_groups(hits, names, first, first + len(part.chunk.tables))
    return Brought(
        columns["row"] - part.chunk.first_row, columns["rule"].astype(np.int64), columns["similarity"], columns["query"]
    )


def _of_clusters(part: CellChunk, clustered: Mapping[int, str], limits: str, counting: str, seed: int) -> list[Brought]:
    """Images whose key is within their cluster's limit, each with the most similar query of the source there."""
    cells, keys = part.cells(), id_keys(part.chunk.ids(), seed=seed)
    pieces = []
    for number, (rule, run) in enumerate(clustered.items()):
        counts, limit = np.asarray(read_array(counting)[number]), np.asarray(read_array(limits)[number])
        places = np.flatnonzero(counts[cells] & (keys <= limit[cells]))
        places = places[np.argsort(cells[places], kind="stable")]
        if len(places) == 0:
            continue
        floats, ends = part.chunk.vectors(places), run_offsets(run, 0, len(counts)).tolist()
        bounds = np.r_[np.flatnonzero(ranks(cells[places]) == 0), len(places)]
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            cell, some = int(cells[places[start]]), places[start:stop]
            asking, ids = (read_rows(f"{run}.{name}.npy", ends[cell], ends[cell + 1]) for name in ("vectors", "ids"))
            order = np.lexsort(tuple(reversed(id_words(ids))))
            near = nearest(asking[order], floats[start:stop], num=1)
            rules = np.full(len(some), rule, dtype=np.int64)
            pieces.append(Brought(some, rules, near.similarity, ids[order][near.rows]))
    return pieces


def _details(by_rule: Brought, images: Brought, names: Sequence[str]) -> npt.NDArray[np.object_]:
    """All rules behind each image, in their order: few combinations, each written once."""
    matrix = np.zeros((len(images.place), len(names)), dtype=bool)
    matrix[np.searchsorted(images.place, by_rule.place), by_rule.rule] = True
    kinds, which = np.unique(matrix, axis=0, return_inverse=True)
    texts = [", ".join(name for name, there in zip(names, kind, strict=True) if there) for kind in kinds]
    return np.array(texts, dtype=object)[which.ravel()] if texts else np.zeros(0, dtype=object)
