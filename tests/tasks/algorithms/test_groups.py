"""The best of every group, its rows' strongest edge, a histogram that stays short, and a measure of quality."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.algorithms.components import Components
from tasks.algorithms.groups import best_of_each, effective_pixels, raise_to, size_table


def test_rows_keep_their_strongest_edge_inside_of_their_group() -> None:
    forest = Components(8)
    forest.add(np.array([1, 2, 5]), np.array([2, 6, 7]))
    labels = forest.labels()
    best = np.zeros(8, dtype=np.float32)
    for left, right, similarity in [([1, 2, 0], [2, 6, 3], [0.7, 0.9, 0.99]), ([5, 1], [7, 6], [0.65, 0.8])]:
        raise_to(best, labels, np.array(left), np.array(right), np.array(similarity, dtype=np.float32))
    assert best.tolist() == pytest.approx([0, 0.8, 0.9, 0, 0, 0.65, 0.9, 0.65])  # 0-3 are apart: a cut took that edge


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_best_of_a_group_is_its_preferred_row_and_of_equals_the_first(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = random.integers(0, 30, 80)
    pixels, ids = random.integers(0, 3, 80), random.permutation(80) // 2
    expected = [
        min(np.flatnonzero(groups == group), key=lambda row: (-pixels[row], ids[row], row))
        for group in np.unique(groups)
    ]
    assert best_of_each(groups, [-pixels, ids]).tolist() == expected
    assert best_of_each(groups, []).tolist() == np.unique(groups, return_index=True)[1].tolist()
    assert best_of_each(groups[:0], [pixels[:0]]).tolist() == []


def test_many_sizes_make_a_short_table_that_counts_every_component() -> None:
    table = size_table({1: 9, 64: 2, 65: 1, 128: 4, 129: 1, 5_000_000: 1})
    assert table == {"1": 9, "64": 2, "65-128": 5, "129-256": 1, "4194305-8388608": 1}
    assert len(size_table(dict.fromkeys(range(1, 100_000), 1))) == 64 + 11


def test_copies_that_were_enlarged_or_compressed_again_count_less_and_finer_ones_more() -> None:
    pixels = np.array([1_000_000, 4_000_000, 4_000_000, 1_000_000, 1_000_000, 250_000, 0])
    num_bytes = np.array([240_000, 420_000, 700_000, 120_000, 9_000, 80_000, 5])
    bits = np.array([2.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0], dtype=np.float32)
    original, enlarged, finer, squeezed, lossless, reduced, unknown = effective_pixels(pixels, num_bytes, bits).tolist()
    assert squeezed < reduced < enlarged < original < lossless < finer
    assert (original, squeezed, lossless, unknown) == (921_600, 230_400, 1_000_000, 0)
