"""An earlier graph changes what a run costs, not what the exact graph is: pools that grow, shrink, change order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.copy_graph import Cells, CopyGraph, copy_graph
from tasks.graph import exact as graph_exact
from tests.tasks.test_copy_graph import LOOSE, edges_of, families, files_of, pool
from tests.tasks.vector_stages import unit


def world() -> np.ndarray:
    """600 images in families of five, 40 with the very vector of one of them, and 90 loose copies of another."""
    vectors, random = families().astype(np.float64), np.random.default_rng(1)
    crowds = [vectors[at] + noise * random.normal(size=(size, 24)) for at, size, noise in ((7, 40, 0), (11, 90, 0.08))]
    return unit(np.concatenate([vectors, *crowds])).astype(np.float16)


EARLIER = np.arange(690)
POOLS: dict[str, Sequence[int]] = {
    "nothing new": EARLIER.tolist(),
    "new images after the known": list(range(730)),
    "new images among the known": [*range(700, 730), *range(300), 695, *range(300, 690)],
    "known images gone": [row for row in range(690) if row % 7],
    "copies gone from a crowd": [row for row in range(730) if not 610 <= row < 625 and not 650 <= row < 660],
    "the known in another order": [*range(615, 730), *range(615)],
    "gone, new and in another order": [*range(620, 730), *range(3, 500, 2)],
    "nothing known": list(range(690, 730)),
}


def described(layout: Layout, numbers: Sequence[int], cuts: Sequence[int] = ()) -> Manifest:
    return pool(layout, world()[list(numbers)], cuts, numbers)


@pytest.fixture(scope="module")
def earlier_root(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(str(tmp_path_factory.mktemp("earlier")))


def base_of(layout: Layout, **config: Any) -> tuple[Manifest, Manifest]:
    pooled = described(layout, EARLIER, [100, 101])
    return pooled, copy_graph.fn(pooled, CopyGraph(**config), layout)


@pytest.mark.parametrize("neighbours", [4, 64])
@pytest.mark.parametrize("name", POOLS)
def test_the_graph_is_the_same_with_and_without_an_earlier_one(
    layout: Layout, tmp_path: Any, earlier_root: Layout, name: str, neighbours: int
) -> None:
    config = CopyGraph(threshold=0.5, neighbours=neighbours, group_bytes=20_000)
    base = base_of(earlier_root, threshold=0.45, neighbours=neighbours)
    fresh = copy_graph.fn(described(layout, POOLS[name]), config, layout)
    other = Layout(str(tmp_path / "other"))
    spared = copy_graph.fn(described(other, POOLS[name], [3, 77]), config, other, base)
    assert files_of(spared) == files_of(fresh)
    assert spared.fingerprint == copy_graph.fn(described(other, POOLS[name], [3, 77]), config, other).fingerprint
    assert (spared.facts["edges"], spared.facts["saturated"]) == (fresh.facts["edges"], fresh.facts["saturated"])
    assert spared.facts["base"] == base[1].reference
    known = len(set(POOLS[name]) & set(EARLIER.tolist()))
    crowded = 0 if name in ("nothing new", "new images after the known", "new images among the known") else 690
    assert known - crowded <= spared.facts["reused"] <= known


def test_pairs_of_known_images_are_not_computed(
    layout: Layout, earlier_root: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(earlier_root)
    compared: list[int] = []
    real = graph_exact.cross_pairs

    def counted(left: np.ndarray, right: np.ndarray, **more: Any) -> Any:
        compared.append(len(left) * len(right))
        return real(left, right, **more)

    monkeypatch.setattr(graph_exact, "cross_pairs", counted)
    monkeypatch.setattr(graph_exact, "similar_pairs", None)
    copy_graph.fn(described(layout, range(695)), CopyGraph(), layout, base)
    assert sum(compared) == 5 * 695


def test_an_image_whose_bytes_have_changed_is_new(layout: Layout, earlier_root: Layout) -> None:
    from tests.tasks.vector_stages import image_row, made_stage

    base = base_of(earlier_root)
    vectors = world()[:690].copy()
    vectors[12] = vectors[200]
    rows = [image_row(number, **({"sha256": "1" * 64} if number == 12 else {})) for number in range(690)]
    changed = made_stage(layout, "describe", [rows], [vectors])
    spared = copy_graph.fn(changed, CopyGraph(), layout, base)
    assert spared.facts["reused"] < 690
    found = edges_of(spared)
    assert ((found.left == 12) & (found.right == 200)).sum() == 1


@pytest.mark.parametrize(
    ("earlier", "why"),
    [({"threshold": 0.7}, "threshold is higher"), ({"neighbours": 3}, "neighbours are fewer"), ({}, "descriptors")],
)
def test_a_graph_that_knows_too_little_is_not_used_and_that_is_said(
    layout: Layout, earlier_root: Layout, earlier: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    base = base_of(earlier_root, **earlier)
    vectors = world()[:700]
    if not earlier:
        vectors = vectors[:, ::-1] + np.float16(0.001)
    now = pool(layout, vectors)
    spared = copy_graph.fn(now, CopyGraph(), layout, base)
    assert spared.facts["reused"] == 0
    assert why in caplog.text
    assert len(edges_of(spared).left) > 600


def test_a_graph_of_other_descriptors_is_an_error(layout: Layout, earlier_root: Layout) -> None:
    _, graph = base_of(earlier_root)
    now = described(layout, range(100))
    with pytest.raises(ValueError, match=r"is the graph of describe/.*Give the two as one earlier run left them"):
        copy_graph.fn(now, CopyGraph(), layout, (now, graph))


def test_by_cells_the_earlier_quantiser_serves_and_only_cells_with_new_images_are_joined(
    layout: Layout, earlier_root: Layout
) -> None:
    method = {"kind": "cells", "assignments": 4, "cell_rows": 60}
    base = base_of(earlier_root, method=method, recall_sample=100, **LOOSE)
    config = CopyGraph(method=Cells.model_validate(method), recall_sample=100, group_bytes=20_000, **LOOSE)
    now = described(layout, range(693))
    spared, fresh = copy_graph.fn(now, config, layout, base), copy_graph.fn(now, config, layout)
    assert spared.fingerprint != fresh.fingerprint  # the earlier quantiser decides, so it is an input
    quantisers = [
        [entry.sha256 for entry in graph.files if entry.path.startswith("quantiser")] for graph in (base[1], spared)
    ]
    assert quantisers[0] == quantisers[1]
    assert spared.facts["groups"] < fresh.facts["groups"]
    assert spared.facts["copies"] < fresh.facts["copies"] / 2
    assert spared.facts["reused"] == 690
    old = set(zip(*(side.tolist() for side in edges_of(base[1])[:2]), strict=True))
    new = set(zip(*(side.tolist() for side in edges_of(spared)[:2]), strict=True))
    assert old <= new
    assert {right for _, right in new - old} <= {690, 691, 692}
    assert spared.facts["recall"] > 0.6
