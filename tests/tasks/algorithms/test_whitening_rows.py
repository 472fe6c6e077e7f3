"""Whitening a row gives the same bits whichever rows are beside it: a vector may be taken from an earlier run."""

import numpy as np
import pytest

from tasks.algorithms.whitening import Whitening, fit_whitening


@pytest.mark.parametrize("dim", [24, 512])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(dim: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(700, dim)).astype(np.float32)
    fitted = fit_whitening(vectors, dim=dim // 2, shrinkage=0.1)
    whitening = Whitening(fitted.mean, fitted.matrix, 0.2)
    together = whitening(vectors)
    for rows in ([0], [255, 256, 257], list(range(300, 299, -1)), list(range(17, 699, 3))):
        assert np.array_equal(whitening(vectors[rows]), together[rows])
    assert whitening(vectors[:0]).shape == (0, whitening.out_dim)
