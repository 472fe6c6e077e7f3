"""Balanced sampling is the paper's loop, gives what was asked for, and never more than there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.algorithms.balanced import (
    allot,
    evenness,
    gini,
    last_sampled,
    leaf_order,
    sampled,
    share_out,
)
from tasks.algorithms.hierarchy import closest_per_cluster, default_levels, default_sample_size
from tasks.algorithms.sampling import mix


def keys_of(num: int) -> np.ndarray:
    return mix(np.arange(num, dtype=np.uint64))


def slow_share(sizes: list[int], target: int, keys: list[int]) -> list[int]:
    """One image at a time to whoever has least and still holds more; of equal ones, a whole round in key order."""
    share = [0] * len(sizes)
    left = min(target, sum(sizes))
    while left:
        waiting = sorted((i for i in range(len(sizes)) if share[i] < sizes[i]), key=lambda i: (share[i], keys[i]))
        share[waiting[0]] += 1
        left -= 1
    return share


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 40), min_size=5, max_size=5),
)
def test_sharing_out_is_the_slow_loop(families: list[list[int]], targets: list[int]) -> None:
    sizes = np.array([size for family in families for size in family])
    parents = np.array([number for number, family in enumerate(families) for _ in family])
    wanted = np.array(targets[: len(families)])
    keys = keys_of(len(sizes))
    shuffled = np.random.default_rng(0).permutation(len(sizes))
    found = np.empty(len(sizes), dtype=np.int64)
    found[shuffled] = share_out(sizes[shuffled], parents[shuffled], wanted, keys[shuffled])
    for number, family in enumerate(families):
        mine = parents == number
        assert found[mine].tolist() == slow_share(family, targets[number], keys[mine].tolist())
        assert found[mine].sum() == min(targets[number], sum(family))
        assert (found[mine] <= sizes[mine]).all()
        cut = [share for share, size in zip(found[mine], sizes[mine], strict=True) if share < size]
        assert not cut or max(found[mine]) - min(cut) <= 1  # one integer cut, and what remains


@pytest.mark.parametrize("target", [0, 1, 37, 500, 4999, 10**6])
def test_a_hierarchy_gives_its_target_exactly_and_never_more_than_a_leaf_holds(target: int) -> None:
    random = np.random.default_rng(3)
    sizes = random.zipf(1.5, 300).clip(0, 400) - 1
    parents = [random.integers(0, 40, 300), random.integers(0, 7, 40)]
    found = allot(sizes, parents, target, seed=1)
    assert found.sum() == min(target, sizes.sum())
    assert (found <= sizes).all()
    top = parents[1][parents[0]]
    shares = np.bincount(top, weights=found, minlength=7)
    assert shares.tolist() == slow_share(
        np.bincount(top, weights=sizes, minlength=7).astype(int).tolist(), target, keys_in_order(shares)
    )


def keys_in_order(shares: np.ndarray) -> list[int]:
    """Keys that give the remainder to those that have it: the cut itself is what is compared."""
    return (-shares).astype(int).tolist()


def test_another_seed_moves_only_the_remainder() -> None:
    sizes, parents = np.full(10, 100), [np.zeros(10, dtype=np.int64)]
    one, other = (allot(sizes, parents, 47, seed=seed) for seed in (1, 2))
    assert sorted(one) == sorted(other) == [4] * 3 + [5] * 7
    assert one.tolist() != other.tolist()


@pytest.mark.parametrize("leaf", ["random", "closest"])
def test_a_leaf_gives_exactly_its_share_by_key_or_by_cosine(leaf: str) -> None:
    random = np.random.default_rng(0)
    leaves, keys = random.integers(0, 20, 2000), keys_of(2000)
    cosines = random.uniform(-1, 1, 2000).round(2).astype(np.float32)  # with ties
    share = np.minimum(np.bincount(leaves, minlength=21), random.integers(0, 120, 21))
    order = leaf_order(cosines, keys, leaf)  # type: ignore[arg-type]
    chosen = sampled(leaves, order, share, last_sampled(leaves, order, share))
    assert np.array_equal(np.bincount(leaves[chosen], minlength=21), share)
    for number in range(20):
        mine = np.flatnonzero(leaves == number)
        rank = (lambda i: keys[i]) if leaf == "random" else (lambda i: (-cosines[i], keys[i]))
        assert set(mine[chosen[mine]]) == set(sorted(mine, key=rank)[: share[number]])


def test_sampling_flattens_a_zipf_pool() -> None:
    sizes = (100_000 / np.arange(1, 101)).astype(np.int64)
    found = allot(sizes, [], 20_000, seed=0)
    assert gini(found) < 0.3 < 0.6 < gini(sizes)
    assert evenness(found) > 0.98 > evenness(sizes)


def test_gini_and_evenness_at_their_ends() -> None:
    assert gini(np.full(5, 7)) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert evenness(np.full(5, 7)) == pytest.approx(1.0)
    assert evenness(np.array([0, 0, 9])) == 0.0
    assert (gini(np.zeros(3)), evenness(np.zeros(3)), evenness(np.array([4]))) == (0.0, 0.0, 1.0)


def test_levels_follow_the_papers_ratios_and_small_pools_have_few() -> None:
    assert default_levels(743_000_000) == [10_040_540, 502_027, 50_202, 10_040]
    assert default_levels(5000) == [67]
    assert default_levels(100) == [4]
    assert default_levels(3) == [3]
    assert [default_sample_size(*pair) for pair in ((10**7, 500_000), (500_000, 50_000), (50_000, 10_000))] == [
        10,
        5,
        3,
    ]


def test_the_closest_of_each_cluster_are_the_slow_loops() -> None:
    random = np.random.default_rng(2)
    labels, keys = random.integers(0, 30, 500), keys_of(500)
    cosines = random.uniform(0, 1, 500).round(1)
    found = closest_per_cluster(labels, cosines, keys, num=4)
    expected = [
        row
        for label in range(30)
        for row in sorted(np.flatnonzero(labels == label), key=lambda row: (-cosines[row], keys[row]))[:4]
    ]
    assert found.tolist() == sorted(expected)
