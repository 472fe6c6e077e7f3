"""No copies of a benchmark: the graph of pool and references together; a component with a reference in it goes, whole.

DINOv2 (arXiv 2304.07193, App. A.3): similarity > 0.45 against train and test splits; images that are linked to a
reference only through other images (or through other references) go too. Pairs within the pool are the copy graph's;
those with each benchmark are stages of their own (`link_benchmark`), so that a further one joins itself alone.
At so low a threshold chains of loosely similar images may tie a large part of the pool to one reference: an alarm
names it, and a cut (by option; the paper has none) keeps what is directly similar to a reference from taking along what
is not similar to anything in particular.
Memory: 13 bytes per image of the pool (1.2 billion: 16 GB; 21 with the cut), 33 per reference, and a batch of a million
rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import count_drops, kept, read_table, write_table
from storage.vectors import read_array, write_array
from tasks.config import StageConfig
from tasks.copy_graph import graph_edges
from tasks.graph.chain_cut import Cut
from tasks.graph.scratch import load_array, sweep
from tasks.leaks.borderline import BORDERLINE, write_borderline
from tasks.leaks.judge import LeakJudge, PartLeaks
from tasks.leaks.links import LinkJoin
from tasks.leaks.references import References, all_names
from tasks.leaks.self_test import LeakTest
from tasks.pool import Verdicts, with_verdicts
from tasks.stage import Outcome, Stage, stage_task

VERSION = 2
IDS, NAMES = "reference-ids.npy", "reference-names.npy"


class RelativeDedup(StageConfig):
    """What counts as a copy of a benchmark's image."""

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.45
    """Two images whose cosine is above this are linked; lower than for copies of each other, to be safe."""
    through_copies: bool = False
    """Whether images that self_dedup dropped still link those that stay: drops more than the paper, which looked at the
    images that were left. Of an image with more than 64 neighbours the copy graph holds these and what keeps its
    components whole: they stay whole with this; without it, what only a dropped copy held together comes apart."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Pairs this far below the threshold are found too: to be looked at, not to be dropped."""
    borderline_pairs: Annotated[int, Field(ge=0)] = 200
    """Pairs nearest to the threshold, of each benchmark and on each side of it, that are kept for inspection."""
    alarm_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """An alarm is raised when one component with a reference in it costs more than this share of the pool's images, and
    more than 100."""
    cut: Cut | None = None
    """A cut against chaining, of what hangs together by pairs within the pool; pairs with references count as they are,
    so that whatever is similar to a reference, or to its copies, goes with and without it. Null keeps components as
    they are, as DINOv2 does."""
    join: LinkJoin = LinkJoin()
    """How pairs with the benchmarks are found."""
    self_test: LeakTest | None = LeakTest()
    """Each benchmark's own images, recompressed, must be found; null leaves the test out."""

    @model_validator(mode="after")
    def _margin_stays_above_zero(self) -> "RelativeDedup":
        if self.margin >= self.threshold:
            raise ValueError(f"margin {self.margin} must be smaller than threshold {self.threshold}")
        return self


@stage_task(name="relative_dedup")
def relative_dedup(
    described: Manifest,
    unique: Manifest,
    graph: Manifest,
    references: Sequence[Manifest],
    links: Sequence[Manifest],
    config: RelativeDedup,
    layout: Layout,
) -> Manifest:
    """Drops the images of `unique` (self_dedup's, of the pool in `described`) that hang together with a reference.

    `graph` is the pool's copy graph; `references` the benchmarks' descriptors, made as the pool's, one manifest for
    each benchmark and split; `links` what `link_benchmark` gave for each of them, and `link_references` for all.
    Raises ThresholdTooLow when the graph was cut above the threshold, NoImages when nothing is left of the pool or a
    benchmark, and ValueError for inputs that do not belong together.
    """
    roles = {"described": described, "unique": unique, "graph": graph}
    roles |= {f"references_{number:03d}": one for number, one in enumerate(sorted(references, key=_reference))}
    roles |= {f"links_{number:03d}": one for number, one in enumerate(sorted(links, key=_reference))}
    stage = Stage("relative_dedup", version=VERSION, config=config, inputs=roles, layout=layout)
    if stage.finished:
        sweep(stage)
        return stage.reuse()
    check_pool(described, unique, graph)
    pairs = partial(graph_edges, graph, config.threshold)
    pairs()  # raises ThresholdTooLow at once
    known = sorted((References(manifest) for manifest in references), key=lambda one: one.names)
    names = all_names(known)
    judge = LeakJudge(
        known,
        unique,
        threshold=config.threshold,
        through_copies=config.through_copies,
        borderline_pairs=config.borderline_pairs,
        cut=config.cut,
        alarm_share=config.alarm_share,
    )
    judge.read(pairs, links, described)
    files = [write_array(stage.path(IDS), judge.ids), write_array(stage.path(NAMES), judge.name_of)]
    where = {"ids": stage.path(IDS), "name_of": stage.path(NAMES)}
    outcomes = stage.map(judge_part, judge.parts(stage), names=names, **where)
    borderline = write_borderline(stage.path(BORDERLINE), judge.borderline, described, judge.ids, names)
    tests = {one.title: judge.links[one.manifest.reference].facts.get("self_test") for one in known}
    facts = {"threshold": config.threshold, "self_test": tests} | judge.facts(names)
    manifest = stage.publish(outcomes, files=[*files, borderline], facts=facts)
    sweep(stage)
    return manifest


def check_pool(described: Manifest, unique: Manifest, graph: Manifest) -> None:
    """Raises ValueError when these are not about one pool."""
    if unique.rows_in != described.rows_kept:
        raise ValueError(
            f"{unique.directory} judges {unique.rows_in} images, "
            f"{described.directory} describes {described.rows_kept}. "
            "Give the descriptors that self_dedup was given."
        )
    if graph.inputs.get("described") != described.reference:
        raise ValueError(
            f"{graph.directory} is the copy graph of {graph.inputs.get('described')}, the pool is "
            f"{described.reference}. Give the copy graph of the same descriptors."
        )


def judge_part(part: PartLeaks, out: str, *, ids: str, name_of: str, names: Sequence[str]) -> Outcome:
    """One part's table: every image that hangs together with a reference dropped, with the reference and how."""
    table, leaks = kept(read_table(part.table)), load_array(part.leaks)
    verdicts = Verdicts.keep(len(table))
    reference_ids, names_of_references = read_array(ids), read_array(name_of)
    low, high = np.searchsorted(leaks["row"], [part.first, part.last])
    for row, reference, direct, similarity in leaks[low:high].tolist():
        place, name = row - part.first, names[names_of_references[reference]]
        verdicts.drop[place], verdicts.other[place] = "benchmark_copy", reference_ids[reference].decode()
        verdicts.detail[place] = f"{name} {'direct' if direct else 'through a chain'}"
        verdicts.value[place] = similarity
    written = with_verdicts(table, verdicts)
    drops = count_drops(written)
    return Outcome(len(table), len(table) - sum(drops.values()), drops, [write_table(f"{out}.parquet", written)])


def _reference(manifest: Manifest) -> str:
    return manifest.reference
