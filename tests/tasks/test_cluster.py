"""Every image has the centroid it is nearest to; centroids depend on vectors and seed alone."""

import itertools

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.cluster import CENTROIDS, Cluster, TooManyClusters, cluster, default_clusters, load_centroids
from tasks.pool import NoImages
from tests.tasks.vector_stages import image_row, made_stage, rows_of, unit


def embedded(layout: Layout, *cuts: int, num_rows: int = 300) -> Manifest:
    random = np.random.default_rng(1)
    vectors = unit(
        random.normal(size=(6, 10))[random.integers(0, 6, num_rows)] + 0.2 * random.normal(size=(num_rows, 10))
    )
    rows = [image_row(number) for number in range(num_rows)]
    edges = [0, *cuts, num_rows]
    pairs = list(itertools.pairwise(edges))
    return made_stage(layout, "embed", [rows[a:b] for a, b in pairs], [vectors[a:b] for a, b in pairs])


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
    assert manifest.facts["objective"][-1] > 0.95


def test_clusters_do_not_depend_on_the_cuts_of_the_parts(tmp_path: object) -> None:
    written = []
    for cuts in ((), (7, 200)):
        layout = Layout(f"{tmp_path}/{len(cuts)}")
        manifest = cluster.fn(embedded(layout, *cuts), Cluster(), layout)
        written.append([row["cluster"] for row in rows_of(manifest)])
    assert written[0] == written[1]


@pytest.mark.parametrize(("images", "clusters"), [(1, 1), (900, 30), (744_000_000, 27_276), (10**11, 100_000)])
def test_the_default_number_of_clusters_is_the_root_of_the_pool_up_to_the_papers(images: int, clusters: int) -> None:
    assert default_clusters(images) == clusters


def test_more_clusters_than_images_are_refused(layout: Layout) -> None:
    with pytest.raises(TooManyClusters, match="only 300 images are left"):
        cluster.fn(embedded(layout), Cluster(num_clusters=301), layout)


def test_an_empty_pool_is_an_error(layout: Layout) -> None:
    with pytest.raises(NoImages):
        cluster.fn(made_stage(layout, "embed", [[]], [np.zeros((0, 4))]), Cluster(), layout)
