"""Pools of several crawls as one: the earlier generations' rows first, then the new ones, without those to be removed.

A later crawl is curated together with what is there already; nothing that was downloaded is downloaded again. Rows are
copied (about 300 bytes each), images stay in the shards of their own generation. Memory: one part's rows.
"""

from collections.abc import Sequence

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import count_drops, kept, read_table, write_table
from tasks.config import StageConfig
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1


class Unite(StageConfig):
    """Nothing to choose: the generations stand in the order of their crawls."""


@stage_task(name="unite", task_run_name="{name}")
def unite(name: str, generations: Sequence[Manifest], layout: Layout) -> Manifest:
    """The kept rows of all generations, part by part, in their order; `name` is the stage's ("pool", "pool_urls").

    United the same way, the pool and the stages that know its history keep their parts side by side. Raises ValueError
    when a generation is not an image table or is named twice.
    """
    references = [manifest.reference for manifest in generations]
    if len(set(references)) != len(references):
        raise ValueError(f"{name}: a generation is named twice: {references}. Name every earlier run once.")
    inputs = {f"generation_{number:04d}": manifest for number, manifest in enumerate(generations)}
    stage = Stage(name, version=VERSION, config=Unite(), inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    parts = [path for manifest in generations for path in manifest.paths(".parquet")]
    facts = {"generations": {manifest.reference: manifest.rows_kept for manifest in generations}}
    return stage.publish(stage.map(copy_part, parts), facts=facts)


def copy_part(part: str, out: str) -> Outcome:
    """The kept rows of one part."""
    table = kept(read_table(part))
    drops = count_drops(table)
    entry = write_table(f"{out}.parquet", table)
    return Outcome(len(table), len(table) - sum(drops.values()), drops, [entry])
