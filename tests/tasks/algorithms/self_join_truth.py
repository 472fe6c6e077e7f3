"""What the tests of the join share: vectors with pairs on either side of any threshold, and brute force over them."""

from collections.abc import Iterable

import numpy as np

from tasks.algorithms.self_join import Edges


def families(seed: int, num_families: int = 60, size: int = 6, dim: int = 24, noise: float = 0.16) -> np.ndarray:
    """Unit float16 vectors in families, so that some pairs lie on either side of any threshold."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(num_families, 1, dim))
    vectors = (centres + noise * np.sqrt(dim) * random.normal(size=(num_families, size, dim)) / 2).reshape(-1, dim)
    vectors = vectors[random.permutation(len(vectors))]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def brute_force(vectors: np.ndarray, threshold: float) -> dict[tuple[int, int], float]:
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    cosines = exact @ exact.T
    return {(i, j): cosines[i, j] for i, j in zip(*np.nonzero(np.triu(cosines > threshold, 1)), strict=True)}


def as_dict(blocks: Iterable[Edges]) -> dict[tuple[int, int], float]:
    found = [
        ((int(i), int(j)), float(s))
        for edges in blocks
        for i, j, s in zip(edges.left, edges.right, edges.similarity, strict=True)
    ]
    assert len(dict(found)) == len(found), "a pair came twice"
    return dict(found)
