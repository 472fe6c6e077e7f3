"""The pairs, groups and rows that pages show are those a slow search would choose, however the edges come."""

from itertools import pairwise

import numpy as np
import pytest

from storage.layout import Layout
from tasks.algorithms.self_join import Edges
from tasks.graph.edges import graph_edges
from tasks.graph.files import select
from tasks.inspection.config import Inspection
from tasks.inspection.copies import groups_of, largest_groups, size_classes, spread
from tasks.inspection.images import kept_starts, rows_at
from tasks.inspection.pairs import Picked, pick_pairs, threshold_grid, weakest_joint
from tests.tasks.inspection_world import COPY, POOL, components, make_world
from tests.tasks.vector_stages import image_row, made_stage, rows_of

THRESHOLD = 0.6


def some_edges(seed: int, num_rows: int = 300, num_edges: int = 900) -> Edges:
    rng = np.random.default_rng(seed)
    ends = np.sort(np.array([rng.choice(num_rows, 2, replace=False) for _ in range(num_edges)]), axis=1)
    ends = np.unique(ends, axis=0)
    similarity = rng.uniform(0.45, 1.0, len(ends)).astype(np.float32)
    similarity[:5] = np.float32(THRESHOLD)
    return Edges(ends[:, 0], ends[:, 1], similarity)


def pick(edges: Edges, blocks: int = 1, num: int = 9, seed: int = 0) -> Picked:
    parts = [select(edges, part) for part in np.array_split(np.arange(len(edges.left)), blocks)]
    return pick_pairs(parts, lowest=0.45, threshold=THRESHOLD, num=num, num_per_rung=3, seed=seed)


def in_turn(pairs: list[tuple[int, int, float]], num: int) -> list[tuple[int, int, float]]:
    """The first ones in which no image stands twice."""
    chosen: list[tuple[int, int, float]] = []
    for pair in pairs:
        if len(chosen) < num and not any(set(pair[:2]) & set(other[:2]) for other in chosen):
            chosen.append(pair)
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_the_closest_calls_are_the_pairs_nearest_to_the_threshold(seed: int) -> None:
    edges = some_edges(seed)
    picked = pick(edges)
    pairs = list(zip(*(column.tolist() for column in edges), strict=True))
    above = sorted([p for p in pairs if p[2] > np.float32(THRESHOLD)], key=lambda p: (p[2], p[:2]))
    below = sorted([p for p in pairs if p[2] <= np.float32(THRESHOLD)], key=lambda p: (-p[2], p[:2]))
    assert picked.above == in_turn(above, 9)
    assert picked.below == in_turn(below, 9)


def test_every_step_counts_all_its_pairs_and_shows_some_of_them() -> None:
    edges = some_edges(4)
    picked = pick(edges)
    assert sum(picked.counts) == len(edges.left)
    assert picked.steps[0][0] == pytest.approx(0.45)
    assert picked.steps[-1][1] == 1.0
    for (low, high), count, pairs in zip(picked.steps, picked.counts, picked.rungs, strict=True):
        inside = (edges.similarity > np.float32(low)) & (edges.similarity <= np.float32(high))
        assert count == inside.sum()
        assert len(pairs) == 3
        assert all(low < similarity <= high for _, _, similarity in pairs)


@pytest.mark.parametrize("blocks", [2, 17, 400])
def test_blocks_and_order_of_the_edges_change_nothing(blocks: int) -> None:
    edges = some_edges(5)
    shuffled = select(edges, np.random.default_rng(blocks).permutation(len(edges.left)))
    assert pick(shuffled, blocks) == pick(edges)


def test_another_seed_shows_other_pairs_of_a_step_and_the_same_closest_calls() -> None:
    edges = some_edges(6)
    one, other = pick(edges), pick(edges, seed=1)
    assert one.rungs != other.rungs
    assert (one.above, one.below, one.counts) == (other.above, other.below, other.counts)


@pytest.mark.parametrize("seed", range(6))
def test_the_weakest_joint_is_where_a_component_falls_apart_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain = list(pairwise(rng.permutation(12).tolist()))
    more = [tuple(rng.choice(12, 2, replace=False).tolist()) for _ in range(10)]
    ends = np.array(sorted({(min(pair), max(pair)) for pair in chain + more}))
    edges = Edges(ends[:, 0], ends[:, 1], rng.permutation(len(ends)).astype(np.float32) / 100 + 0.5)
    place = weakest_joint(edges)
    assert place is not None

    def whole(least: float) -> bool:
        here = edges.similarity >= np.float32(least)
        return len(components(12, list(zip(edges.left[here], edges.right[here], strict=True)))) == 1

    joint = float(edges.similarity[place])
    assert whole(joint)
    assert not whole(joint + 0.005)


def test_edges_that_do_not_hang_together_have_no_joint() -> None:
    ends = np.array([[0, 1], [2, 3]])
    assert weakest_joint(Edges(ends[:, 0], ends[:, 1], np.array([0.9, 0.8], dtype=np.float32))) is None
    assert weakest_joint(Edges(ends[:0, 0], ends[:0, 1], np.zeros(0, dtype=np.float32))) is None


@pytest.mark.parametrize(("lowest", "now"), [(0.45, 0.6), (0.45, 0.45), (0.333, 0.6123), (0.3, 0.995)])
def test_thresholds_to_try_begin_at_the_lowest_and_hold_the_runs_own(lowest: float, now: float) -> None:
    grid = threshold_grid(lowest, now)
    assert grid[0] == lowest
    assert now in grid
    assert all(0 < step <= 0.0101 for step in np.diff(grid))
    assert {0.7, 0.8, 0.99} <= set(grid)


def test_the_largest_groups_show_their_keeper_the_loosest_first_and_their_weakest_joint(layout: Layout) -> None:
    world = make_world(layout)
    unique, graph = world.run.unique, world.run.graph
    sizes = Inspection(groups=3, members=4)
    groups = groups_of(unique)
    found = largest_groups(unique, groups, graph_edges(graph, COPY), sizes)
    links = [(a, b) for a, b, s in zip(*world.edges, strict=True) if s > np.float32(COPY)]
    true = sorted((group for group in components(POOL, links) if len(group) > 1), key=lambda group: -len(group))
    verdicts = rows_of(unique)
    assert [group.size for group in found] == [len(group) for group in true[:3]]
    for group in found:
        rows = next(rows for rows in true if group.keeper.row in rows)
        assert verdicts[group.keeper.row]["drop"] is None
        others = sorted(rows - {group.keeper.row}, key=lambda row: (verdicts[row]["value"], row))
        assert [member.image.row for member in group.others] == spread(others, 3)
        assert group.joint is not None
        inside = sorted((s for a, b, s in zip(*world.edges, strict=True) if {int(a), int(b)} <= rows), reverse=True)
        joint = next(
            least
            for least in inside
            if any(
                rows == component
                for component in components(
                    POOL,
                    [(a, b) for a, b, s in zip(*world.edges, strict=True) if s >= least and {int(a), int(b)} <= rows],
                )
            )
        )
        assert group.joint.similarity == pytest.approx(float(joint), abs=1e-6)


def test_components_by_size_count_every_image_once(layout: Layout) -> None:
    world = make_world(layout)
    links = [(a, b) for a, b, s in zip(*world.edges, strict=True) if s > np.float32(COPY)]
    true = [len(component) for component in components(POOL, links)]
    for name, count in size_classes(groups_of(world.run.unique)):
        low, _, high = name.partition("–")
        assert count == sum(int(low) <= size <= int(high or low) for size in true)


@pytest.mark.parametrize("num", [0, 1, 2, 5, 10, 50])
def test_spread_keeps_the_order_and_both_ends(num: int) -> None:
    rows = list(range(100, 120))
    chosen = spread(rows, num)
    assert len(chosen) == min(num, len(rows))
    assert chosen == sorted(chosen)
    assert num < 2 or (chosen[0], chosen[-1]) == (rows[0], rows[-1])


def test_rows_are_found_by_their_number_among_the_kept(layout: Layout) -> None:
    rows = [image_row(number, drop="earlier" if number % 3 == 0 else None) for number in range(30)]
    vectors = np.ones((20, 4), dtype=np.float16)
    parts = [rows[:10], rows[10:11], rows[11:]]
    cuts = np.cumsum([sum(row["drop"] is None for row in part) for part in parts])
    with_vectors = made_stage(layout, "embed", parts, np.split(vectors, cuts[:-1]))
    without = made_stage(layout, "clean", parts)
    kept = [row["id"] for row in rows if row["drop"] is None]
    for manifest in (with_vectors, without):
        assert kept_starts(manifest) == [0, *cuts.tolist()]
        assert {number: row["id"] for number, row in rows_at(manifest, range(20), ["id"]).items()} == dict(
            enumerate(kept)
        )
        assert rows_at(manifest, [7, 19, 7], ["id", "url"]).keys() == {7, 19}
        with pytest.raises(IndexError, match="keeps 20"):
            rows_at(manifest, [20], ["id"])
