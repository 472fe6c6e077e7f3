"""No copies of each other: the copy graph's edges above a threshold, their components, one keeper of each.

DINOv2 (arXiv 2304.07193, App. A.3): similarity > 0.6, components by a disjoint-set structure, one representative.
Memory of the flow: 8 bytes per image (4 of them the disjoint sets; 16 from 2**31 images on) and a batch of 2**20
images: 10 GB at 1.2 billion. What there is to say of images that have a copy goes through files and tasks
(`graph.keepers`), of 0.5 GB at most. Edges are read twice, never held.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import count_drops, kept, read_table, write_table
from tasks.algorithms.components import Components, Integers, component_sizes, size_histogram
from tasks.algorithms.groups import raise_to, size_table
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig
from tasks.graph.chain_cut import Cut, cut_chains
from tasks.graph.edges import graph_edges
from tasks.graph.keeper_rule import Keeper
from tasks.graph.keepers import Verdict, find_keepers, write_members, write_values
from tasks.graph.recall import RecallTooLow
from tasks.graph.rows import PoolFiles, Span
from tasks.graph.scratch import load_array, sweep
from tasks.pool import Pool, Verdicts, with_verdicts
from tasks.progress import run_logger
from tasks.stage import Outcome, Stage, stage_task

__all__ = ["Cut", "Keeper", "RecallTooLow", "SelfDedup", "self_dedup"]

VERSION = 2
GROUP = "group"
_BATCH_ROWS, _RANGE_ROWS = 1 << 20, 1 << 22


class SelfDedup(StageConfig):
    """What counts as a copy, and which of several copies stays."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Two images whose cosine is above this are copies; so are images joined by a chain of such pairs."""
    keeper: Keeper = "largest"
    """Which image of a component stays: the most pixels, the first crawled, the best quality (pixels, less where
    an image has few bits for each), or the smallest id; ties by id."""
    cut: Cut | None = None
    """A cut against chaining; null keeps components as they are, as DINOv2 does."""
    max_component: Annotated[int, Field(ge=2)] = 1_000
    """An alarm is raised for components of more images than this."""


@stage_task(name="self_dedup")
def self_dedup(described: Manifest, graph: Manifest, config: SelfDedup, layout: Layout) -> Manifest:
    """One keeper per component; every other image is dropped as `copy` of it, with its largest similarity.

    Every image that is in a group, kept or not, has the group's name in column `group`: the id of its first image.
    Raises NoImages for an empty pool, ThresholdTooLow when the graph holds only more similar pairs, ValueError for the
    graph of another pool.
    """
    pool = Pool(described)
    check_graph(described, graph)
    inputs = {"described": described, "graph": graph}
    stage = Stage("self_dedup", version=VERSION, config=config, inputs=inputs, layout=layout)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    files = PoolFiles(described)
    edges = partial(graph_edges, graph, config.threshold)
    labels, num_edges = components(edges, files.num_rows)
    facts: dict[str, Any] = {"threshold": config.threshold, "edges": num_edges}
    if config.cut is not None:
        labels, facts["cut"] = cut_chains(config.cut, config.threshold, labels, edges, pool.vectors)
    batches = files.batches(_BATCH_ROWS)
    members, values, sizes = grouped(stage, batches, labels, edges)
    del labels
    facts |= size_facts(sizes, config.max_component)
    verdicts = find_keepers(stage, batches, members, values, keeper=config.keeper, range_rows=_RANGE_ROWS)
    outcomes = stage.map(judge_part, parts_of(batches, verdicts))
    manifest = stage.publish(outcomes, facts=facts)
    sweep(stage)
    return manifest


def check_graph(described: Manifest, graph: Manifest) -> None:
    """Raises ValueError when the graph's rows are another pool's."""
    if graph.inputs.get("described") != described.reference:
        raise ValueError(
            f"{graph.directory} is the graph of {graph.inputs.get('described')}, not of {described.directory}. "
            "Give the descriptors that copy_graph was given."
        )


def components(edges: Callable[[], Iterator[Edges]], num_rows: int) -> tuple[Integers, int]:
    """Labels of the components that edges make of a pool's rows, and how many edges there are."""
    forest, num_edges = Components(num_rows), 0
    for block in edges():
        forest.add(block.left, block.right)
        num_edges += len(block.left)
    return forest.labels(), num_edges


def grouped(
    stage: Stage, batches: Sequence[Span], labels: Integers, edges: Callable[[], Iterator[Edges]]
) -> tuple[list[str], list[str], dict[int, int]]:
    """Files of the rows in groups and of their largest similarities (see `graph.keepers`), and how many components
    there are of each size. Memory beside `labels`: 4 bytes per row (8 from 2**31 on) and a batch."""
    sizes = component_sizes(labels)
    histogram = size_histogram(sizes)
    members = write_members(stage, batches, labels, sizes)
    del sizes
    best = np.zeros(len(labels), dtype=np.float32)
    for block in edges():
        raise_to(best, labels, block.left, block.right, block.similarity)
    return members, write_values(members, best), histogram


def size_facts(histogram: dict[int, int], max_component: int) -> dict[str, Any]:
    """The histogram of components by size, and an alarm, logged too, when one is larger than `max_component`."""
    largest = max(histogram, default=0)
    facts: dict[str, Any] = {"component_sizes": size_table(histogram), "largest_component": largest}
    if largest > max_component:
        count = sum(number for size, number in histogram.items() if size > max_component)
        facts["alarm"] = (
            f"{count} components of more than {max_component} images, the largest of {largest}: one image of each is "
            "kept. Look at them; unrelated images may hang together by chains: raise self_dedup.threshold or set "
            "self_dedup.cut."
        )
        run_logger().warning(f"self_dedup: {facts['alarm']}")
    return facts


def parts_of(batches: Sequence[Span], verdicts: Sequence[str]) -> list[tuple[str, int, str]]:
    """Every part's path, its first row and the file of its batch's verdicts."""
    return [
        (part, start, path)
        for batch, path in zip(batches, verdicts, strict=True)
        for part, start in zip(batch.parts, batch.starts, strict=True)
    ]


def judge_part(part: tuple[str, int, str], out: str) -> Outcome:
    """One part's table: copies dropped, and the groups of all its images that are in one."""
    path, start, verdicts_path = part
    table, found = kept(read_table(f"{path}.parquet")), load_array(verdicts_path)
    low, high = np.searchsorted(found["row"], [start, start + len(table)])
    mine = found[low:high]
    verdicts, group = Verdicts.keep(len(table)), np.full(len(table), None, dtype=object)
    for row, copy, value, other, name in map(Verdict._make, mine.tolist()):
        group[row - start] = name.decode()
        if copy:
            verdicts.drop[row - start], verdicts.other[row - start] = "copy", other.decode()
            verdicts.value[row - start] = value if value > 0 else np.nan
    written = _with_group(with_verdicts(table, verdicts), pa.array(group.tolist(), pa.string()))
    drops = count_drops(written)
    return Outcome(len(table), len(table) - sum(drops.values()), drops, [write_table(f"{out}.parquet", written)])


def _with_group(table: pa.Table, group: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(GROUP)
    return table.append_column(GROUP, group) if place < 0 else table.set_column(place, GROUP, group)
