"""The two ways to curate as one set: what the curated sources brought in, and the balanced sample of the pool itself.

DINOv3 (arXiv 2508.10104, section 3.1) trains on such a mix, which beat either part in its ablation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import count_drops, read_table, write_table
from tasks.config import StageConfig
from tasks.retrieval.rules import with_total
from tasks.retrieve import write_composition
from tasks.stage import Outcome, Stage, stage_task

VERSION = 1
NOT_CHOSEN = "not_chosen"


class Compose(StageConfig):
    """The union of both ways leaves nothing to decide."""


class OtherPool(ValueError):
    """Verdicts that are to be united are about different images."""


@stage_task(name="compose")
def compose(chosen: Manifest, balanced: Manifest, layout: Layout) -> Manifest:
    """Keeps every image that retrieval (`chosen`) or balanced sampling keeps, once; `detail` names both ways.

    Both have a row per image of one pool, in the same parts. `value` and `other` are retrieval's where it chose. facts:
    `composition` and `as_is` as retrieval's, with a row for the balanced sample; `both`: images that both chose.
    Raises OtherPool when the tables are of different images. Memory: two tables at a time.
    """
    inputs = {"chosen": chosen, "balanced": balanced}
    stage = Stage("compose", version=VERSION, config=Compose(), inputs=inputs, layout=layout)
    if stage.finished:
        return stage.reuse()
    retrieved, sampled = chosen.paths(".parquet"), balanced.paths(".parquet")
    if len(retrieved) != len(sampled):
        raise OtherPool(f"{chosen.directory} has {len(retrieved)} parts, {balanced.directory} has {len(sampled)}.")
    outcomes = stage.map(compose_part, list(zip(retrieved, sampled, strict=True)))
    both = sum(outcome.facts["both"] for outcome in outcomes)
    rows_kept = sum(outcome.rows_kept for outcome in outcomes)
    composition = composed(chosen.facts["composition"], balanced, rows_kept=rows_kept, both=both)
    facts = {"composition": composition, "as_is": chosen.facts["as_is"]}
    return stage.publish(outcomes, files=write_composition(stage, composition), facts=facts)


def composed(
    rows: Sequence[Mapping[str, Any]], balanced: Manifest, *, rows_kept: int, both: int
) -> list[dict[str, Any]]:
    """Retrieval's table with a row for the balanced sample above the total; nominal: the sample's target."""
    kept, target = balanced.rows_kept, balanced.facts.get("target", balanced.rows_kept)
    counts = dict.fromkeys(("actual", "unique", "final"), kept) | {"retrieved": target, "nominal_final": target}
    sample = {
        "source": "pool",
        "mode": "balanced",
        "images": balanced.rows_in,
        **counts,
        "collisions": 0,
        "shared": both,
    }
    own = [row for row in rows if row["mode"]]
    curated = sum(row["final"] for row in own if row["mode"] == "as_is")
    images = next(row["images"] for row in rows if not row["mode"])
    ordered = {name: sample[name] for name in own[0]} if own else sample
    return with_total([*own, ordered], images=images, final=rows_kept + curated)


def compose_part(part: tuple[str, str], out: str) -> Outcome:
    """The rows of one part with the verdict of both ways. Raises OtherPool."""
    table, other = read_table(part[0]), read_table(part[1], ["id", "drop", "detail", "value", "other"])
    if not table["id"].equals(other["id"]):
        raise OtherPool(f"{part[0]} and {part[1]} are not about the same images in the same order.")
    retrieved, sampled = pc.is_null(table["drop"]), pc.is_null(other["drop"])
    both = pc.and_(retrieved, sampled)
    joined = pc.binary_join_element_wise(table["detail"], other["detail"], ", ")
    nothing = pa.scalar(None, pa.string())
    columns = {
        "drop": pc.if_else(pc.or_(retrieved, sampled), nothing, NOT_CHOSEN),
        "detail": pc.case_when(
            pc.make_struct(both, retrieved, sampled), joined, table["detail"], other["detail"], nothing
        ),
    }
    for name in ("value", "other"):
        missing = pa.scalar(None, table.schema.field(name).type)
        columns[name] = pc.case_when(pc.make_struct(retrieved, sampled), table[name], other[name], missing)
    for name, column in columns.items():
        field = table.schema.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, column.cast(field.type))
    drops = count_drops(table)
    entry = write_table(f"{out}.parquet", table)
    facts = {"both": int(np.count_nonzero(both.to_numpy(zero_copy_only=False)))}
    return Outcome(len(table), len(table) - sum(drops.values()), drops, [entry], facts)
