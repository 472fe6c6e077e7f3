"""No copies of a benchmark: the graph of pool and references together; a component with a reference in it goes, whole.

DINOv2 (arXiv 2304.07193, App. A.3): similarity > 0.45 against train and test splits; images that are linked to a
reference only through other images go too. Memory: as `self_dedup`, and 12 bytes per image.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.algorithms.blocks import Concatenated, Selected
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig
from tasks.pool import NoImages, Pool, Verdicts, write_verdicts
from tasks.self_dedup import EDGES, Graph, Join, find_pairs, store_edges
from tasks.stage import Stage, stage_task

VERSION = 1
_BORDERLINE = 0.05


class RelativeDedup(StageConfig):
    """What counts as a copy of a benchmark's image."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Two images whose cosine is above this are linked; lower than for copies of each other, to be safe."""
    join: Join = Join()
    """How pairs are found."""


@stage_task(name="relative_dedup")
def relative_dedup(
    described: Manifest, unique: Manifest, references: Manifest, config: RelativeDedup, layout: Layout
) -> Manifest:
    """Drops the images of `unique` (self_dedup's, of the pool in `described`) that hang together with a reference.

    `references` are the benchmarks' descriptors, made as the pool's. Raises NoImages when either side is empty and
    ValueError when their dimensions differ.
    """
    inputs = {"described": described, "unique": unique, "references": references}
    stage = Stage("relative_dedup", version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    if unique.rows_in != described.rows_kept:
        raise ValueError(
            f"{unique.directory} judges {unique.rows_in} images, "
            f"{described.directory} describes {described.rows_kept}. "
            "Give the descriptors that self_dedup was given."
        )
    rows = kept_rows(unique)
    known = Pool(references)
    vectors = Concatenated([Selected(Pool(described).vectors, rows), known.vectors])
    graph, links = Graph.of(vectors.shape[0]), Links.between(len(rows), len(known.ids))
    joined = find_pairs(vectors, config.threshold, config.join)
    entry = store_edges(stage.path(EDGES), links.watch(graph.watch(joined.edges)))
    names = [f"{source}/{split}" for source, split in zip(known.strings("source"), known.strings("split"), strict=True)]
    verdicts = judge(graph, links, known.ids, names)
    outcomes = write_verdicts(stage, unique, verdicts)
    facts = joined.facts | {"threshold": config.threshold, "edges": graph.num_edges, "references": len(known.ids)}
    facts |= benchmark_facts(verdicts, links, names, config.threshold)
    return stage.publish(outcomes, files=[entry], facts=facts)


def kept_rows(unique: Manifest) -> npt.NDArray[np.int64]:
    """Which rows of the pool self_dedup kept: it has one row for each, in the pool's order. Raises NoImages."""
    flags = [read_table(path, ["drop"])["drop"].is_null().to_numpy() for path in unique.paths(".parquet")]
    rows = np.flatnonzero(np.concatenate(flags)) if flags else np.zeros(0, dtype=np.int64)
    if len(rows) == 0:
        raise NoImages(f"no image is left of stage {unique.stage} in {unique.directory}. Give the run more images.")
    return rows


class Links:
    """Of the edges between the pool (rows before `num_pool`) and the references: each row's most similar one."""

    def __init__(self, num_pool: int, best: npt.NDArray[np.float32], other: npt.NDArray[np.int64]) -> None:
        self.num_pool, self.best, self.other = num_pool, best, other

    @classmethod
    def between(cls, num_pool: int, num_references: int) -> "Links":
        """No links yet."""
        num_rows = num_pool + num_references
        return cls(num_pool, np.zeros(num_rows, np.float32), np.full(num_rows, -1, np.int64))

    def watch(self, edges: Iterator[Edges]) -> Iterator[Edges]:
        """The same edges, those from the pool to a reference taken account of. Equal ones: the smaller row stays."""
        for block in edges:
            across = (block.left < self.num_pool) & (block.right >= self.num_pool)
            ends = [side[across] for side in (block.left, block.right)]
            for rows, others in (ends, ends[::-1]):
                self._improve(rows, others, block.similarity[across])
            yield block

    def _improve(
        self, rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32]
    ) -> None:
        order = np.lexsort((others, -similarity, rows))
        rows, others, similarity = rows[order], others[order], similarity[order]
        first = np.r_[True, rows[1:] != rows[:-1]][: len(rows)]
        rows, others, similarity = rows[first], others[first], similarity[first]
        better = (similarity > self.best[rows]) | ((similarity == self.best[rows]) & (others < self.other[rows]))
        self.best[rows[better]], self.other[rows[better]] = similarity[better], others[better]


def judge(graph: Graph, links: Links, reference_ids: npt.NDArray[np.bytes_], names: list[str]) -> Verdicts:
    """Every pool row whose component holds a reference is dropped, with the reference and how it hangs on it."""
    labels, num_pool = graph.components.labels(), links.num_pool
    reference_of = np.full(len(labels), -1, dtype=np.int64)
    last_to_first = np.arange(len(labels) - 1, num_pool - 1, -1)
    reference_of[labels[last_to_first]] = last_to_first  # the first reference of a component stands for it
    verdicts = Verdicts.keep(num_pool)
    for row in np.flatnonzero(reference_of[labels[:num_pool]] >= 0):
        direct = links.other[row] >= 0
        reference = (links.other[row] if direct else reference_of[labels[row]]) - num_pool
        verdicts.drop[row], verdicts.other[row] = "benchmark_copy", reference_ids[reference].decode()
        verdicts.detail[row] = f"{names[reference]} {'direct' if direct else 'through a chain'}"
        verdicts.value[row] = links.best[row] if direct else graph.best[row]
    return verdicts


def benchmark_facts(verdicts: Verdicts, links: Links, names: list[str], threshold: float) -> dict[str, Any]:
    """By benchmark and split: its images, those with a copy in the pool, pool images dropped, and close calls."""
    dropped = Counter(str(detail) for detail in verdicts.detail if detail is not None)
    touched = Counter(name for name, other in zip(names, links.other[links.num_pool :], strict=True) if other >= 0)
    close = links.best[: links.num_pool]
    return {
        "benchmarks": {
            name: {
                "images": count,
                "touched": touched[name],
                "dropped_direct": dropped[f"{name} direct"],
                "dropped_through_a_chain": dropped[f"{name} through a chain"],
            }
            for name, count in sorted(Counter(names).items())
        },
        "borderline": int(((close > threshold) & (close < threshold + _BORDERLINE)).sum()),
    }
