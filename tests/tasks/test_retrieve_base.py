"""An earlier retrieval changes the cost, never the result: grown, shrunk, reordered and changed pools and sources."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.retrieval.base import Tables, match_bucket, moved, stretches_of
from tasks.retrieval.rules import SourceRule
from tasks.retrieval.sorted_runs import runs_of
from tasks.retrieve import Retrieve, retrieve
from tests.tasks.retrieval_world import QUERY, Images, World, images, stored, together
from tests.tasks.vector_stages import image_row, made_stage

EXACT = Retrieve(
    rules=(
        SourceRule(source="birds", modes=("sample", "cluster"), neighbours=3, per_cluster=6),
        SourceRule(source="cars", modes=("sample",), neighbours=9),
    ),
    min_queries=2,
    inspect_queries=4,
    inspect_neighbours=12,
    min_recall=0.0,
    queries_per_task=30,
    images_per_task=150,
)
BY_CELLS = EXACT.model_copy(update={"exact_up_to": 0, "num_probes": 4, "recall_queries": 12})
MORE = images(90, 21, first=5000)


def changed(some: Images, places: list[int]) -> Images:
    """The same ids with other contents, and so other vectors."""
    vectors, contents = some.vectors.copy(), some.contents.copy()
    vectors[places], contents[places] = vectors[places][:, ::-1], contents[places] + 10**6
    return Images(some.numbers, vectors, contents, some.sources)


def without(some: Images, places: list[int]) -> Images:
    return some[np.setdiff1d(np.arange(len(some.numbers)), places)]


def grown(world: World) -> World:
    return replace(world, pool=together(world.pool, MORE))


def shrunk(world: World) -> World:
    return replace(world, pool=without(world.pool, list(range(0, 300, 9))))


def other_images(world: World) -> World:
    return replace(world, pool=changed(world.pool, list(range(0, 300, 25))))


def all_at_once(world: World) -> World:
    pool = together(MORE, changed(without(world.pool, [3, 77, 150]), [10, 200]))
    asking = together(
        changed(without(world.queries, [5, 44]), [1, 60]), images(6, 22, first=QUERY + 300, source="cars")
    )
    return replace(world, pool=pool, queries=asking).reordered(1, part_images=70, part_queries=13)


def unchanged(world: World) -> World:
    return world.reordered(2)


def fresh(tmp_path: Path, world: World) -> World:
    return replace(world, layout=Layout(str(tmp_path / "fresh")))


def same_result(one: Manifest, other: Manifest) -> bool:
    """Every file but those of the measurement of recall, which may be made on fewer queries."""
    files = [{e.path: e.sha256 for e in m.files if not e.path.startswith("truth-")} for m in (one, other)]
    facts = [{name: m.facts[name] for name in ("composition", "as_is", "search")} for m in (one, other)]
    return files[0] == files[1] and facts[0] == facts[1] and one.drops == other.drops


@pytest.mark.parametrize("change", [grown, shrunk, other_images, all_at_once, unchanged])
@pytest.mark.parametrize("config", [EXACT, BY_CELLS], ids=["exact", "by cells"])
def test_the_result_is_that_of_a_run_without_it(
    layout: Layout, tmp_path: Path, change: Callable[[World], World], config: Retrieve
) -> None:
    before = World(layout)
    base, after = before.run(config), change(before)
    manifest, alone = after.run(config, base), fresh(tmp_path, after).run(config)
    assert same_result(manifest, alone)
    assert manifest.facts["base"] == base.reference
    searched = sum(bool(found) for found in stored(alone).values())
    if change in (grown, unchanged):
        assert manifest.facts["reused"] == searched
    else:
        assert 0 < manifest.facts["reused"] < searched


def test_only_new_images_are_read_when_none_has_left(layout: Layout) -> None:
    """The vectors of the earlier pool are gone, and nobody misses them."""
    rule = SourceRule(source="birds", modes=("sample",))
    for config in (EXACT, BY_CELLS):
        config = config.model_copy(
            update={"rules": (*(r for r in config.rules if r.source == "cars"), rule), "min_queries": 99}
        )
        before = World(layout, part_images=100)
        base, after = before.run(config), grown(before)
        embedded, clustered, queries = after.stages()
        kept = [Path(path).read_bytes() for path in embedded.paths(".npy")]
        for path in embedded.paths(".npy")[1:3]:
            Path(path).unlink()
        manifest = retrieve.fn(embedded, clustered, queries, config, layout, base)
        for path, content in zip(embedded.paths(".npy"), kept, strict=True):
            Path(path).write_bytes(content)
        new = {f"{number:024x}" for number in MORE.numbers}
        assert any(image in new for found in stored(manifest).values() for image, _ in found)


def test_recall_is_measured_anew_on_what_is_left_of_the_sample(layout: Layout, tmp_path: Path) -> None:
    before = World(layout)
    base, after = before.run(BY_CELLS), grown(before)
    manifest, alone = after.run(BY_CELLS, base), fresh(tmp_path, after).run(BY_CELLS)
    assert manifest.facts["recall"] == alone.facts["recall"] < 1
    assert manifest.facts["recall_queries"] == 12
    assert stored(manifest, "truth-") == stored(alone, "truth-")


@pytest.mark.parametrize(
    "config",
    [
        BY_CELLS.model_copy(update={"num_probes": 5}),
        EXACT,
        BY_CELLS.model_copy(update={"inspect_neighbours": 40}),
    ],
    ids=["more probes", "exact", "deeper"],
)
def test_neighbours_of_another_search_are_not_taken_over(layout: Layout, tmp_path: Path, config: Retrieve) -> None:
    before = World(layout)
    base, after = before.run(BY_CELLS), grown(before)
    manifest = after.run(config, base)
    assert same_result(manifest, fresh(tmp_path, after).run(config))
    if config.inspect_neighbours == BY_CELLS.inspect_neighbours:
        assert manifest.facts["reused"] == 0
    else:
        assert manifest.facts["reused"] == sum(0 < len(found) < 40 for found in stored(manifest).values())


def test_neighbours_by_other_centroids_are_not_taken_over(layout: Layout, tmp_path: Path) -> None:
    before = World(layout)
    after = replace(grown(before), centroids=before.centroids[::-1].copy())
    manifest = after.run(BY_CELLS, before.run(BY_CELLS))
    assert manifest.facts["reused"] == 0
    assert same_result(manifest, fresh(tmp_path, after).run(BY_CELLS))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_stretches_tell_where_every_image_went(layout: Layout, tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    old = random.permutation(60)
    new = [*old[:20], 100, *old[25:50], *random.permutation(np.r_[old[52:], 101:104]).tolist()]
    sides = []
    for name, numbers in (("old", old), ("new", new)):
        rows = [image_row(int(n), sha256=f"{n * (1 + (n % 7 == 0 and name == 'new')):064x}") for n in numbers]
        parts = [rows[:15], [image_row(999, drop="gone"), *rows[15:]]]
        vectors = [np.zeros((15, 2)), np.zeros((len(numbers) - 15, 2))]
        sides.append(Tables.of(made_stage(layout, name, parts, vectors), "part-", only_kept=True))
    outcome = match_bucket(0, str(tmp_path / "bucket"), old=sides[0], new=sides[1])
    stretches = stretches_of(runs_of(str(tmp_path), [outcome]), sides[0].num_windows)
    places = {int(n): place for place, n in enumerate(new) if n % 7 or n == 0}
    expected = [places.get(int(n), -1) for n in old]
    assert moved(stretches, np.arange(60)).tolist() == expected
    back = moved(stretches, np.arange(len(new)), back=True)
    assert back.tolist() == [expected.index(place) if place in expected else -1 for place in range(len(new))]
    assert len(stretches) < 45
