"""The counts at every threshold are those of the graph rebuilt at that threshold alone, however the edges come."""

from collections.abc import Iterator

import numpy as np
import pytest

from tasks.algorithms.threshold_sweep import ThresholdSweep, sweep_thresholds

THRESHOLDS = [0.45, 0.5, 0.6, 0.61, 0.8, 0.95]


class Graph:
    """Random edges, some of them exactly at a threshold."""

    def __init__(self, seed: int, num_rows: int = 120, num_edges: int = 160) -> None:
        rng = np.random.default_rng(seed)
        self.num_rows = num_rows
        self.left = rng.integers(0, num_rows - 1, num_edges)
        self.right = rng.integers(self.left + 1, num_rows)
        self.similarity = rng.uniform(0.4, 1.0, num_edges).astype(np.float32)
        self.similarity[:10] = np.float32(0.6)

    def blocks(self, size: int, order: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        index = np.arange(len(self.left)) if order is None else order

        for start in range(0, len(index), size):
            here = index[start : start + size]
            yield self.left[here], self.right[here], self.similarity[here]

    def components(self, threshold: float) -> list[set[int]]:
        """By flooding from row to row: slow, and nothing like a union-find."""
        linked: dict[int, set[int]] = {row: set() for row in range(self.num_rows)}
        for left, right, similarity in zip(self.left, self.right, self.similarity, strict=True):
            if similarity > np.float32(threshold):
                linked[int(left)].add(int(right))
                linked[int(right)].add(int(left))
        found, seen = [], set[int]()
        for row in range(self.num_rows):
            if row in seen:
                continue
            reached, front = {row}, [row]
            while front:
                fresh = linked[front.pop()] - reached
                reached |= fresh
                front += fresh
            seen |= reached
            found.append(reached)
        return found


def as_lists(sweep: ThresholdSweep) -> dict[str, list[int]]:
    return {name: np.asarray(value).tolist() for name, value in vars(sweep).items()}


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_those_of_the_graph_rebuilt_at_each_threshold(seed: int) -> None:
    graph = Graph(seed)
    sweep = sweep_thresholds(graph.num_rows, graph.blocks(16), THRESHOLDS)
    for place, threshold in enumerate(THRESHOLDS):
        components = graph.components(threshold)
        assert sweep.edges[place] == (graph.similarity > np.float32(threshold)).sum()
        assert sweep.dropped[place] == graph.num_rows - len(components)
        assert sweep.components[place] == sum(len(component) > 1 for component in components)
        assert sweep.largest[place] == max(len(component) for component in components)
        assert sweep.marked_any[place] == 0


@pytest.mark.parametrize("num_groups", [1, 3, 9, 40, 64])
def test_marked_components_count_for_every_group_that_marks_them(num_groups: int) -> None:
    graph, counted = Graph(7), 90
    references = np.arange(counted, graph.num_rows)
    marks = [references[references % num_groups == group] for group in range(num_groups)]
    sweep = sweep_thresholds(graph.num_rows, graph.blocks(1000), THRESHOLDS, marks=marks, counted=counted)
    for place, threshold in enumerate(THRESHOLDS):
        components = graph.components(threshold)
        pool = [{row for row in component if row < counted} for component in components]
        for group, rows in enumerate(marks):
            holding = [p for p, c in zip(pool, components, strict=True) if c & set(rows.tolist())]
            assert sweep.marked[group, place] == sum(map(len, holding))
        any_ = [p for p, c in zip(pool, components, strict=True) if c & set(references.tolist())]
        assert sweep.marked_any[place] == sum(map(len, any_))
        assert sweep.largest[place] == max(map(len, pool))
        assert sweep.components[place] == sum(len(rows) > 1 for rows in pool)


@pytest.mark.parametrize(("block", "held"), [(1, 1), (7, 20), (50, 60), (1000, 1_000_000)])
def test_blocks_order_and_memory_change_nothing(block: int, held: int) -> None:
    graph = Graph(3)
    marks = [np.array([100, 101, 5])]
    expected = sweep_thresholds(graph.num_rows, graph.blocks(1000), THRESHOLDS, marks=marks, counted=100)
    order = np.random.default_rng(block).permutation(len(graph.left))
    found = sweep_thresholds(
        graph.num_rows, graph.blocks(block, order), THRESHOLDS, marks=marks, counted=100, held_edges=held
    )
    assert as_lists(found) == as_lists(expected)


def test_a_graph_without_edges_drops_nothing() -> None:
    sweep = sweep_thresholds(3, [], [0.5])
    assert (sweep.dropped.tolist(), sweep.largest.tolist(), sweep.edges.tolist()) == ([0], [1], [0])


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.5], [0.6, 0.5]])
def test_thresholds_that_do_not_increase_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(ValueError, match="must increase"):
        sweep_thresholds(3, [], thresholds)


def test_an_edge_to_a_row_that_is_not_there_is_refused() -> None:
    edges = [(np.array([0]), np.array([3]), np.array([0.9], dtype=np.float32))]
    with pytest.raises(IndexError, match="row 3 in a graph of 3"):
        sweep_thresholds(3, edges, [0.5])
