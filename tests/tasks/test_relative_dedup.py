"""Whatever hangs together with a benchmark's image goes, directly or through other images, and says with which."""

import numpy as np
import pytest

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.pool import NoImages
from tasks.relative_dedup import RelativeDedup, relative_dedup
from tasks.self_dedup import SelfDedup, self_dedup
from tests.tasks.vector_stages import at_cosines, image_row, made_stage, rows_of

DIM = 16


@pytest.fixture
def described(layout: Layout) -> Manifest:
    """Image 1 is near reference 100, 2 near 1 only, 3 far; 4 near 101, 5 a copy of 4; 6 and 7 near each other."""
    chain = at_cosines([0.5, 0.55], DIM, 0)  # reference 100, image 1, image 2
    second = at_cosines([0.9, 0.95], DIM, 4)  # reference 101, image 4, image 5
    apart = at_cosines([0.5], DIM, 8)
    vectors = np.stack([chain[1], chain[2], np.eye(DIM)[14], second[1], second[2], apart[0], apart[1]])
    rows = [image_row(number, width=100 + (number == 4)) for number in range(1, 8)]
    return made_stage(layout, "describe", [rows[:3], rows[3:]], [vectors[:3], vectors[3:]])


@pytest.fixture
def references(layout: Layout) -> Manifest:
    chain, second = at_cosines([0.5, 0.55], DIM, 0), at_cosines([0.9, 0.95], DIM, 4)
    rows = [
        image_row(100, source="birds", split="test"),
        image_row(101, source="cars", split="train"),
        image_row(102, source="cars", split="train"),
    ]
    return made_stage(layout, "describe_benchmarks", [rows], [np.stack([chain[0], second[0], np.eye(DIM)[12]])])


def run(described: Manifest, references: Manifest, layout: Layout, threshold: float = 0.45) -> Manifest:
    unique = self_dedup.fn(described, SelfDedup(), layout)
    return relative_dedup.fn(described, unique, references, RelativeDedup(threshold=threshold), layout)


def test_components_with_a_reference_are_dropped_whole_and_others_stay(
    described: Manifest, references: Manifest, layout: Layout
) -> None:
    manifest = run(described, references, layout)
    rows = {int(row["id"], 16): row for row in rows_of(manifest)}
    found = {
        number: (int(row["other"], 16), row["detail"], round(row["value"], 2))
        for number, row in rows.items()
        if row["drop"] == "benchmark_copy"
    }
    assert found == {
        1: (100, "birds/test direct", 0.5),
        2: (100, "birds/test through a chain", 0.55),
        4: (101, "cars/train direct", 0.9),
    }
    assert sorted(rows) == [1, 2, 3, 4, 6, 7]  # 5 went before, as a copy of 4
    assert (manifest.rows_in, manifest.rows_kept, dict(manifest.drops)) == (6, 3, {"benchmark_copy": 3})


def test_the_facts_say_what_each_benchmark_cost(described: Manifest, references: Manifest, layout: Layout) -> None:
    facts = run(described, references, layout).facts
    assert facts["benchmarks"] == {
        "birds/test": {"images": 1, "touched": 1, "dropped_direct": 1, "dropped_through_a_chain": 1},
        "cars/train": {"images": 2, "touched": 1, "dropped_direct": 1, "dropped_through_a_chain": 0},
    }
    assert facts["threshold"] == 0.45
    close = [run(described, references, layout, threshold).facts["borderline"] for threshold in (0.4, 0.48, 0.52)]
    assert close == [0, 1, 0]  # image 1 lies at 0.5


def test_raising_the_threshold_never_drops_more_images(
    described: Manifest, references: Manifest, layout: Layout
) -> None:
    counts = [
        run(described, references, layout, threshold).drops.get("benchmark_copy", 0)
        for threshold in (0.2, 0.45, 0.52, 0.95)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_the_result_does_not_depend_on_how_the_pool_is_cut_into_parts(references: Manifest, tmp_path: object) -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(120, 4))
    vectors = np.pad(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), ((0, 0), (0, DIM - 4)))
    rows = [image_row(number) for number in range(1, 121)]
    results = []
    for cut in (1, 50, 119):
        layout = Layout(f"{tmp_path}/cut-{cut}")
        described = made_stage(layout, "describe", [rows[:cut], rows[cut:]], [vectors[:cut], vectors[cut:]])
        unique = self_dedup.fn(described, SelfDedup(threshold=0.97), layout)
        config = RelativeDedup(threshold=0.9)
        results.append(rows_of(relative_dedup.fn(described, unique, references, config, layout)))
    assert results[0] == results[1] == results[2]
    assert 0 < sum(row["drop"] is not None for row in results[0]) < 120


def test_references_of_another_dimension_are_refused(described: Manifest, layout: Layout) -> None:
    other = made_stage(layout, "describe_benchmarks", [[image_row(100, source="birds")]], [np.eye(8)[:1]])
    with pytest.raises(ValueError, match=r"one dimension, got \[8, 16\]"):
        run(described, other, layout)


def test_benchmarks_without_an_image_are_an_error(described: Manifest, layout: Layout) -> None:
    empty = made_stage(layout, "describe_benchmarks", [[image_row(1, drop="truncated")]], [np.zeros((0, DIM))])
    with pytest.raises(NoImages, match="describe_benchmarks"):
        run(described, empty, layout)


def test_verdicts_about_another_pool_are_refused(described: Manifest, references: Manifest, layout: Layout) -> None:
    other = made_stage(layout, "describe", [[image_row(1), image_row(2)]], [np.eye(DIM)[:2]])
    unique = self_dedup.fn(other, SelfDedup(), layout)
    with pytest.raises(ValueError, match=r"judges 2 images.* describes 7"):
        relative_dedup.fn(described, unique, references, RelativeDedup(), layout)
