"""Each source brings the images its rule says, counted as the paper counts and as they are; each knows its query."""

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.cluster import Cluster, cluster
from tasks.pool import NoImages
from tasks.retrieve import Retrieve, SourceRule, UnknownSource, retrieve
from tests.tasks.vector_stages import image_row, made_stage, rows_of, unit

DIM = 12


def scattered(axis: int, count: int, seed: int) -> np.ndarray:
    """Unit vectors around one axis."""
    return unit(np.eye(DIM)[axis] + 0.1 * np.random.default_rng(seed).normal(size=(count, DIM)))


class World:
    """40 images around each of four axes; `birds` has 5 queries at axis 0 and 2 at axis 1, `cars` 30 at axis 2."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.vectors = np.concatenate([scattered(axis, 40, axis) for axis in range(4)])
        rows = [image_row(number) for number in range(160)]
        self.embedded = made_stage(layout, "embed", [rows[:70], rows[70:]], [self.vectors[:70], self.vectors[70:]])
        self.clustered = cluster.fn(self.embedded, Cluster(num_clusters=4), layout)
        self.query_vectors = np.concatenate([scattered(0, 5, 10), scattered(1, 2, 11), scattered(2, 30, 12)])
        sources = ["birds"] * 7 + ["cars"] * 30
        asked = [image_row(1000 + number, source=source) for number, source in enumerate(sources)]
        self.queries = made_stage(layout, "embed_sources", [asked], [self.query_vectors])

    def run(self, config: Retrieve) -> Manifest:
        return retrieve.fn(self.embedded, self.clustered, self.queries, config, self.layout)


@pytest.fixture
def world(layout: Layout) -> World:
    return World(layout)


def brought(manifest: Manifest) -> dict[int, tuple[int, str, float]]:
    """{image: (query, detail, similarity)} of the kept images."""
    rows = rows_of(manifest)
    assert {row["drop"] for row in rows} <= {None, "not_retrieved"}
    return {
        int(row["id"], 16): (int(row["other"], 16), row["detail"], row["value"]) for row in rows if row["drop"] is None
    }


def only(source: str, *modes: str, **numbers: int) -> SourceRule:
    return SourceRule.model_validate({"source": source, "modes": modes, **numbers})


def test_sample_brings_the_nearest_images_of_every_query(world: World) -> None:
    manifest = world.run(Retrieve(rules=(only("birds", "as_is"), only("cars", "sample", neighbours=3))))
    products = world.query_vectors[7:] @ world.vectors.T
    nearest = np.argsort(-products, axis=1)[:, :3]
    found = brought(manifest)
    assert found.keys() == set(nearest.ravel().tolist())
    for image, (query, detail, similarity) in found.items():
        asking = np.flatnonzero((nearest == image).any(axis=1))
        assert query == 1007 + asking[products[asking, image].argmax()]
        assert similarity == pytest.approx(products[query - 1007, image], abs=2e-3)
        assert detail == "cars:sample"
    unique = len(np.unique(nearest))
    assert manifest.facts["composition"][1] == {
        "source": "cars", "mode": "sample", "images": 30, "retrieved": 90, "nominal_final": 90, "actual": 90,
        "unique": unique, "collisions": 90 - unique, "final": unique, "shared": 0,
    }  # fmt: skip
    assert manifest.facts["composition"][0]["final"] == 7
    assert manifest.facts["as_is"] == ["birds"]


def test_cluster_brings_images_of_clusters_with_more_than_three_queries_only(world: World) -> None:
    manifest = world.run(Retrieve(rules=(only("cars", "as_is"),), per_cluster=25))
    found = brought(manifest)
    assert len(found) == 25
    assert all(image < 40 for image in found)  # around axis 0, where five birds are; two at axis 1 are not enough
    assert {query for query, _, _ in found.values()} <= set(range(1000, 1005))
    row = manifest.facts["composition"][0]
    assert (row["mode"], row["retrieved"], row["actual"], row["final"]) == ("cluster", 25, 25, 25)
    assert len(brought(world.run(Retrieve(rules=(only("cars", "as_is"),), per_cluster=25, min_queries=1)))) == 50


def test_nominal_counts_clusters_at_their_full_number_and_actual_counts_what_they_hold(world: World) -> None:
    (row,) = [r for r in world.run(Retrieve(per_cluster=10_000)).facts["composition"] if r["source"] == "cars"]
    assert (row["retrieved"], row["nominal_final"], row["actual"], row["final"]) == (10_000, 10_000, 40, 40)


def test_the_cap_is_kept_and_a_smaller_one_takes_a_part_of_a_larger_ones_images(world: World) -> None:
    rules = (only("cars", "as_is"),)
    small = brought(world.run(Retrieve(rules=rules, min_queries=1, cap=10)))
    large = brought(world.run(Retrieve(rules=rules, min_queries=1, cap=30)))
    assert (len(small), len(large)) == (10, 30)
    assert small.keys() < large.keys()
    assert brought(world.run(Retrieve(rules=rules, min_queries=1, cap=10, seed=1))).keys() != small.keys()


def test_an_image_that_several_sources_bring_keeps_the_first_query_and_names_all(world: World) -> None:
    manifest = world.run(Retrieve(rules=(only("birds", "cluster"), only("cars", "cluster", "sample", neighbours=40))))
    found = brought(manifest)
    cars = [detail for image, (_, detail, _) in found.items() if 80 <= image < 120]
    assert set(cars) == {"cars:cluster, cars:sample"}
    shared = {row["mode"]: row["shared"] for row in manifest.facts["composition"] if row["source"] == "cars"}
    assert shared["cluster"] == 0
    assert shared["sample"] >= 40


def test_the_size_of_a_source_chooses_its_mode(world: World) -> None:
    composition = world.run(Retrieve(sample_above=20)).facts["composition"][:-1]
    assert [(row["source"], row["mode"]) for row in composition] == [("birds", "cluster"), ("cars", "sample")]


def test_neighbours_by_clusters_are_the_exact_ones_when_all_are_probed(world: World) -> None:
    rules = (only("birds", "as_is"), only("cars", "sample"))
    exact = brought(world.run(Retrieve(rules=rules)))
    assert brought(world.run(Retrieve(rules=rules, exact_up_to=0, num_probes=4))) == exact
    assert len(exact) >= 4


def test_more_neighbours_never_lose_an_image(world: World) -> None:
    sets = [
        brought(world.run(Retrieve(rules=(only("birds", "sample", neighbours=n), only("cars", "as_is"))))).keys()
        for n in (1, 4, 20)
    ]
    assert sets[0] <= sets[1] <= sets[2]


def test_a_rule_for_a_source_that_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(UnknownSource, match=r"names planes, but the curated sources are birds, cars"):
        world.run(Retrieve(rules=(only("planes", "sample"),)))


def test_queries_of_another_dimension_are_refused(world: World) -> None:
    world.queries = made_stage(world.layout, "embed_sources", [[image_row(1, source="birds")]], [np.eye(5)[:1]])
    with pytest.raises(ValueError, match="dimensions"):
        world.run(Retrieve(rules=(only("birds", "sample"),)))


def test_sources_without_images_are_an_error(world: World) -> None:
    world.queries = made_stage(world.layout, "embed_sources", [[]], [np.zeros((0, DIM))])
    with pytest.raises(NoImages, match="embed_sources"):
        world.run(Retrieve())
