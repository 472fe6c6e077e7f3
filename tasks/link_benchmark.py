"""One benchmark against the pool: the self-test, then the pairs. A stage of its own for every described set.

Another benchmark, another threshold of self_dedup or another cut leave it as it is; a pool that has grown takes over
the files of the groups that are still the same.
"""

from typing import Annotated, Any

from pydantic import Field

from storage.layout import Layout
from storage.manifest import Manifest
from storage.vectors import Vectors
from tasks.config import StageConfig
from tasks.describe import Describe
from tasks.leaks.links import LinkJoin, check_recall, groups_of, link_group, make_side
from tasks.leaks.references import References, content_hash, earlier_stages
from tasks.leaks.self_test import LeakTest, Recompress, leak_test
from tasks.relative_dedup import RelativeDedup
from tasks.stage import Stage, stage_task

VERSION = 1
STAGE = "link_benchmark"


class Links(StageConfig):
    """What decides the pairs of pool and benchmark, and the self-test."""

    threshold: Annotated[float, Field(gt=0, lt=1)]
    """Pairs with a cosine above this are kept."""
    join: LinkJoin = LinkJoin()
    """How pairs are found."""
    found_above: Annotated[float, Field(gt=0, lt=1)]
    """The self-test finds a copy when its cosine is above this."""
    self_test: LeakTest | None = None
    """The self-test."""


@stage_task(name=STAGE)
def link_benchmark(
    described: Manifest,
    references: Manifest,
    config: RelativeDedup,
    layout: Layout,
    describe: Describe | None = None,
    base: Manifest | None = None,
) -> Manifest:
    """All pairs of the pool in `described` with the images in `references`, by blocks or by cells.

    `describe` is what described them: the self-test needs it. `base` is an earlier relative_dedup, whose links' files
    are taken over where they are the same: it decides nothing but the cost, and is needed only where that run had
    another root. Raises NoImages, LeakTestFailed, LinkRecallTooLow, and ValueError for vectors that were not made as
    the pool's.
    """
    low = round(config.threshold - config.margin, 9)
    decides = Links(threshold=low, join=config.join, found_above=config.threshold, self_test=config.self_test)
    inputs = {"described": described, "references": references}
    stage = Stage(STAGE, version=VERSION, config=decides, inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    known = References(references)
    check_dims(described, known)
    side, files = make_side(stage, known, config.join, threshold=low, num_pool=described.rows_kept)
    facts: dict[str, Any] = {}
    if config.self_test is not None:
        how = Recompress.of(known, describe, layout.root, config.self_test.quality)
        facts["self_test"] = leak_test(stage, known, config.self_test, side=side, threshold=config.threshold, how=how)
    key = content_hash([VERSION, known.key, low, config.join.deciding(), side.by_cells])
    groups = groups_of(described, key, side.slugs, earlier_stages(STAGE, layout, base))
    outcomes = stage.map(link_group, groups, prefix="group", side=side)
    computed = sum(outcome.facts["computed"] for outcome in outcomes)
    pairs = {name: sum(one.files[number].rows for one in outcomes) for number, name in enumerate(known.names)}
    facts |= check_recall(outcomes, side, config.join, known.title)
    facts |= {"computed": computed, "reused": len(groups) - computed, "pairs": pairs}
    return stage.publish(outcomes, files=files, facts=facts)


def check_dims(described: Manifest, references: References) -> None:
    """Raises ValueError when pool and references were not described alike."""
    dims = [Vectors(paths).shape[1] for paths in (described.paths(".npy"), references.vectors)]
    if dims[0] != dims[1]:
        raise ValueError(
            f"the pool's vectors have {dims[0]} dimensions, those of benchmark {references.title} {dims[1]}: to be "
            "compared, both must be described by one encoder and one whitening (describe's `fitted`)."
        )
