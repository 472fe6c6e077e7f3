"""Components of copies keep one image each, by a stated rule; the others say which, how similar, and of what group."""

import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.algorithms.self_join import Edges
from tasks.copy_graph import CopyGraph, ThresholdTooLow, copy_graph
from tasks.graph.rows import Span
from tasks.pool import NoImages
from tasks.self_dedup import Cut, SelfDedup, components, grouped, self_dedup
from tasks.stage import PartsFailed, Stage
from tasks.workers import Workers, workers
from tests.tasks.vector_stages import at_cosines, image_row, made_stage, rows_of, unit


@pytest.fixture
def described(layout: Layout) -> Manifest:
    """Two parts: a chain 1-2-3 (1 and 3 are not similar), a pair 5-6, images 4 and 7 alone, one dropped before."""
    chain, pair = at_cosines([0.8, 0.7], 12, 0), at_cosines([0.9], 12, 2)
    alone = np.eye(12, dtype=np.float32)[[5, 8]]
    first = [image_row(2, width=300), image_row(9, drop="undecodable"), image_row(5), image_row(4)]
    second = [image_row(1), image_row(3, width=200), image_row(7), image_row(6)]
    vectors = [np.stack([chain[1], pair[0], alone[0]]), np.stack([chain[0], chain[2], alone[1], pair[1]])]
    return made_stage(layout, "describe", [first, second], vectors)


def deduplicated(described: Manifest, layout: Layout, config: SelfDedup | None = None, least: float = 0.05) -> Manifest:
    graph = copy_graph.fn(described, CopyGraph(threshold=least), layout)
    return self_dedup.fn(described, graph, config or SelfDedup(), layout)


def dropped(manifest: Manifest) -> dict[int, tuple[int, float]]:
    """{image: (keeper, similarity)} by number."""
    rows = [row for row in rows_of(manifest) if row["drop"] is not None]
    assert all(row["drop"] == "copy" for row in rows)
    return {int(row["id"], 16): (int(row["other"], 16), round(row["value"], 3)) for row in rows}


def groups(manifest: Manifest) -> dict[int, int]:
    """{image: the first image of its group} by number, for those in one."""
    return {int(row["id"], 16): int(row["group"], 16) for row in rows_of(manifest) if row["group"] is not None}


def test_a_chain_of_copies_keeps_its_largest_image_and_a_tie_its_smallest_id(
    described: Manifest, layout: Layout
) -> None:
    manifest = deduplicated(described, layout)
    assert dropped(manifest) == {1: (2, 0.8), 3: (2, 0.7), 6: (5, 0.9)}
    assert (manifest.rows_in, manifest.rows_kept, dict(manifest.drops)) == (7, 4, {"copy": 3})
    assert manifest.facts["component_sizes"] == {"1": 2, "2": 1, "3": 1}
    assert (manifest.facts["edges"], manifest.facts["largest_component"]) == (3, 3)


def test_every_image_of_a_group_kept_or_not_has_its_first_image_as_the_group(
    described: Manifest, layout: Layout
) -> None:
    assert groups(deduplicated(described, layout)) == {2: 2, 1: 2, 3: 2, 5: 5, 6: 5}
    assert groups(deduplicated(described, layout, SelfDedup(keeper="smallest_id"))) == {2: 2, 1: 2, 3: 2, 5: 5, 6: 5}
    assert groups(deduplicated(described, layout, SelfDedup(threshold=0.75))) == {2: 2, 1: 2, 5: 5, 6: 5}


COPIES: dict[int, dict[str, Any]] = {
    1: {"width": 800, "height": 800, "image_bytes": 20_000, "crawl_date": "2024-02-01T00:00:00Z"},
    2: {"width": 400, "height": 400, "image_bytes": 60_000, "crawl_date": "2023-05-01T00:00:00Z"},
    3: {"width": 200, "height": 200, "image_bytes": 90_000, "format": "PNG", "crawl_date": None},
    4: {"width": 400, "height": 400, "image_bytes": 30_000, "crawl_date": "2023-01-01T00:00:00Z"},
}


@pytest.mark.parametrize(
    ("keeper", "kept_image"), [("largest", 1), ("earliest", 4), ("best_quality", 2), ("smallest_id", 1)]
)
def test_the_keeper_rule_decides(layout: Layout, keeper: Any, kept_image: int) -> None:
    """1 is enlarged and squeezed: 640,000 pixels that 20 KB of JPEG cannot carry; 2 carries its 160,000 well."""
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (4, 1))
    rows = [image_row(number, **more) for number, more in sorted(COPIES.items(), reverse=True)]
    described = made_stage(layout, "describe", [rows[:2], rows[2:]], [vectors[:2], vectors[2:]])
    manifest = deduplicated(described, layout, SelfDedup(keeper=keeper))
    assert {other for other, _ in dropped(manifest).values()} == {kept_image}
    assert manifest.rows_kept == 1


def test_without_dates_the_first_of_the_pool_is_the_earliest(described: Manifest, layout: Layout) -> None:
    manifest = deduplicated(described, layout, SelfDedup(keeper="earliest"))
    assert {keeper for keeper, _ in dropped(manifest).values()} == {2, 5}


def test_raising_the_threshold_never_drops_more_images(described: Manifest, layout: Layout) -> None:
    counts = [
        len(dropped(deduplicated(described, layout, SelfDedup(threshold=threshold))))
        for threshold in (0.05, 0.6, 0.75, 0.85, 0.95)
    ]
    assert counts == sorted(counts, reverse=True) == [3, 3, 2, 1, 0]


def test_one_graph_serves_every_threshold_above_its_own_and_none_below(described: Manifest, layout: Layout) -> None:
    exact = deduplicated(described, layout, SelfDedup(threshold=0.75), least=0.75)
    assert dropped(deduplicated(described, layout, SelfDedup(threshold=0.75), least=0.1)) == dropped(exact)
    with pytest.raises(ThresholdTooLow, match=r"above 0\.6 are wanted.*those above 0\.75 only.*copy_graph\.threshold"):
        deduplicated(described, layout, SelfDedup(threshold=0.6), least=0.75)


def test_the_graph_of_another_pool_is_refused(described: Manifest, layout: Layout) -> None:
    other = made_stage(layout, "describe", [[image_row(1)]], [np.eye(4)[:1]])
    graph = copy_graph.fn(other, CopyGraph(), layout)
    with pytest.raises(ValueError, match=r"is the graph of describe/.*Give the descriptors that copy_graph was given"):
        self_dedup.fn(described, graph, SelfDedup(), layout)


def test_rows_keep_their_columns_and_their_parts(described: Manifest, layout: Layout) -> None:
    rows = rows_of(deduplicated(described, layout))
    assert [int(row["id"], 16) for row in rows] == [2, 5, 4, 1, 3, 7, 6]
    assert rows[4]["width"] == 200
    assert rows[0]["value"] is rows[0]["other"] is rows[0]["detail"] is None


def by_the_loop(vectors: np.ndarray, threshold: float) -> tuple[set[int], dict[int, int]]:
    """(images kept, {image: first of its group}) of images of one size and increasing id."""
    rows = unit(vectors.astype(np.float16).astype(np.float64))
    group = np.arange(len(rows))
    for left in range(len(rows)):
        for right in np.flatnonzero(rows[left + 1 :] @ rows[left] > threshold) + left + 1:
            old, new = sorted((group[left], group[right]), reverse=True)
            group[group == old] = new
    sizes = np.bincount(group, minlength=len(rows))
    return set(group.tolist()), {row: int(group[row]) for row in range(len(rows)) if sizes[group[row]] > 1}


def families(layout: Layout, cuts: Sequence[int] = (250,)) -> tuple[Manifest, np.ndarray]:
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(1, 120, 24)) + 0.4 * random.normal(size=(5, 120, 24))).reshape(600, 24)
    vectors = unit(vectors)
    rows = [image_row(number) for number in range(600)]
    bounds = [0, *cuts, 600]
    slices = [slice(first, last) for first, last in pairwise(bounds)]
    return made_stage(layout, "describe", [rows[s] for s in slices], [vectors[s] for s in slices]), vectors


def test_what_is_kept_and_the_groups_are_those_of_the_slow_loop(layout: Layout) -> None:
    described, vectors = families(layout, [1, 1, 250, 251])
    manifest = deduplicated(described, layout)
    kept, group = by_the_loop(vectors, 0.6)
    assert {int(row["id"], 16) for row in rows_of(manifest) if row["drop"] is None} == kept
    assert groups(manifest) == group
    assert [len(rows_of_part) for rows_of_part in parts_of(manifest)] == [1, 0, 249, 1, 349]


def parts_of(manifest: Manifest) -> list[list[int]]:
    names = [entry for entry in manifest.files if entry.path.startswith("part-")]
    return [[0] * entry.rows for entry in names]


def test_killed_in_the_middle_and_run_again_it_ends_in_the_same_bytes(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_processes: Workers
) -> None:
    whole = deduplicated(families(layout)[0], layout)
    other = Layout(str(tmp_path / "other"))
    described = families(other)[0]
    graph = copy_graph.fn(described, CopyGraph(threshold=0.05), other)
    second = described.paths(".parquet")[1]
    content = Path(second).read_bytes()
    Path(second).write_bytes(b"cut")
    with pytest.raises(PartsFailed, match="run again"):
        self_dedup.fn(described, graph, SelfDedup(), other)
    Path(second).write_bytes(content)
    with workers(two_processes):
        again = self_dedup.fn(described, graph, SelfDedup(), other)
    assert again.files == whole.files
    assert again.facts == whole.facts
    assert not list(Path(again.directory).glob("scratch-*"))


@pytest.mark.parametrize("keeper", ["largest", "earliest"])
def test_how_images_are_cut_into_batches_and_ranges_does_not_show(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeper: Any
) -> None:
    """Dates that only some batches have, and components whose rows lie in several."""

    def run(root: Layout) -> Manifest:
        random = np.random.default_rng(3)
        vectors = np.concatenate([np.eye(9), np.eye(9)[random.integers(0, 9, 60)]])
        dated = [{} if row < 20 else {"crawl_date": f"20{row % 7:02d}-01-01"} for row in range(69)]
        rows = [image_row(number, width=100 + number % 5, **more) for number, more in enumerate(dated)]
        cuts = [slice(0, 4), slice(4, 4), slice(4, 30), slice(30, 31), slice(31, 69)]
        made = made_stage(root, "describe", [rows[c] for c in cuts], [vectors[c] for c in cuts])
        return deduplicated(made, root, SelfDedup(keeper=keeper))

    whole = run(layout)
    assert whole.rows_kept == 9
    monkeypatch.setattr("tasks.self_dedup._BATCH_ROWS", 3)
    monkeypatch.setattr("tasks.self_dedup._RANGE_ROWS", 4)
    monkeypatch.setattr("tasks.graph.keepers._AT_ONCE", 2)
    assert run(Layout(str(tmp_path / "other"))).files == whole.files


def flow_bytes(stage: Stage, num_rows: int) -> int:
    """The peak of the flow's own part of the stage; three quarters of the rows hang together in chains of three."""

    def edges() -> Iterator[Edges]:
        for start in range(0, num_rows - 4, 1 << 16):
            left = np.arange(start, min(start + (1 << 16), num_rows - 4), dtype=np.int64)
            left = left[left % 4 < 2]
            yield Edges(left, left + 1, np.full(len(left), 0.7, dtype=np.float32))

    batches = [Span(first, min(first + (1 << 17), num_rows), (), ()) for first in range(0, num_rows, 1 << 17)]
    tracemalloc.start()
    try:
        labels, _ = components(edges, num_rows)
        grouped(stage, batches, labels, edges)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_flow_needs_eight_bytes_for_an_image_more_though_most_have_copies(layout: Layout) -> None:
    stage = Stage("self_dedup", version=1, config=SelfDedup(), inputs={}, layout=layout)
    flow_bytes(stage, 10_000)  # compiled, imported
    small, large = (flow_bytes(stage, num_rows) for num_rows in (1_500_000, 3_500_000))
    assert 7.9 < (large - small) / 2_000_000 < 8.3


def chained(layout: Layout) -> Manifest:
    """Two groups of six copies, and a row of ten images between them, each similar to the next at 0.65."""
    bridge = np.eye(12, 40)
    for at in range(1, 12):
        bridge[at] = 0.65 * bridge[at - 1] + np.sqrt(1 - 0.65**2) * bridge[at]
    ends = [np.tile(bridge[at], (6, 1)) for at in (0, 11)]
    noise = 0.002 * np.random.default_rng(0).normal(size=(22, 40))
    vectors = unit(np.concatenate([ends[0], bridge[1:11], ends[1]]) + noise)
    return made_stage(layout, "describe", [[image_row(number) for number in range(22)]], [vectors])


def test_a_giant_component_raises_an_alarm_and_the_cut_takes_it_apart(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    described = chained(layout)
    plain = deduplicated(described, layout, SelfDedup(max_component=20))
    assert "1 components of more than 20 images, the largest of 22" in plain.facts["alarm"]
    assert "self_dedup.cut" in caplog.text
    assert plain.rows_kept == 1
    cut = deduplicated(described, layout, SelfDedup(max_component=20, cut=Cut(max_size=10, strict_threshold=0.75)))
    assert "alarm" not in cut.facts
    assert (cut.facts["cut"]["num_oversized"], cut.facts["largest_component"], cut.rows_kept) == (1, 6, 12)
    assert set(groups(cut).values()) == {0, 16}


def test_an_empty_pool_is_an_error_that_says_what_dropped_it(layout: Layout) -> None:
    empty = made_stage(layout, "describe", [[image_row(1, drop="truncated")]], [np.zeros((0, 4))])
    with pytest.raises(NoImages, match=r"no image is left of stage describe.*earlier"):
        deduplicated(empty, layout)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.3, 60])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValidationError, match="threshold"):
        SelfDedup(threshold=threshold)
