"""Every image has the centroid it is nearest to; centroids depend on vectors, ids and seed alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from storage.filesystem import list_files
from storage.layout import Layout
from storage.manifest import Manifest
from tasks.algorithms.blocks import InMemory
from tasks.algorithms.kmeans import KMeans, fit_kmeans
from tasks.algorithms.sampling import id_keys
from tasks.cluster import (
    CENTROIDS,
    Cluster,
    Efficiency,
    OtherCentroids,
    TooManyClusters,
    cluster,
    default_clusters,
    load_centroids,
)
from tasks.clusters import fit as cluster_fit
from tasks.pool import NoImages
from tasks.stage import Stage
from tasks.workers import Workers, workers
from tests.tasks.vector_stages import image_row, made_stage, rows_of, unit


def some_vectors(num_rows: int) -> np.ndarray:
    random = np.random.default_rng(1)
    centres = random.normal(size=(6, 10))[random.integers(0, 6, num_rows)]
    return unit(centres + 0.2 * random.normal(size=(num_rows, 10)))


def embedded(layout: Layout, *cuts: int, num_rows: int = 300) -> Manifest:
    vectors = some_vectors(num_rows)
    rows = [image_row(number) for number in range(num_rows)]
    pairs = list(itertools.pairwise([0, *cuts, num_rows]))
    return made_stage(layout, "embed", [rows[a:b] for a, b in pairs], [vectors[a:b] for a, b in pairs])


@pytest.fixture
def as_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases take the way of the large ones."""
    monkeypatch.setattr(cluster_fit, "SMALL", 0)


def centroids_of(manifest: Manifest) -> bytes:
    return Path(manifest.file(CENTROIDS)).read_bytes()


def tables_of(manifest: Manifest) -> list[bytes]:
    return [Path(path).read_bytes() for path in manifest.paths(".parquet")]


def test_every_image_has_its_nearest_centroid_and_the_cosine_to_it(layout: Layout) -> None:
    source = embedded(layout, 100)
    manifest = cluster.fn(source, Cluster(num_clusters=6), layout)
    centroids = load_centroids(manifest.file(CENTROIDS))
    vectors = np.concatenate([np.load(path) for path in source.paths(".npy")]).astype(np.float32)
    cosines = vectors @ centroids.T
    rows = rows_of(manifest)
    assert np.array_equal([row["cluster"] for row in rows], cosines.argmax(axis=1))
    assert np.allclose([row["value"] for row in rows], cosines.max(axis=1), atol=1e-5)
    assert manifest.rows_kept == 300
    assert manifest.facts["empty_clusters"] == 0
    assert manifest.facts["largest_cluster"] == np.bincount(cosines.argmax(axis=1)).max()
    assert manifest.facts["mean_cosine"] == pytest.approx(cosines.max(axis=1).mean(), abs=1e-5)
    assert manifest.facts["objective"][-1] > 0.95


def test_clusters_do_not_depend_on_the_cuts_of_the_parts(tmp_path: Path) -> None:
    written = []
    for cuts in ((), (7, 200)):
        layout = Layout(f"{tmp_path}/{len(cuts)}")
        manifest = cluster.fn(embedded(layout, *cuts), Cluster(), layout)
        written.append([row["cluster"] for row in rows_of(manifest)])
    assert written[0] == written[1]


def test_workers_and_groups_do_not_change_a_byte_of_the_centroids(
    tmp_path: Path, as_tasks: None, two_processes: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_fit, "_RANGE_BYTES", 8 * 10 * 7)  # seven clusters at a time
    found = []
    # This process; one of two, both, and more groups than processes.
    for place, where, all_groups in (("here", Workers(num_workers=0), (1, 4)), ("there", two_processes, (1, 2, 5))):
        with workers(where):
            for groups in all_groups:
                layout = Layout(str(tmp_path / f"{place}-{groups}"))
                source = embedded(layout, 11, 40, 200, num_rows=900)
                config = Cluster(num_clusters=30, iterations=3, efficiency=Efficiency(groups=groups))
                found.append(cluster.fn(source, config, layout))
                assert not list_files(f"{found[-1].directory}/scratch-*")
    keys = id_keys([row["id"] for row in rows_of(source)], seed=0)
    vectors = InMemory(some_vectors(900).astype(np.float16))
    here = fit_kmeans(vectors, num_clusters=30, seed=0, iterations=3, keys=keys)
    for manifest in found:
        assert load_centroids(manifest.file(CENTROIDS)).tobytes() == here.centroids.tobytes()
        assert manifest.facts["objective"] == [round(value, 6) for value in here.objective]
        assert tables_of(manifest) == tables_of(found[0])


def test_killed_in_an_iteration_and_run_again_ends_in_the_same_bytes(
    tmp_path: Path, as_tasks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Cluster(num_clusters=90, iterations=9, tolerance=0.0)
    wholes = Layout(str(tmp_path / "whole"))
    whole = cluster.fn(embedded(wholes, 500, 1200, num_rows=2000), config, wholes)
    assert len(whole.facts["objective"]) == 9
    layout = Layout(str(tmp_path / "killed"))
    source = embedded(layout, 500, 1200, num_rows=2000)
    calls, stopping, sum_group = list[str](), ["-0006-sums"], cluster_fit.sum_group

    def killed(paths: list[str], out: str, **plain: object) -> object:
        calls.append(out)
        if any(step in out for step in stopping) and out.endswith("-00001"):
            raise KeyboardInterrupt
        return sum_group(paths, out, **plain)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster_fit, "sum_group", killed)
    with pytest.raises(KeyboardInterrupt):
        cluster.fn(source, config, layout)
    num_before = len(calls)
    stopping.clear()
    again = cluster.fn(source, config, layout)
    assert {Path(out).name.split("-")[2] for out in calls[num_before:]} == {"0006", "0007", "0008"}
    assert len(calls) - num_before == 2 + 3 + 3  # the finished group of the seventh iteration is not done again
    assert centroids_of(again) == centroids_of(whole)
    assert tables_of(again) == tables_of(whole)
    assert again.facts == whole.facts


def test_a_fit_to_some_images_is_the_same_however_they_are_cut_and_assigns_all(tmp_path: Path, as_tasks: None) -> None:
    found = []
    for cuts in ((400,), (13, 700, 800)):
        layout = Layout(f"{tmp_path}/{len(cuts)}")
        source = embedded(layout, *cuts, num_rows=1200)
        manifest = cluster.fn(source, Cluster(num_clusters=6, fit_images=500), layout)
        assert manifest.rows_kept == 1200
        found.append(centroids_of(manifest))
    assert found[0] == found[1]
    whole = cluster.fn(source, Cluster(num_clusters=6, fit_images=None), layout)
    assert centroids_of(whole) != found[1]
    assert whole.facts["mean_cosine"] == pytest.approx(manifest.facts["mean_cosine"], abs=0.01)


def test_with_a_base_its_centroids_are_used_and_parts_that_are_the_same_are_taken_over(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    old = cluster.fn(embedded(layout, 100, 200), Cluster(num_clusters=6), layout)
    grown = embedded(layout, 100, 200, 300, num_rows=420)
    new = cluster.fn(grown, Cluster(), layout, base=old)
    assert centroids_of(new) == centroids_of(old)
    assert new.facts["reused"] == 3 - 3 + sum(a == b for a, b in zip(tables_of(new), tables_of(old), strict=False))
    alone = Layout(str(tmp_path / "alone"))
    purged = Manifest(**{**vars(old), "inputs": {"embedded": "embed/" + "0" * 64}})
    slow = cluster.fn(embedded(alone, 100, 200, 300, num_rows=420), Cluster(), alone, base=purged)
    assert tables_of(slow) == tables_of(new)
    assert slow.fingerprint == new.fingerprint
    assert slow.facts["reused"] == 0
    refitted = cluster.fn(grown, Cluster(refit=True), layout, base=old)
    assert refitted.fingerprint == cluster.fn(grown, Cluster(), layout).fingerprint != new.fingerprint


def test_a_base_with_another_number_of_clusters_than_asked_for_is_refused(layout: Layout) -> None:
    old = cluster.fn(embedded(layout), Cluster(num_clusters=6), layout)
    with pytest.raises(OtherCentroids, match="are 6 of 10 dimensions; asked for are 7 of 10"):
        cluster.fn(embedded(layout), Cluster(num_clusters=7), layout, base=old)


def test_speed_is_not_in_the_fingerprint(layout: Layout) -> None:
    source = embedded(layout)
    first = cluster.fn(source, Cluster(), layout)
    other = cluster.fn(source, Cluster(efficiency=Efficiency(precision="float32", groups=3)), layout)
    assert first.fingerprint == other.fingerprint


@pytest.mark.parametrize(("images", "clusters"), [(1, 1), (900, 30), (744_000_000, 27_276), (10**11, 100_000)])
def test_the_default_number_of_clusters_is_the_root_of_the_pool_up_to_the_papers(images: int, clusters: int) -> None:
    assert default_clusters(images) == clusters


def test_more_clusters_than_images_are_refused(layout: Layout) -> None:
    with pytest.raises(TooManyClusters, match="only 300 images are left"):
        cluster.fn(embedded(layout), Cluster(num_clusters=301), layout)


@pytest.mark.parametrize("num_clusters", [300, 299])
def test_as_many_clusters_as_images_over_tasks(layout: Layout, as_tasks: None, num_clusters: int) -> None:
    manifest = cluster.fn(embedded(layout, 7, 7, 150), Cluster(num_clusters=num_clusters), layout)
    assert manifest.facts["mean_cosine"] > 0.999


def test_an_empty_pool_is_an_error(layout: Layout) -> None:
    with pytest.raises(NoImages):
        cluster.fn(made_stage(layout, "embed", [[]], [np.zeros((0, 4))]), Cluster(), layout)


def test_a_checkpoint_is_the_state_that_was_saved(layout: Layout) -> None:
    stage = Stage("cluster", version=1, config=Cluster(), inputs={}, layout=layout)
    assert cluster_fit.Checkpoint(stage, "fit").load() is None
    state = KMeans(np.eye(3, dtype=np.float32), (0.1, 1 / 3), (2, 0), (1, 0))
    for so_far in (state._replace(objective=(0.1,)), state):
        cluster_fit.Checkpoint(stage, "fit").save(so_far)
    found = cluster_fit.Checkpoint(stage, "fit").load()
    assert found is not None
    assert found[1:] == state[1:]
    assert np.array_equal(found.centroids, state.centroids)
    assert len(list_files(f"{stage.directory}/scratch-*.npy")) == 1
