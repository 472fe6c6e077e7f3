"""The set of both ways holds every image that either chose, once, and says how it came in."""

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks.compose import OtherPool, compose
from tasks.retrieval.rules import SourceRule
from tasks.retrieve import Retrieve
from tasks.stage import PartsFailed
from tests.tasks.retrieval_world import World, brought
from tests.tasks.vector_stages import image_row, made_stage, rows_of

CONFIG = Retrieve(
    rules=(
        SourceRule(source="birds", modes=("as_is", "sample")),
        SourceRule(source="cars", modes=("as_is",)),
        SourceRule(source="dogs", modes=("cluster",), per_cluster=9),
    ),
    min_queries=2,
)


def sampled(layout: Layout, world: World, chosen: set[int]) -> Manifest:
    """Verdicts as balanced sampling leaves them, in the parts of the world's pool."""
    rows = [
        image_row(int(n), **({"detail": "balanced", "value": 0.5} if n in chosen else {"drop": "not_sampled"}))
        for n in world.pool.numbers
    ]
    size = world.part_images
    return made_stage(
        layout, "hierarchy", [rows[start : start + size] for start in range(0, len(rows), size)], target=120
    )


@pytest.fixture
def world(layout: Layout) -> World:
    return World(layout)


def test_every_image_that_either_way_chose_is_kept_once_with_both_named(layout: Layout, world: World) -> None:
    retrieved = world.run(CONFIG)
    own = brought(retrieved)
    balanced = {int(n) for n in world.pool.numbers[::3]}
    manifest = compose.fn(retrieved, sampled(layout, world, balanced), layout)
    rows = {int(row["id"], 16): row for row in rows_of(manifest)}
    assert len(rows) == len(rows_of(manifest)) == 300
    assert {number for number, row in rows.items() if row["drop"] is None} == own.keys() | balanced
    assert {row["drop"] for row in rows.values()} == {None, "not_chosen"}
    assert own.keys() & balanced
    assert own.keys() - balanced
    for number, row in rows.items():
        query, detail, similarity = own.get(number, (None, None, None))
        ways = [str(detail)] * (number in own) + ["balanced"] * (number in balanced)
        assert row["detail"] == (", ".join(ways) or None)
        assert row["other"] == (None if query is None else f"{query:024x}")
        assert row["value"] == (similarity if number in own else 0.5 if number in balanced else None)
    assert manifest.rows_kept == len(own.keys() | balanced)
    assert manifest.drops == {"not_chosen": 300 - manifest.rows_kept}


def test_the_composition_has_a_row_for_the_balanced_sample_and_its_total_counts_every_image_once(
    layout: Layout, world: World
) -> None:
    retrieved = world.run(CONFIG)
    balanced = {int(n) for n in world.pool.numbers[::3]}
    manifest = compose.fn(retrieved, sampled(layout, world, balanced), layout)
    *rows, sample, total = manifest.facts["composition"]
    assert rows == retrieved.facts["composition"][:-1]
    assert sample == {
        "source": "pool", "mode": "balanced", "images": 300, "retrieved": 120, "nominal_final": 120, "actual": 100,
        "unique": 100, "collisions": 0, "final": 100, "shared": len(brought(retrieved).keys() & balanced),
    }  # fmt: skip
    assert total["final"] == manifest.rows_kept + 40 + 9
    assert total["nominal_final"] == sum(row["nominal_final"] for row in [*rows, sample])
    assert total["images"] == 74
    assert manifest.facts["as_is"] == ["birds", "cars"]
    assert read_table(manifest.file("composition.parquet")).to_pylist() == manifest.facts["composition"]


def test_one_way_that_chose_nothing_leaves_the_other(layout: Layout, world: World) -> None:
    retrieved = world.run(CONFIG)
    manifest = compose.fn(retrieved, sampled(layout, world, set()), layout)
    assert brought(retrieved) == {
        number: (int(row["other"], 16), row["detail"], row["value"])
        for row in rows_of(manifest)
        if row["drop"] is None and (number := int(row["id"], 16)) >= 0
    }


def test_verdicts_of_another_pool_are_refused(layout: Layout, world: World) -> None:
    retrieved = world.run(CONFIG)
    other = World(layout, pool=world.pool[np.random.default_rng(0).permutation(300)])
    with pytest.raises(PartsFailed, match="not about the same images") as failure:
        compose.fn(retrieved, sampled(layout, other, set()), layout)
    assert isinstance(failure.value.__cause__.__cause__, OtherPool)  # type: ignore[union-attr]
    with pytest.raises(OtherPool, match=r"4 parts, .* has 10"):
        compose.fn(retrieved, sampled(layout, World(layout, part_images=30), set()), layout)


def test_a_second_run_takes_what_is_there(layout: Layout, world: World) -> None:
    retrieved, balanced = world.run(CONFIG), sampled(layout, world, {3, 5})
    assert compose.fn(retrieved, balanced, layout) == compose.fn(retrieved, balanced, layout)
