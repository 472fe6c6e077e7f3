"""Whatever hangs together with a benchmark's image goes, directly or through other images, and says with which."""

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from storage.filesystem import read_bytes
from storage.layout import Layout
from storage.manifest import Manifest
from storage.tables import read_table
from tasks import link_references as among
from tasks import stage
from tasks.copy_graph import ThresholdTooLow
from tasks.graph.chain_cut import Cut
from tasks.leaks import judge as leak_judge
from tasks.leaks import links as benchmark_links
from tasks.leaks.links import LinkJoin, LinkRecallTooLow
from tasks.link_benchmark import link_benchmark
from tasks.link_references import link_references
from tasks.pool import NoImages
from tasks.relative_dedup import RelativeDedup, relative_dedup
from tasks.stage import PartsFailed
from tests.tasks.leak_stages import Leaks, benchmark_of, cosines, graph_of, matrix, pool_of, run_stages, unique_of
from tests.tasks.vector_stages import at_cosines, image_row, made_stage, rows_of

DIM = 16


@pytest.fixture
def described(layout: Layout) -> Manifest:
    """Image 1 is near reference 100, 2 near 1 only, 3 far; 4 near 101, 5 a copy of 4; 6 and 7 near each other."""
    chain, second, apart = at_cosines([0.5, 0.55], DIM, 0), at_cosines([0.9, 0.95], DIM, 4), at_cosines([0.5], DIM, 8)
    vectors = np.stack([chain[1], chain[2], np.eye(DIM)[14], second[1], second[2], apart[0], apart[1]])
    return pool_of(layout, vectors, [3])


@pytest.fixture
def references(layout: Layout) -> list[Manifest]:
    birds, cars = at_cosines([0.5], DIM, 0)[:1], np.stack([at_cosines([0.9], DIM, 4)[0], np.eye(DIM)[12]])
    return [benchmark_of(layout, "birds/test", birds, 100), benchmark_of(layout, "cars/train", cars, 101)]


def dropped(manifest: Manifest) -> Leaks:
    rows = {int(row["id"], 16): row for row in rows_of(manifest) if row["drop"]}
    assert {row["drop"] for row in rows.values()} <= {"benchmark_copy"}
    return {number: (int(row["other"], 16), row["detail"], round(row["value"], 2)) for number, row in rows.items()}


def random_web(seed: int, num_images: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A pool and three benchmarks of loose groups that chain into one another, some through references alone."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(num_images // 4, 12))
    groups = centres[random.integers(0, len(centres), num_images)] + 0.75 * random.normal(size=(num_images, 12))
    names = ["birds/test", "birds/train", "cars/test"]
    sets = {name: centres[random.integers(0, len(centres), 8)] + random.normal(size=(8, 12)) for name in names}
    return groups, sets


def by_brute_force(
    described: Manifest, references: Sequence[Manifest], threshold: float, copies: set[int]
) -> tuple[set[int], set[int]]:
    """Numbers of the images that must go, and those of them that are directly linked."""
    numbers = np.array([int(row["id"], 16) for row in rows_of(described)])
    keep = ~np.isin(numbers, list(copies))
    pool, benchmark = matrix(described)[keep], np.concatenate([matrix(one) for one in references])
    both = np.concatenate([pool, benchmark])
    _, labels = connected_components(cosines(both, both) > threshold, directed=False)
    chained = np.isin(labels[: len(pool)], labels[len(pool) :])
    direct = (cosines(pool, benchmark) > threshold).any(axis=1)
    return set(numbers[keep][chained].tolist()), set(numbers[keep][direct].tolist())


def test_components_with_a_reference_are_dropped_whole_and_others_stay(
    described: Manifest, references: list[Manifest], layout: Layout
) -> None:
    manifest, _ = run_stages(described, references, layout, copies={5})
    assert dropped(manifest) == {
        1: (100, "birds/test direct", 0.5),
        2: (100, "birds/test through a chain", 0.55),
        4: (101, "cars/train direct", 0.9),
    }
    assert sorted(int(row["id"], 16) for row in rows_of(manifest)) == [1, 2, 3, 4, 6, 7]  # 5 went before
    assert (manifest.rows_in, manifest.rows_kept, dict(manifest.drops)) == (6, 3, {"benchmark_copy": 3})


@pytest.mark.parametrize("seed", range(4))
def test_what_goes_is_what_brute_force_finds(seed: int, layout: Layout) -> None:
    pool, sets = random_web(seed, 90)
    described = pool_of(layout, pool, [20, 20, 61])
    references = [benchmark_of(layout, name, one, 1000 * (n + 1)) for n, (name, one) in enumerate(sets.items())]
    copies = set(range(3, 90, 7))
    manifest, _ = run_stages(described, references, layout, copies=copies, threshold=0.62)
    gone, direct = by_brute_force(described, references, 0.62, copies)
    found = dropped(manifest)
    assert set(found) == gone
    assert {number for number, (_, detail, _) in found.items() if detail.endswith("direct")} == direct
    assert direct < gone, "the test needs chains"
    assert 0 < len(gone) < 90 - len(copies), "the test needs images that stay"


def test_the_most_similar_reference_stands_for_a_direct_link_and_its_benchmark_is_named(layout: Layout) -> None:
    described = pool_of(layout, np.eye(DIM)[:1])
    near, nearer = at_cosines([0.6], DIM, 0)[1:], at_cosines([0.8], DIM, 0)[1:]
    references = [benchmark_of(layout, "a/test", near, 100), benchmark_of(layout, "b/test", nearer, 200)]
    manifest, _ = run_stages(described, references, layout)
    assert dropped(manifest) == {1: (200, "b/test direct", 0.8)}
    table = manifest.facts["benchmarks"]
    assert [(one["touched"], one["dropped_direct"]) for one in (table["a/test"], table["b/test"])] == [(1, 0), (1, 1)]


def test_images_that_self_dedup_dropped_join_nothing_unless_the_config_says_so(layout: Layout) -> None:
    """Image 1 hangs on the reference through 2 alone, which is a copy of 3."""
    chain = at_cosines([0.5, 0.5], DIM, 0)
    described = pool_of(layout, np.stack([chain[2], chain[1], np.eye(DIM)[9]]))
    references = [benchmark_of(layout, "a/test", chain[:1], 100)]
    runs = [
        run_stages(described, references, layout, copies=copies, through_copies=through)[0]
        for copies, through in (((), False), ({2}, False), ({2}, True))
    ]
    assert [set(dropped(manifest)) for manifest in runs] == [{1, 2}, set(), {1}]
    assert dropped(runs[2]) == {1: (100, "a/test through a chain", 0.5)}
    assert [manifest.facts["benchmarks"]["a/test"]["touched"] for manifest in runs] == [1, 0, 1]


def chained_to_a_reference(layout: Layout) -> tuple[Manifest, list[Manifest]]:
    """Image 1 is near reference 100, 2 near 1, ... 120 near 119, no image near any other; 121 is a copy of 1, 122 and
    123 are copies of each other."""
    bridge = np.eye(124, 130)
    for at in range(1, 121):
        bridge[at] = 0.55 * bridge[at - 1] + np.sqrt(1 - 0.55**2) * bridge[at]
    copy = 0.9 * bridge[1] + np.sqrt(1 - 0.9**2) * np.eye(130)[125]
    pair = np.stack([np.eye(130)[127], 0.8 * np.eye(130)[127] + 0.6 * np.eye(130)[128]])
    described = pool_of(layout, np.concatenate([bridge[1:121], copy[None], pair]), [50, 90])
    return described, [benchmark_of(layout, "a/test", np.eye(130)[[0, 129]], 100)]


def test_a_chain_that_one_reference_costs_the_pool_raises_an_alarm_that_names_it(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    described, references = chained_to_a_reference(layout)
    manifest, _ = run_stages(described, references, layout)
    assert set(dropped(manifest)) == set(range(1, 122))
    found = {"images": 121, "direct": 2, "references": 1, "reference": f"{100:024x}", "benchmark": "a/test"}
    assert manifest.facts["largest"] == found
    assert f"121 images (98.4% of the pool) is discarded because it holds reference {100:024x}" in caplog.text
    assert "relative_dedup.cut" in manifest.facts["alarm"]
    assert "alarm" not in run_stages(described, references, layout, alarm_share=0.99)[0].facts


def test_the_cut_keeps_a_chain_out_and_drops_what_is_near_a_reference_or_a_copy_of_that(layout: Layout) -> None:
    described, references = chained_to_a_reference(layout)
    manifest, _ = run_stages(described, references, layout, cut=Cut(max_size=50))
    assert dropped(manifest) == {
        1: (100, "a/test direct", 0.55),
        121: (100, "a/test direct", 0.5),
    }
    assert "alarm" not in manifest.facts
    cut = manifest.facts["cut"]
    assert (cut["num_oversized"], cut["num_members"], cut["largest_after"]) == (1, 121, 2)
    apart, _ = run_stages(described, references, layout, cut=Cut(max_size=50), threshold=0.52)
    assert dropped(apart) == {1: (100, "a/test direct", 0.55), 121: (100, "a/test through a chain", 0.9)}
    small = run_stages(described, references, layout, cut=Cut(max_size=200))[0]
    assert set(dropped(small)) == set(range(1, 122)), "components up to the size stay whole"


def test_a_component_may_run_through_references(layout: Layout) -> None:
    """Reference 100 has a copy in another benchmark, 200: the image near 200 belongs to the component of both."""
    chain = at_cosines([0.7, 0.7], DIM, 0)
    described = pool_of(layout, np.concatenate([chain[2:], np.eye(DIM)[8:9]]))
    references = [benchmark_of(layout, "a/test", chain[:1], 100), benchmark_of(layout, "b/test", chain[1:2], 200)]
    manifest, links = run_stages(described, references, layout)
    assert dropped(manifest) == {1: (200, "b/test direct", 0.7)}
    assert (manifest.facts["components"], manifest.facts["largest_component"]) == (1, 1)
    assert links[-1].facts["pairs"] == 1


def test_the_facts_say_what_each_benchmark_cost(
    described: Manifest, references: list[Manifest], layout: Layout
) -> None:
    facts = run_stages(described, references, layout, copies={5})[0].facts
    table = facts["benchmarks"]
    columns = ("images", "touched", "pairs", "dropped_direct", "dropped_through_a_chain")
    assert {name: tuple(row[column] for column in columns) for name, row in table.items()} == {
        "birds/test": (1, 1, 1, 1, 1),
        "cars/train": (2, 1, 1, 1, 0),
    }
    assert facts["threshold"] == 0.45
    assert (facts["components"], facts["largest_component"]) == (2, 2)


def test_borderline_pairs_are_the_nearest_on_both_sides_of_the_threshold(layout: Layout) -> None:
    steps = [0.30, 0.41, 0.43, 0.449, 0.451, 0.48, 0.55, 0.9]
    vectors = np.concatenate([at_cosines([cosine], DIM, 0)[1:] for cosine in steps])
    described, references = pool_of(layout, vectors, [3]), [benchmark_of(layout, "a/test", np.eye(DIM)[:1], 100)]
    manifest, _ = run_stages(described, references, layout, borderline_pairs=2, copies={4})
    rows = read_table(manifest.file("borderline.parquet")).to_pylist()
    found = [(int(row["image"], 16), round(row["similarity"], 2), row["above"]) for row in rows]
    assert found == [(6, 0.48, True), (5, 0.45, True), (3, 0.43, False), (2, 0.41, False)]
    assert {(row["benchmark"], int(row["reference"], 16)) for row in rows} == {("a/test", 100)}
    row = manifest.facts["benchmarks"]["a/test"]
    assert (row["borderline_above"], row["borderline_below"]) == (2, 2)


def test_raising_the_threshold_never_drops_more_images(
    described: Manifest, references: list[Manifest], layout: Layout
) -> None:
    counts = [
        run_stages(described, references, layout, threshold=threshold)[0].drops.get("benchmark_copy", 0)
        for threshold in (0.31, 0.45, 0.52, 0.97)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_the_result_depends_neither_on_the_cut_of_the_pool_nor_on_the_order_of_the_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, sets = random_web(9, 60)
    results = []
    for number, cuts in enumerate([(1,), (7, 30, 31), (59,)]):
        monkeypatch.setattr(benchmark_links, "PARTS_OF_A_GROUP", number + 1)
        layout = Layout(str(tmp_path / f"run-{number}"))
        named = [benchmark_of(layout, name, one, 1000 * (n + 1)) for n, (name, one) in enumerate(sets.items())]
        manifest, _ = run_stages(pool_of(layout, pool, cuts), named[number:] + named[:number], layout, threshold=0.6)
        results.append(
            (rows_of(manifest), manifest.facts["benchmarks"], read_bytes(manifest.file("borderline.parquet")))
        )
    assert results[0] == results[1] == results[2]
    again, _ = run_stages(pool_of(layout, pool, (59,)), named, layout, threshold=0.6)
    assert again.fingerprint == manifest.fingerprint


def test_a_further_benchmark_joins_itself_alone_and_the_result_is_that_of_a_full_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_links, "PARTS_OF_A_GROUP", 1)
    pool, sets = random_web(3, 60)
    layout, other = Layout(str(tmp_path / "run")), Layout(str(tmp_path / "full"))

    def named(place: Layout) -> list[Manifest]:
        return [benchmark_of(place, name, one, 1000 * (n + 1)) for n, (name, one) in enumerate(sets.items())]

    described, references = pool_of(layout, pool, [20, 40]), named(layout)
    computed = count_joins(monkeypatch)
    run_stages(described, references[:2], layout, threshold=0.6)
    assert (computed["link_group"], computed["link_sets"]) == (2 * 3, 3)
    computed.clear()
    manifest, links = run_stages(described, references, layout, threshold=0.6)
    # three groups of the pool with the new benchmark; it with itself and with the two others
    assert (computed["link_group"], computed["link_sets"]) == (3, 3)
    assert (links[-1].facts["computed"], links[-1].facts["reused"]) == (3, 3)
    full, all_links = run_stages(pool_of(other, pool, [20, 40]), named(other), other, threshold=0.6)
    assert rows_of(manifest) == rows_of(full)
    assert manifest.facts["benchmarks"] == full.facts["benchmarks"]
    for incremental, fresh in zip(links, all_links, strict=True):
        assert incremental.files == fresh.files


def test_a_pool_that_has_grown_joins_its_new_groups_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_links, "PARTS_OF_A_GROUP", 1)
    pool, sets = random_web(4, 60)
    old, new, full = (Layout(str(tmp_path / name)) for name in ("old", "new", "full"))

    def named(place: Layout) -> list[Manifest]:
        return [benchmark_of(place, name, one, 1000 * (n + 1)) for n, (name, one) in enumerate(sets.items())]

    base, _ = run_stages(pool_of(old, pool[:40], [20]), named(old), old, threshold=0.6)
    computed = count_joins(monkeypatch)
    grown, links = run_stages(pool_of(new, pool, [20, 40]), named(new), new, threshold=0.6, base=base)
    assert (computed["link_group"], computed["link_sets"]) == (3, 0)
    assert [(one.facts["computed"], one.facts["reused"]) for one in links[:3]] == [(1, 2)] * 3
    fresh, _ = run_stages(pool_of(full, pool, [20, 40]), named(full), full, threshold=0.6)
    assert rows_of(grown) == rows_of(fresh)
    assert grown.fingerprint == fresh.fingerprint


def test_a_run_that_was_cut_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_links, "PARTS_OF_A_GROUP", 1)
    pool, sets = random_web(6, 60)
    layouts = [Layout(str(tmp_path / name)) for name in ("cut", "whole")]
    made = [(pool_of(one, pool, [20, 40]), benchmark_of(one, "a/test", sets["cars/test"], 100)) for one in layouts]
    config = RelativeDedup(self_test=None)
    with monkeypatch.context() as patched:
        calls, find = [0], benchmark_links.Side.find

        def cut_short(self: benchmark_links.Side, vectors: np.ndarray) -> object:
            calls[0] += 1
            if calls[0] == 2:
                raise OSError("the machine went away")
            return find(self, vectors)

        patched.setattr(benchmark_links.Side, "find", cut_short)
        with pytest.raises(PartsFailed, match="the machine went away"):
            link_benchmark.fn(*made[0], config, layouts[0])
    computed = count_joins(monkeypatch)
    resumed = link_benchmark.fn(*made[0], config, layouts[0])
    assert computed["link_group"] == 1
    assert resumed.files == link_benchmark.fn(*made[1], config, layouts[1]).files


def test_the_result_does_not_depend_on_where_and_in_which_order_parts_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_links, "PARTS_OF_A_GROUP", 1)
    pool, sets = random_web(8, 60)
    results = []
    for name in ("here", "there"):
        layout = Layout(str(tmp_path / name))
        named = [benchmark_of(layout, name, one, 1000 * (n + 1)) for n, (name, one) in enumerate(sets.items())]
        manifest, links = run_stages(pool_of(layout, pool, [20, 40]), named, layout, threshold=0.6)
        results.append((manifest.files, [one.files for one in links]))
        assert not list(Path(manifest.directory).glob("scratch-*"))
        monkeypatch.setattr(stage, "map_parts", from_the_last)
        monkeypatch.setattr(leak_judge, "_ROWS_AT_A_TIME", 30)  # of two parts, and of one
    assert results[0] == results[1]


def from_the_last(function: Callable[..., Any], calls: Sequence[Any], **_: Any) -> tuple[list[Any], dict[int, Any]]:
    """`map_parts` as distant workers do it: what they are given and what they give back is pickled."""
    given = [pickle.loads(pickle.dumps((function, call))) for call in reversed(calls)]
    return [pickle.loads(pickle.dumps(work(*call))) for work, call in given][::-1], {}


def count_joins(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many groups and sets are really compared from here on."""
    counts: Counter[str] = Counter()
    find, pairs = benchmark_links.Side.find, among._pairs

    def counted_find(self: benchmark_links.Side, vectors: np.ndarray) -> object:
        counts["link_group"] += 1
        return find(self, vectors)

    def counted_pairs(part: among.TwoSets) -> object:
        counts["link_sets"] += 1
        return pairs(part)

    monkeypatch.setattr(benchmark_links.Side, "find", counted_find)
    monkeypatch.setattr(among, "_pairs", counted_pairs)
    return counts


@pytest.mark.parametrize("assignments", [1, 12])
def test_cells_find_pairs_once_and_the_measured_recall_is_the_true_one(
    assignments: int, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, sets = random_web(5, 400)
    described = pool_of(layout, pool, [150])
    references = benchmark_of(layout, "a/test", np.concatenate(list(sets.values())), 1000)
    real = benchmark_links.fit_quantiser
    monkeypatch.setattr(benchmark_links, "fit_quantiser", lambda *args, **named: real(*args, cell_rows=6, **named))
    join = LinkJoin(exact_up_to=0, assignments=assignments, min_recall=0)
    exact = link_benchmark.fn(described, references, RelativeDedup(self_test=None), layout)
    by_cells = link_benchmark.fn(described, references, RelativeDedup(self_test=None, join=join), layout)
    true, found = pairs_in(exact), pairs_in(by_cells)
    assert len(set(found)) == len(found)
    assert set(found) <= set(true)
    assert by_cells.facts["join"] == "cells"
    assert by_cells.facts["recall_of_pairs"] == len(true)
    assert by_cells.facts["recall"] == round(len(found) / len(true), 5)
    assert (assignments == 12) == (by_cells.facts["recall"] > 0.95)


def pairs_in(links: Manifest) -> list[tuple[int, int, int]]:
    """(group, row, reference) of every pair."""
    entries = [entry.path for entry in links.files if entry.path.startswith("links-a-test-")]
    groups = {name: number for number, name in enumerate(entries)}
    tables = [(name, read_table(links.file(name)).to_pylist()) for name in entries]
    return [(groups[name], row["left"], row["right"]) for name, rows in tables for row in rows]


def test_cells_that_miss_pairs_fail_the_stage_and_say_what_to_raise(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, sets = random_web(5, 200)
    references = benchmark_of(layout, "a/test", np.concatenate(list(sets.values())), 1000)
    real = benchmark_links.fit_quantiser
    monkeypatch.setattr(benchmark_links, "fit_quantiser", lambda *args, **named: real(*args, cell_rows=1, **named))
    config = RelativeDedup(threshold=0.5, self_test=None, join=LinkJoin(exact_up_to=0, assignments=1, min_recall=0.99))
    with pytest.raises(LinkRecallTooLow, match=r"a/test.*Raise relative_dedup\.join\.assignments"):
        link_benchmark.fn(pool_of(layout, pool), references, config, layout)


def test_references_of_another_dimension_are_refused(described: Manifest, layout: Layout) -> None:
    other = benchmark_of(layout, "birds/test", np.eye(8)[:1], 100)
    with pytest.raises(ValueError, match=r"16 dimensions.*birds/test 8.*one encoder and one whitening"):
        run_stages(described, [other], layout)


def test_a_benchmark_without_an_image_or_given_twice_is_an_error(
    described: Manifest, references: list[Manifest], layout: Layout
) -> None:
    empty = made_stage(layout, "describe_benchmarks", [[image_row(1, drop="truncated")]], [np.zeros((0, DIM))])
    with pytest.raises(NoImages, match="describe_benchmarks"):
        run_stages(described, [empty], layout)
    twin = benchmark_of(layout, "birds/test", np.eye(DIM)[3:4], 300)
    with pytest.raises(ValueError, match=r"once.*birds/test"):
        run_stages(described, [*references, twin], layout)


def test_inputs_that_do_not_belong_together_are_refused(
    described: Manifest, references: list[Manifest], layout: Layout
) -> None:
    config = RelativeDedup(self_test=None)
    other = pool_of(layout, np.eye(DIM)[:2])
    graph, unique = graph_of(described, layout), unique_of(described, layout)
    links = [link_benchmark.fn(described, one, config, layout) for one in references]
    among = link_references.fn(references, config, layout)
    with pytest.raises(ValueError, match=r"judges 2 images.* describes 7"):
        relative_dedup.fn(described, unique_of(other, layout), graph, references, [*links, among], config, layout)
    with pytest.raises(ValueError, match="Give the copy graph of the same descriptors"):
        relative_dedup.fn(described, unique, graph_of(other, layout), references, [*links, among], config, layout)
    with pytest.raises(ValueError, match="2 benchmarks, but links of 1"):
        relative_dedup.fn(described, unique, graph, references, [links[0], among], config, layout)
    with pytest.raises(ThresholdTooLow, match=r"Lower copy_graph\.threshold"):
        high = graph_of(described, layout, threshold=0.5)
        relative_dedup.fn(described, unique, high, references, [*links, among], config, layout)
    with pytest.raises(ValueError, match=r"margin 0\.05 must be smaller than threshold 0\.04"):
        RelativeDedup(threshold=0.04)
