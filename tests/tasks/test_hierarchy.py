"""A balanced sample holds what was asked for, evenly, and depends on vectors, ids and seed alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from storage.filesystem import list_files
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.algorithms.balanced import allot, leaf_order
from tasks.algorithms.kmeans_nearest import Centroids
from tasks.algorithms.sampling import id_keys
from tasks.cluster import Efficiency, OtherCentroids, load_centroids
from tasks.clusters import fit as cluster_fit
from tasks.clusters import levels as hierarchy_levels
from tasks.clusters import split as hierarchy_split
from tasks.hierarchy import Hierarchy, ImpossibleLevels, Level, hierarchy, plan_levels
from tasks.pool import NoImages
from tasks.workers import Workers, workers
from tests.tasks.vector_stages import image_row, made_stage, rows_of, unit

NUM_CONCEPTS = 24
LEVELS = (Level(num_clusters=72), Level(num_clusters=12, resamplings=2))


def zipf_pool(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of concepts of Zipf sizes, and the concepts."""
    random = np.random.default_rng(1)
    shares = 1.0 / np.arange(1, NUM_CONCEPTS + 1)
    concepts = random.choice(NUM_CONCEPTS, num_rows, p=shares / shares.sum())
    centres = unit(random.normal(size=(NUM_CONCEPTS, 12)))
    return unit(centres[concepts] + 0.1 * random.normal(size=(num_rows, 12))).astype(np.float16), concepts


def embedded(layout: Layout, *cuts: int, num_rows: int = 1500) -> Manifest:
    vectors, _ = zipf_pool(num_rows)
    rows = [image_row(number) for number in range(num_rows)]
    pairs = list(itertools.pairwise([0, *cuts, num_rows]))
    return made_stage(layout, "embed", [rows[a:b] for a, b in pairs], [vectors[a:b] for a, b in pairs])


def told(manifest: Manifest) -> list[tuple[object, ...]]:
    return [(row["id"], row["drop"], row["detail"], row["value"], row["clusters"]) for row in rows_of(manifest)]


@pytest.mark.parametrize("leaf", ["random", "closest"])
def test_the_sample_is_the_slow_one_over_the_levels_that_were_found(layout: Layout, leaf: str) -> None:
    manifest = hierarchy.fn(embedded(layout, 700), Hierarchy(levels=LEVELS, target=333, leaf=leaf), layout)  # type: ignore[arg-type]
    vectors, _ = zipf_pool(1500)
    finest, coarse = (load_centroids(manifest.file(f"level-{n}-centroids.npy")) for n in (1, 2))
    leaves, parents = Centroids(finest).nearest(vectors), Centroids(coarse).nearest(finest)
    assert np.array_equal(np.load(manifest.file("level-1-parents.npy")), parents)
    cosines = np.einsum("rd,rd->r", vectors.astype(np.float64), finest[leaves]).astype(np.float32)
    share = allot(np.bincount(leaves, minlength=72), [parents], 333, seed=0)
    rows = rows_of(manifest)
    keys = id_keys([row["id"] for row in rows], seed=0)
    order = leaf_order(cosines, keys, leaf)  # type: ignore[arg-type]
    expected = set()
    for number in range(72):
        mine = np.flatnonzero(leaves == number)
        expected |= set(sorted(mine.tolist(), key=lambda row: tuple(order[row]))[: share[number]])
    assert {place for place, row in enumerate(rows) if row["drop"] is None} == expected
    assert len(expected) == 333 == manifest.rows_kept == manifest.facts["sampled"]
    assert [row["clusters"] for row in rows] == [[leaf, parents[leaf]] for leaf in leaves]
    assert np.allclose([row["value"] for row in rows], cosines)
    assert {(row["drop"], row["detail"]) for row in rows} == {(None, "balanced"), ("not_sampled", None)}
    assert manifest.drops == {"not_sampled": 1500 - 333}


def test_a_level_in_two_steps_splits_every_cluster_and_gives_images_the_nearest_part_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, _ = zipf_pool(1500)
    levels = (Level(num_clusters=100, splits=5), Level(num_clusters=9, resamplings=1))
    found = []
    for number, (cuts, task_bytes) in enumerate([((), 1 << 30), ((5, 800, 1000), 9000)]):
        monkeypatch.setattr(hierarchy_split, "_TASK_BYTES", task_bytes)
        layout = Layout(f"{tmp_path}/{number}")
        manifest = hierarchy.fn(embedded(layout, *cuts), Hierarchy(levels=levels, target=200), layout)
        finest = load_centroids(manifest.file("level-1-centroids.npy"))
        centroids, starts = (np.load(manifest.file(f"level-1-{name}.npy")) for name in ("coarse", "starts"))
        assert (len(centroids), len(starts), starts[-1], len(finest)) == (20, 21, len(finest), len(finest))
        assert (np.diff(starts) == 5).all()
        homes = Centroids(centroids).nearest(vectors)
        for row, (home, clusters) in enumerate(zip(homes, [row["clusters"] for row in rows_of(manifest)], strict=True)):
            products = finest[starts[home] : starts[home + 1]].astype(np.float64) @ vectors[row].astype(np.float64)
            assert clusters[0] == starts[home] + products.argmax()
        found.append((told(manifest), manifest.facts))
    assert found[0] == found[1]
    assert found[0][1]["levels"][0]["clusters"] == 100


def test_only_the_first_level_can_be_split_and_ten_million_clusters_are() -> None:
    with pytest.raises(ImpossibleLevels, match="only the first level is split"):
        plan_levels(Hierarchy(levels=(Level(num_clusters=9), Level(num_clusters=4, splits=2))), 100)
    finest, *above = plan_levels(Hierarchy(), 743_000_000)
    assert (finest.num_clusters, finest.splits, finest.resamplings) == (99_411, 101, 0)
    assert [(plan.num_clusters, plan.splits, plan.resamplings, plan.sample_size) for plan in above] == [
        (502_027, 1, 9, 10),
        (50_202, 1, 9, 6),
        (10_040, 1, 9, 3),
    ]


def test_a_zipf_pool_comes_out_flatter_and_its_rare_concepts_keep_their_share(layout: Layout) -> None:
    manifest = hierarchy.fn(embedded(layout), Hierarchy(levels=LEVELS, target=240), layout)
    facts = manifest.facts
    assert facts["gini_coarsest_sample"] < 0.5 * facts["gini_coarsest_pool"]
    assert facts["evenness_coarsest_sample"] > facts["evenness_coarsest_pool"]
    _, concepts = zipf_pool(1500)
    kept = np.array([row["drop"] is None for row in rows_of(manifest)])
    before, after = (np.bincount(concepts[which], minlength=NUM_CONCEPTS) for which in (kept >= 0, kept))
    assert after[0] / kept.sum() < 0.5 * before[0] / len(kept)
    assert after[12:].sum() / kept.sum() > 1.5 * before[12:].sum() / len(kept)


def test_resampling_spreads_the_centroids_from_the_dense_to_the_sparse(layout: Layout) -> None:
    _, concepts = zipf_pool(1500)
    found = []
    for resamplings in (0, 4):
        levels = (Level(num_clusters=60, resamplings=resamplings, sample_size=3),)
        manifest = hierarchy.fn(embedded(layout), Hierarchy(levels=levels, target=10), layout)
        leaves = np.array([row["clusters"][0] for row in rows_of(manifest)])
        found.append(len(np.unique(leaves[concepts == 0])))
    assert found[1] < found[0]  # the largest concept holds fewer of the centroids


def test_groups_workers_and_cuts_do_not_change_what_is_sampled(
    tmp_path: Path, two_processes: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Workers(num_workers=0)
    monkeypatch.setattr(hierarchy_levels, "_ROWS_PER_FILE", 17)
    found = []
    for number, (cuts, groups, small, where) in enumerate(
        [((), 64, 10**9, here), ((3, 400), 1, 0, here), ((100, 101, 900, 1300), 3, 0, two_processes)]
    ):
        monkeypatch.setattr(cluster_fit, "SMALL", small)
        layout = Layout(f"{tmp_path}/{number}")
        config = Hierarchy(levels=LEVELS, iterations=3, efficiency=Efficiency(groups=groups), fit_images=None)
        with workers(where):
            manifest = hierarchy.fn(embedded(layout, *cuts), config, layout)
        assert manifest.rows_kept == 150  # a tenth
        assert not list_files(f"{manifest.directory}/scratch-*")
        found.append((told(manifest), manifest.facts, Path(manifest.file("level-2-centroids.npy")).read_bytes()))
    assert found[0] == found[1] == found[2]


def test_killed_between_levels_and_run_again_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Hierarchy(levels=LEVELS, iterations=4)
    wholes = Layout(str(tmp_path / "whole"))
    whole = hierarchy.fn(embedded(wholes, 600), config, wholes)
    layout = Layout(str(tmp_path / "killed"))
    source, take_points, calls = embedded(layout, 600), hierarchy_levels.take_points, list[str]()

    def killed(group: object, out: str, **plain: object) -> object:
        calls.append(out)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return take_points(group, out, **plain)  # type: ignore[arg-type]

    monkeypatch.setattr(hierarchy_levels, "take_points", killed)
    with pytest.raises(KeyboardInterrupt):
        hierarchy.fn(source, config, layout)
    fits: list[str] = []
    fit = cluster_fit.fit
    monkeypatch.setattr(cluster_fit, "fit", lambda *given, **named: fits.append("fit") or fit(*given, **named))
    again = hierarchy.fn(source, config, layout)
    assert len(fits) == 1  # level 1, level 2 and its first resampling are not fitted again
    assert told(again) == told(whole)
    assert again.facts == whole.facts


def test_the_defaults_sample_a_tenth_and_a_target_beyond_the_pool_keeps_all(layout: Layout) -> None:
    source = embedded(layout, num_rows=400)
    tenth = hierarchy.fn(source, Hierarchy(), layout)
    assert (tenth.rows_kept, [level["clusters"] for level in tenth.facts["levels"]]) == (40, [5])
    everything = hierarchy.fn(source, Hierarchy(target=10**6), layout)
    assert (everything.rows_kept, dict(everything.drops)) == (400, {})


@pytest.mark.parametrize("levels", [(1501,), (20, 20), (20, 30)])
def test_more_clusters_than_points_are_refused(layout: Layout, levels: tuple[int, ...]) -> None:
    config = Hierarchy(levels=tuple(Level(num_clusters=count) for count in levels))
    with pytest.raises(ImpossibleLevels, match=r"hierarchy.levels\[\d\] has"):
        hierarchy.fn(embedded(layout), config, layout)


@pytest.mark.parametrize("splits", [1, 5])
def test_a_run_that_goes_on_keeps_the_levels_and_samples_what_a_run_over_all_with_them_samples(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, splits: int
) -> None:
    config = Hierarchy(levels=(Level(num_clusters=60, splits=splits), Level(num_clusters=7)), target=200)
    vectors, rows = zipf_pool(1500)[0], [image_row(number) for number in range(900)]
    small = made_stage(layout, "embed", [rows[:400], rows[400:]], [vectors[:400], vectors[400:900]])
    first = hierarchy.fn(small, config, layout)
    asked: list[int] = []
    nearest = Centroids.nearest

    def counted(self: Centroids, block: np.ndarray) -> np.ndarray:
        asked.append(len(block))
        return nearest(self, block)

    monkeypatch.setattr(Centroids, "nearest", counted)
    second = hierarchy.fn(embedded(layout, 400, 900), config, layout, base=first)
    assert sum(asked) == 600  # the new images alone
    assert (second.facts["base"], second.facts["reused"]) == (first.reference, 900)
    assert second.facts["levels"] == first.facts["levels"]
    levels = [entry for entry in first.files if entry.path.startswith("level-")]
    assert [entry for entry in second.files if entry.path.startswith("level-")] == levels
    other = hierarchy.fn(embedded(layout, 100), config, layout, base=first)  # no part is the same: all assigned anew
    assert other.facts["reused"] == 0
    assert told(other) == told(second)
    refit = config.model_copy(update={"refit": True})
    assert "base" not in hierarchy.fn(embedded(layout, 100), refit, layout, base=first).facts
    narrow = made_stage(layout, "embed", [[image_row(n) for n in range(70)]], [np.eye(70)])
    with pytest.raises(OtherCentroids, match=r"of 12 dimensions, the embeddings of 70.*hierarchy.refit"):
        hierarchy.fn(narrow, config, layout, base=first)


def test_an_empty_pool_is_an_error(layout: Layout) -> None:
    with pytest.raises(NoImages):
        hierarchy.fn(made_stage(layout, "embed", [[]], [np.zeros((0, 4))]), Hierarchy(), layout)
