"""The bound on edges changes no component at any threshold, holds per image, and does not depend on how edges come."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.algorithms.edge_limit import (
    EdgeLimiter,
    ForestBuilder,
    by_rows,
    find_cuts,
    join_blocks,
    limit_edges,
    spanning_forest,
    split,
)
from tasks.algorithms.self_join import Edges


def graph(seed: int, num_rows: int = 400, cliques: tuple[int, ...] = (150, 90, 5), loose: int = 900) -> Edges:
    """Cliques of copies, and loose edges between and around them; few similarities, so that many are equal."""
    random = np.random.default_rng(seed)
    rows, pairs, start = random.permutation(num_rows), [], 0
    for size in cliques:
        members = rows[start : start + size]
        pairs.append(members[np.array(np.triu_indices(size, 1))])
        start += size
    pairs.append(random.integers(0, num_rows, (2, loose)))
    left, right = np.sort(np.concatenate(pairs, axis=1), axis=0)
    similarity = (0.45 + 0.05 * random.integers(1, 11, len(left))).astype(np.float32)
    apart = left < right
    return first_of_each(Edges(left[apart], right[apart], similarity[apart]))


def first_of_each(edges: Edges) -> Edges:
    _, first = np.unique(edges.left * 10**6 + edges.right, return_index=True)
    return Edges(*(column[first] for column in edges))


def labels_above(edges: Edges, threshold: float, num_rows: int) -> np.ndarray:
    above = edges.similarity > threshold
    ends = (edges.left[above], edges.right[above])
    _, labels = connected_components(
        coo_array((np.ones(above.sum()), ends), shape=(num_rows, num_rows)), directed=False
    )
    return np.asarray(labels)


def by_the_loop(edges: Edges, num_rows: int, neighbours: int) -> set[tuple[int, int]]:
    """The definition, edge by edge: among the first of an end, or in Kruskal's forest of those that are of neither."""
    order = sorted(range(len(edges.left)), key=lambda e: (-edges.similarity[e], edges.left[e], edges.right[e]))
    degrees, kept, over = [0] * num_rows, [], []
    for edge in order:
        ends = int(edges.left[edge]), int(edges.right[edge])
        (kept if min(degrees[end] for end in ends) < neighbours else over).append(ends)
        for end in ends:
            degrees[end] += 1
    tree = list(range(num_rows))
    for left, right in over:
        if tree[left] != tree[right]:
            kept.append((left, right))
            tree = [tree[left] if label == tree[right] else label for label in tree]
    return set(kept)


def pairs_of(edges: Edges) -> set[tuple[int, int]]:
    return set(zip(edges.left.tolist(), edges.right.tolist(), strict=True))


def assert_equal(found: Edges, wanted: Edges) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("neighbours", [1, 8, 64])
def test_the_bounded_graph_is_the_one_that_the_definition_gives(seed: int, neighbours: int) -> None:
    edges = graph(seed)
    limited = limit_edges(edges, num_rows=400, neighbours=neighbours)
    assert pairs_of(limited) == by_the_loop(edges, 400, neighbours)
    assert_equal(limited, by_rows(limited))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("neighbours", [1, 3, 64])
def test_components_above_every_threshold_are_those_of_all_edges(seed: int, neighbours: int) -> None:
    edges = graph(seed, num_rows=500, cliques=(300, 80))
    limited = limit_edges(edges, num_rows=500, neighbours=neighbours)
    assert len(limited.left) < len(edges.left) / 2
    assert pairs_of(limited) <= pairs_of(edges)
    for threshold in [0.0, *np.unique(edges.similarity).tolist()]:
        assert np.array_equal(labels_above(limited, threshold, 500), labels_above(edges, threshold, 500))


def test_an_image_brings_in_at_most_one_edge_more_than_its_neighbours() -> None:
    size, neighbours = 600, 16
    left, right = np.triu_indices(size, 1)
    similarity = np.random.default_rng(0).random(len(left), dtype=np.float32)
    limited = limit_edges(Edges(left, right, similarity), num_rows=size, neighbours=neighbours)
    assert len(limited.left) <= (neighbours + 1) * size


@pytest.mark.parametrize("seed", range(5))
def test_limiting_pieces_and_then_their_union_gives_what_limiting_the_whole_gives(seed: int) -> None:
    edges, random = graph(seed), np.random.default_rng(seed)
    owner = random.integers(0, 4, len(edges.left))
    pieces = [Edges(*(column[owner == piece] for column in edges)) for piece in range(4)]
    limited = [limit_edges(piece, num_rows=400, neighbours=7) for piece in pieces]
    twice = join_blocks([*limited, limited[0]])
    whole = limit_edges(edges, num_rows=400, neighbours=7)
    assert sum(len(piece.left) for piece in limited) < len(edges.left)
    assert_equal(limit_edges(twice, num_rows=400, neighbours=7), whole)
    assert_equal(limit_edges(whole, num_rows=400, neighbours=7), whole)


@pytest.mark.parametrize("block", [1, 37, 5_000, 10**6])
def test_a_stream_gives_the_same_whatever_its_blocks_and_their_order(block: int) -> None:
    edges = graph(1, num_rows=200, cliques=(70,), loose=200)
    order = np.random.default_rng(block).permutation(len(edges.left))
    limiter, forest = EdgeLimiter(200, neighbours=5, at_once=100), ForestBuilder(at_once=100)
    for start in range(0, len(order), block):
        piece = Edges(*(column[order[start : start + block]] for column in edges))
        limiter.add(piece)
        forest.add(piece)
    assert_equal(limiter.result(), limit_edges(edges, num_rows=200, neighbours=5))
    assert_equal(forest.result(), spanning_forest(edges))


def test_a_clique_that_streams_by_is_never_held() -> None:
    """4,000 copies of one image have 8 million pairs: what is held is bounded by the rows and one block."""
    size, neighbours, most = 4_000, 8, 0
    limiter = EdgeLimiter(size, neighbours=neighbours, at_once=10_000)
    for left in range(0, size, 50):
        lefts, rights = (
            side.ravel() for side in np.meshgrid(np.arange(left, left + 50), np.arange(size), indexing="ij")
        )
        upper = lefts < rights
        limiter.add(Edges(lefts[upper], rights[upper], np.ones(int(upper.sum()), dtype=np.float32)))
        most = max(most, limiter.num_held)
    assert most <= 2 * (neighbours + 1) * size + 50 * size
    limited = limiter.result()
    assert len(limited.left) <= (neighbours + 1) * size
    assert len(np.unique(labels_above(limited, 0.5, size))) == 1


def test_cuts_of_ranges_of_rows_are_the_cuts_of_all() -> None:
    edges = graph(2)
    whole = find_cuts(edges, neighbours=6, first_row=0, last_row=400)
    assert 0 < len(whole.rows) < 400
    parts = []
    for first, last in [(0, 130), (130, 131), (131, 400)]:
        mine = [(side >= first) & (side < last) for side in (edges.left, edges.right)]
        touching = Edges(*(column[mine[0] | mine[1]] for column in edges))
        parts.append(find_cuts(touching, neighbours=6, first_row=first, last_row=last))
    for column, found in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.array_equal(np.concatenate(found), column)
    kept, over = split(edges, whole)
    assert len(kept.left) + len(over.left) == len(edges.left)


def test_no_edges_are_no_edges() -> None:
    nothing = limit_edges(join_blocks([]), num_rows=5, neighbours=2)
    assert [len(column) for column in nothing] == [0, 0, 0]
    assert len(EdgeLimiter(0, neighbours=2).result().left) == len(ForestBuilder().result().left) == 0
