"""A distributed retrieval is the slow loop's, whatever the parts, tasks, workers and order, killed or not."""

import numpy as np
import pytest

import tasks.retrieval.steps
from storage.filesystem import file_sizes
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.retrieval.rules import SourceRule
from tasks.retrieve import NeighboursMissed, Retrieve, retrieve
from tasks.stage import PartsFailed
from tasks.workers import Workers, workers
from tests.tasks.retrieval_world import Truth, World, brought, stored, tables

RULES = (
    SourceRule(source="birds", modes=("as_is", "sample", "cluster"), neighbours=3, per_cluster=6),
    SourceRule(source="cars", modes=("sample",), neighbours=9),
    SourceRule(source="dogs", modes=("cluster", "sample"), per_cluster=11, cap=23),
)
CONFIG = Retrieve(
    rules=RULES, min_queries=2, inspect_queries=5, inspect_neighbours=12, inspect_members=4, min_recall=0.0, seed=3
)
BY_CELLS = CONFIG.model_copy(update={"exact_up_to": 0, "num_probes": 3, "recall_queries": 10})


@pytest.mark.parametrize(("config", "seed"), [(CONFIG, 1), (BY_CELLS, 2)], ids=["exact", "by cells"])
def test_verdicts_counts_and_neighbours_are_those_of_the_slow_loop(layout: Layout, config: Retrieve, seed: int) -> None:
    config = config.model_copy(update={"seed": seed, "images_per_task": 70, "queries_per_task": 30})
    world = World(layout, part_images=33, part_queries=11)
    truth, manifest = Truth(world, config), world.run(config)
    expected = truth.brought()
    assert brought(manifest) == expected
    assert manifest.rows_kept == len(expected)
    rows = {f"{row['source']}:{row['mode']}": row for row in manifest.facts["composition"]}
    for mode in truth.modes:
        if mode.mode != "as_is":
            row, mine = (
                rows[mode.name],
                [detail for _, detail, _ in expected.values() if mode.name in detail.split(", ")],
            )
            assert row["actual"] == truth.actual[mode.name]
            assert row["final"] == len(mine)
            assert row["shared"] == sum(not detail.startswith(mode.name) for detail in mine)
            assert row["collisions"] == row["actual"] - row["unique"]
            assert row["unique"] == (row["actual"] if mode.mode == "cluster" else len(mine))
    assert rows["total:"]["final"] == len(expected) + 40
    assert rows["dogs:cluster"]["final"] == 23 < rows["dogs:cluster"]["actual"]
    found = stored(manifest)
    depths = {
        q: d
        for t in tables(manifest, "queries-")
        for q, d in zip(t["query_id"].to_pylist(), t["depth"].to_pylist(), strict=True)
    }
    for place, number in enumerate(world.queries.numbers):
        query = f"{number:024x}"
        near = truth.neighbours(place, depths[query], exact=truth.exact)
        assert [image for image, _ in found[query]] == [f"{world.pool.numbers[row]:024x}" for row in near]
    assert sorted(depths.values()).count(12) == 15  # five drawn queries of each source, deeper than any N here
    assert set(depths.values()) == {12, 3, 9, 4}


@pytest.mark.parametrize("config", [CONFIG, BY_CELLS], ids=["exact", "by cells"])
def test_sizes_of_parts_and_tasks_and_the_order_of_images_and_queries_change_no_image(
    layout: Layout, config: Retrieve
) -> None:
    first = World(layout).run(config)
    cuts = [(23, 11, 50, 30), (110, 40, 1, 1)]
    for seed, (part_images, part_queries, images, queries) in enumerate(cuts):
        world = World(layout).reordered(seed, part_images=part_images, part_queries=part_queries)
        again = world.run(config.model_copy(update={"images_per_task": images, "queries_per_task": queries}))
        assert brought(again) == brought(first)
        assert stored(again) == stored(first)
        assert again.facts["composition"] == first.facts["composition"]
        assert again.facts["recall"] == first.facts["recall"]


def test_recall_is_that_of_the_slow_loop_on_the_sample(layout: Layout) -> None:
    config = BY_CELLS.model_copy(update={"num_probes": 1, "recall_queries": 10_000})
    world = World(layout)
    truth, manifest = Truth(world, config), world.run(config)
    depths = {"birds": 3, "cars": 9, "dogs": 4}
    found = true = 0
    drawn = {
        q
        for t in tables(manifest, "queries-")
        for q, i in zip(t["query"].to_pylist(), t["inspect"].to_pylist(), strict=True)
        if i
    }
    for place, source in enumerate(world.queries.sources.tolist()):
        depth = 12 if place in drawn else depths[source]
        exact = set(truth.neighbours(place, depth, exact=True))
        found += len(exact & set(truth.neighbours(place, depth, exact=False)))
        true += len(exact)
    assert 0.2 < manifest.facts["recall"] < 1
    assert manifest.facts["recall"] == round(found / true, 6)
    assert manifest.facts["recall_queries"] == 74


def test_a_recall_below_the_floor_ends_the_run_and_a_lower_floor_computes_nothing_anew(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BY_CELLS.model_copy(update={"num_probes": 1, "min_recall": 1.0})
    world = World(layout)
    with pytest.raises(NeighboursMissed, match=r"in 1 clusters, less than retrieve.min_recall = 1.0. Raise"):
        world.run(config)
    for name in ("search_cells", "scan", "merge_block"):
        monkeypatch.setattr(tasks.retrieval.steps, name, None)  # a call of it would fail
    manifest = world.run(config.model_copy(update={"min_recall": 0.1}))
    with pytest.raises(NeighboursMissed):
        world.run(config)  # finished by now, and still below this floor
    assert world.run(config.model_copy(update={"min_recall": 0.2})) == manifest


@pytest.mark.parametrize("step", ["sort_by_cell", "merge_block"])
def test_a_run_killed_at_any_step_and_run_again_ends_in_the_same_bytes(
    layout: Layout, step: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = BY_CELLS.model_copy(update={"images_per_task": 50, "queries_per_task": 20})
    undisturbed = World(Layout(str(tmp_path_factory.mktemp("other")))).run(config)
    function, calls = getattr(tasks.retrieval.steps, step), []

    def dies(*arguments: object, **more: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("killed")
        return function(*arguments, **more)

    monkeypatch.setattr(tasks.retrieval.steps, step, dies)
    with pytest.raises(PartsFailed, match="killed"):
        World(layout).run(config)
    assert contents(World(layout).run(config)) == contents(undisturbed)


def test_workers_end_in_the_same_bytes_and_leave_no_scratch(
    layout: Layout, tmp_path_factory: pytest.TempPathFactory, two_processes: Workers
) -> None:
    config = BY_CELLS.model_copy(update={"images_per_task": 50, "queries_per_task": 20})
    alone = World(Layout(str(tmp_path_factory.mktemp("other")))).run(config)
    with workers(two_processes):
        shared = World(layout).run(config)
    assert contents(shared) == contents(alone)
    assert set(file_sizes(shared.directory)) == {entry.path for entry in shared.files} | {
        "manifest.json",
        "timing.json",
    }


def test_members_are_the_first_that_a_cluster_gives(layout: Layout) -> None:
    world = World(layout)
    manifest = world.run(CONFIG.model_copy(update={"inspect_members": 1000}))
    (members,) = tables(manifest, "members")
    (clusters,) = tables(manifest, "clusters")
    counting = {row["cluster"] for row in clusters.to_pylist() if row["counts"] and row["source"] != "cars"}
    assert {row["cluster"] for row in members.to_pylist()} == counting
    for row in clusters.to_pylist():
        assert row["images"] == (world.clusters_of(world.pool.vectors) == row["cluster"]).sum()
    taken = {n for n, (_, detail, _) in brought(manifest).items() if "birds:cluster" in detail}
    birds = {row["cluster"] for row in clusters.to_pylist() if row["counts"] and row["source"] == "birds"}
    first = {int(world.pool.numbers[r["row"]]) for r in members.to_pylist() if r["rank"] < 6 and r["cluster"] in birds}
    assert taken == first


def contents(manifest: Manifest) -> dict[str, str]:
    """{file: checksum}"""
    return {entry.path: entry.sha256 for entry in manifest.files}


@pytest.mark.parametrize("exact_up_to", [0, 10**6])
def test_sources_that_are_only_taken_as_they_are_bring_nothing_and_are_counted(
    layout: Layout, exact_up_to: int
) -> None:
    rules = tuple(SourceRule(source=name, modes=("as_is",)) for name in ("birds", "cars", "dogs"))
    manifest = World(layout).run(Retrieve(rules=rules, inspect_queries=0, exact_up_to=exact_up_to))
    assert manifest.rows_kept == 0
    assert [row["final"] for row in manifest.facts["composition"]] == [40, 9, 25, 74]
    assert manifest.facts["as_is"] == ["birds", "cars", "dogs"]
    assert stored(manifest) == {f"{number:024x}": [] for number in World(layout).queries.numbers}
    assert (manifest.facts["recall"], manifest.facts["recall_queries"]) == (1.0, 0)


def test_clusters_of_another_pool_and_vectors_of_another_encoder_are_refused(layout: Layout) -> None:
    world = World(layout)
    embedded, _, queries = world.stages()
    smaller = World(layout, pool=world.pool[:100]).stages()[1]
    with pytest.raises(ValueError, match=r"has clusters of 100 images, the pool has 300"):
        retrieve.fn(embedded, smaller, queries, CONFIG, layout)
    narrow = World(layout, centroids=world.centroids[:, :8].copy())
    with pytest.raises(ValueError, match=r"the pool 12, the sources 12, the centroids 8. Embed all"):
        retrieve.fn(embedded, narrow.clustered(embedded, np.zeros(300)), queries, CONFIG, layout)
