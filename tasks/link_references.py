"""The pairs among benchmarks' images: benchmarks hold copies of one another, and splits of themselves.

One file for every two sets (and for each with itself), named by their content, so that another benchmark adds its own
files and takes over all others. Every pair is compared. Memory of a task: a block of products, 40 bytes per pair.
"""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from storage.filesystem import join
from storage.layout import Layout
from storage.manifest import FileEntry, Manifest, adopt
from storage.vectors import read_array
from tasks.algorithms.cross_join import cross_pairs
from tasks.algorithms.self_join import Edges
from tasks.config import StageConfig
from tasks.graph.files import merge, select, write_edges
from tasks.leaks.references import References, all_names, content_hash, earlier_stages, two_of
from tasks.relative_dedup import RelativeDedup
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
STAGE = "link_references"


class Between(StageConfig):
    """What decides the pairs among references."""

    threshold: Annotated[float, Field(gt=0, lt=1)]
    """Pairs with a cosine above this are kept."""


@dataclass(frozen=True)
class TwoSets:
    """Two sets of references, or one twice: their vectors' files, and the file of an earlier run if there is one."""

    left: Sequence[str]
    right: Sequence[str]
    name: str
    threshold: float
    earlier: tuple[str, FileEntry] | None = None


@stage_task(name=STAGE)
def link_references(
    references: Sequence[Manifest], config: RelativeDedup, layout: Layout, base: Manifest | None = None
) -> Manifest:
    """The stage. `base` is an earlier relative_dedup, whose files are taken over where they are the same: it decides
    nothing but the cost, and is needed only where that run had another root. Raises ValueError when two manifests
    hold one benchmark."""
    between = Between(threshold=config.threshold)
    inputs = {f"references_{number:03d}": one for number, one in enumerate(sorted(references, key=_reference))}
    stage = Stage(STAGE, version=VERSION, config=between, inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    known = [(earlier.directory, entry) for earlier in earlier_stages(STAGE, layout, base) for entry in earlier.files]
    there = {entry.path: (directory, entry) for directory, entry in known}
    sets = sorted((References(one) for one in references), key=lambda one: one.names)
    all_names(sets)
    parts = []
    for left, right in two_of(len(sets)):
        key = content_hash([VERSION, between.threshold, sets[left].key, sets[right].key])[:16]
        name = f"between-{key}.parquet"
        parts.append(TwoSets(sets[left].vectors, sets[right].vectors, name, between.threshold, there.get(name)))
    outcomes = stage.map(link_sets, parts, prefix="between")
    computed = sum(outcome.facts["computed"] for outcome in outcomes)
    return stage.publish(outcomes, facts={"computed": computed, "reused": len(parts) - computed})


def link_sets(part: TwoSets, out: str) -> Outcome:
    """The pairs of two sets; within one, each once."""
    target = join(posixpath.dirname(out), part.name)
    if part.earlier is not None:
        directory, entry = part.earlier
        entries, computed = [adopt(entry, directory, target)], 0
    else:
        entries, computed = [write_edges(target, [_sorted(part)])], 1
    num_rows = sum(len(read_array(path)) for path in part.left) if list(part.left) == list(part.right) else 0
    return Outcome(num_rows, num_rows, files=entries, facts={"computed": computed, "pairs": entries[0].rows})


def _sorted(part: TwoSets) -> Edges:
    found = merge(list(_pairs(part)))
    if list(part.left) == list(part.right):
        found = select(found, found.left < found.right)
    return select(found, np.lexsort((found.right, found.left)))


def _pairs(part: TwoSets) -> Iterator[Edges]:
    left_start = 0
    for left in map(read_array, part.left):
        right_start = 0
        for right in map(read_array, part.right):
            if len(left) and len(right):
                for edges in cross_pairs(left, right, threshold=part.threshold):
                    yield Edges(edges.left + left_start, edges.right + right_start, edges.similarity)
            right_start += len(right)
        left_start += len(left)


def _reference(manifest: Manifest) -> str:
    return manifest.reference
