import numpy as np

from tasks.algorithms.sampling import id_keys, row_uniforms, sample, sample_per_group


def test_the_sample_of_a_cluster_does_not_depend_on_the_order_of_the_rows() -> None:
    random = np.random.default_rng(0)
    ids = np.array([f"{random.integers(2**60):024x}" for _ in range(500)])
    clusters = random.integers(0, 20, 500)
    chosen = set(ids[sample_per_group(clusters, id_keys(ids, seed=3), per_group=7)])
    order = random.permutation(500)
    again = set(ids[order][sample_per_group(clusters[order], id_keys(ids[order], seed=3), per_group=7)])
    assert chosen == again
    assert chosen != set(ids[sample_per_group(clusters, id_keys(ids, seed=4), per_group=7)])


def test_every_group_gives_as_many_as_it_has_up_to_the_limit() -> None:
    groups = np.array([5, 1, 1, 1, 5, 9, 1])
    rows = sample_per_group(groups, id_keys([str(i) for i in range(7)], seed=0), per_group=2)
    assert np.bincount(groups[rows])[[1, 5, 9]].tolist() == [2, 2, 1]
    assert (np.diff(rows) > 0).all()


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    keys = id_keys([f"image-{i}" for i in range(100)], seed=1)
    assert set(sample(keys, 10)) < set(sample(keys, 30)) < set(sample(keys, 1000)) == set(range(100))


def test_a_key_does_not_depend_on_how_long_other_ids_are() -> None:
    assert id_keys(["abc"], seed=5)[0] == id_keys(["abc", "x" * 50], seed=5)[0]


def test_keys_are_spread_evenly() -> None:
    keys = id_keys([f"{i:024x}" for i in range(20_000)], seed=0)
    assert len(np.unique(keys)) == 20_000
    counts, _ = np.histogram(keys.astype(np.float64), bins=20, range=(0, 2.0**64))
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square of 19 degrees of freedom: 50 is beyond 0.9999


def test_row_uniforms_are_one_stream_wherever_it_is_cut() -> None:
    whole = row_uniforms(0, 1000, seed=9)
    assert np.array_equal(whole[300:], row_uniforms(300, 700, seed=9))
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.03


def test_no_rows_give_no_sample() -> None:
    assert len(id_keys([], seed=0)) == len(sample_per_group(np.zeros(0, int), id_keys([], seed=0), per_group=3)) == 0
