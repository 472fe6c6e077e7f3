"""Components of copies keep one image each, by a stated rule; the others say which, and how similar they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from storage.layout import Layout
from storage.manifest import Manifest
from tasks.pool import NoImages
from tasks.self_dedup import EDGES, Join, RecallTooLow, SelfDedup, self_dedup
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


def dropped(manifest: Manifest) -> dict[int, tuple[int, float]]:
    """{image: (keeper, similarity)} by number."""
    rows = [row for row in rows_of(manifest) if row["drop"] is not None]
    assert all(row["drop"] == "copy" for row in rows)
    return {int(row["id"], 16): (int(row["other"], 16), round(row["value"], 3)) for row in rows}


def test_a_chain_of_copies_keeps_its_largest_image_and_a_tie_its_smallest_id(
    described: Manifest, layout: Layout
) -> None:
    manifest = self_dedup.fn(described, SelfDedup(), layout)
    assert dropped(manifest) == {1: (2, 0.8), 3: (2, 0.7), 6: (5, 0.9)}
    assert (manifest.rows_in, manifest.rows_kept, dict(manifest.drops)) == (7, 4, {"copy": 3})
    assert manifest.facts["component_sizes"] == {"1": 2, "2": 1, "3": 1}
    assert (manifest.facts["edges"], manifest.facts["largest_component"], manifest.facts["recall"]) == (3, 3, 1.0)


@pytest.mark.parametrize(("keeper", "kept_of_chain"), [("earliest", 2), ("smallest_id", 1)])
def test_the_keeper_rule_decides(described: Manifest, layout: Layout, keeper: Any, kept_of_chain: int) -> None:
    manifest = self_dedup.fn(described, SelfDedup(keeper=keeper), layout)
    assert {keeper for keeper, _ in dropped(manifest).values()} == {kept_of_chain, 5}


def test_raising_the_threshold_never_drops_more_images(described: Manifest, layout: Layout) -> None:
    counts = [
        len(dropped(self_dedup.fn(described, SelfDedup(threshold=threshold), layout)))
        for threshold in (0.05, 0.6, 0.75, 0.85, 0.95)
    ]
    assert counts == sorted(counts, reverse=True) == [3, 3, 2, 1, 0]


def test_rows_keep_their_columns_and_their_parts(described: Manifest, layout: Layout) -> None:
    rows = rows_of(self_dedup.fn(described, SelfDedup(), layout))
    assert [int(row["id"], 16) for row in rows] == [2, 5, 4, 1, 3, 7, 6]
    assert rows[4]["width"] == 200
    assert rows[0]["value"] is rows[0]["other"] is rows[0]["detail"] is None


def test_images_with_more_copies_than_neighbours_are_counted_and_keep_all_their_edges(layout: Layout) -> None:
    vectors = np.tile(np.eye(4, dtype=np.float32)[:1], (12, 1))
    described = made_stage(layout, "describe", [[image_row(number) for number in range(12)]], [vectors])
    manifest = self_dedup.fn(described, SelfDedup(neighbours=11), layout)
    assert (manifest.facts["saturated"], manifest.facts["edges"]) == (12, 66)
    assert self_dedup.fn(described, SelfDedup(neighbours=12), layout).facts["saturated"] == 0


def families(layout: Layout) -> Manifest:
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(120, 1, 24)) + 0.4 * random.normal(size=(120, 5, 24))).reshape(600, 24)
    rows = [image_row(number) for number in range(600)]
    return made_stage(layout, "describe", [rows[:250], rows[250:]], [unit(vectors[:250]), unit(vectors[250:])])


def test_the_join_by_cells_reports_its_recall_and_drops_what_the_exact_join_drops(layout: Layout) -> None:
    described = families(layout)
    exact = self_dedup.fn(described, SelfDedup(), layout)
    cells = self_dedup.fn(described, SelfDedup(join=Join(exact_up_to=100, assignments=8)), layout)
    assert cells.facts["join"] == "cells"
    assert cells.facts["recall"] > 0.99
    assert cells.facts["edges"] >= 0.99 * exact.facts["edges"]
    assert abs(cells.rows_kept - exact.rows_kept) <= 2


def test_too_low_a_recall_stops_the_stage_and_leaves_no_manifest(layout: Layout) -> None:
    config = SelfDedup(join=Join(exact_up_to=0, assignments=1, min_recall=1.0))
    with pytest.raises(RecallTooLow, match=r"join\.assignments"):
        self_dedup.fn(families(layout), config, layout)
    assert not list(Path(layout.root).glob("stages/self_dedup/*/manifest.json"))


def test_the_edges_are_there_to_be_looked_at(described: Manifest, layout: Layout) -> None:
    edges = pq.read_table(self_dedup.fn(described, SelfDedup(), layout).file(EDGES)).to_pylist()
    assert {(edge["left"], edge["right"]) for edge in edges} == {(0, 3), (0, 4), (1, 6)}


def test_an_empty_pool_is_an_error_that_says_what_dropped_it(layout: Layout) -> None:
    empty = made_stage(layout, "describe", [[image_row(1, drop="truncated")]], [np.zeros((0, 4))])
    with pytest.raises(NoImages, match=r"no image is left of stage describe.*earlier"):
        self_dedup.fn(empty, SelfDedup(), layout)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.3, 60])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValidationError, match="threshold"):
        SelfDedup(threshold=threshold)
