"""Cells hang on the row and the quantiser alone; what a join holds is bounded by the cell; the formula counts right."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tasks.algorithms.blocks import Concatenated, InMemory
from tasks.algorithms.join_backend import Processor
from tasks.algorithms.join_codes import encode
from tasks.algorithms.join_cost import join_cost
from tasks.algorithms.join_threads import in_order
from tasks.algorithms.quantiser import Quantiser, assign_cells, cells_wanted, fit_quantiser
from tasks.algorithms.self_join import join_cells


def topics(num_rows: int, seed: int = 0, dim: int = 32) -> np.ndarray:
    """Vectors around 40 directions, as float16."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dim))
    vectors = centres[random.integers(0, 40, num_rows)] + random.normal(size=(num_rows, dim))
    return vectors.astype(np.float16)


@pytest.fixture(scope="module")
def quantiser() -> Quantiser:
    return fit_quantiser(InMemory(topics(4000)), num_rows=4000, assignments=3, seed=0, cell_rows=100)


def test_the_number_of_cells_follows_the_rows_and_every_cell_is_in_one_group(quantiser: Quantiser) -> None:
    assert cells_wanted(4000, assignments=3, cell_rows=100) == 120
    assert 100 <= len(quantiser.centroids) <= 140
    assert quantiser.offsets[0] == 0
    assert quantiser.offsets[-1] == len(quantiser.centroids)
    assert (np.diff(quantiser.offsets) > 0).all()
    assert len(quantiser.groups) == len(quantiser.offsets) - 1 > 10


def test_the_same_seed_and_rows_make_the_same_quantiser_however_they_are_cut_and_on_any_threads(
    quantiser: Quantiser,
) -> None:
    vectors, threads = topics(4000), torch.get_num_threads()
    parts = Concatenated([InMemory(vectors[:17]), InMemory(vectors[17:2000]), InMemory(vectors[2000:])])
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            again = fit_quantiser(parts, num_rows=4000, assignments=3, seed=0, cell_rows=100)
            assert all(np.array_equal(one, other) for one, other in zip(quantiser, again, strict=True))
    finally:
        torch.set_num_threads(threads)
    other_seed = fit_quantiser(parts, num_rows=4000, assignments=3, seed=1, cell_rows=100)
    assert not np.array_equal(quantiser.centroids[:50], other_seed.centroids[:50])


def test_the_cells_of_a_row_do_not_depend_on_the_rows_beside_it(quantiser: Quantiser) -> None:
    vectors = topics(900, seed=5)
    together = assign_cells(vectors, quantiser, assignments=4, probes=5)
    for block_rows in (1, 7, 333):
        blocks = assign_cells(InMemory(vectors), quantiser, assignments=4, probes=5, block_rows=block_rows)
        assert np.array_equal(together, blocks)
    alone = [assign_cells(vectors[row : row + 1], quantiser, assignments=4, probes=5)[0] for row in range(0, 900, 50)]
    assert np.array_equal(together[::50], alone)


def test_with_all_groups_probed_the_cells_are_the_nearest_of_all(quantiser: Quantiser) -> None:
    vectors = topics(500, seed=6)
    products = encode(vectors).codes.astype(np.int64) @ quantiser.centroids.astype(np.int64).T
    nearest = np.sort(np.argsort(-products, axis=1, kind="stable")[:, :3], axis=1)
    assert np.array_equal(assign_cells(vectors, quantiser, assignments=3, probes=10_000), nearest)
    few = assign_cells(vectors, quantiser, assignments=3, probes=8)
    assert 0.8 < (few == nearest).mean() < 1.0


def test_vectors_that_may_not_be_written_to_are_taken_as_they_are(quantiser: Quantiser) -> None:
    vectors = topics(300, seed=7)
    locked = vectors.copy()
    locked.setflags(write=False)  # as a file that is mapped
    cells = assign_cells(locked, quantiser, assignments=3)
    assert np.array_equal(cells, assign_cells(vectors, quantiser, assignments=3))
    found = [len(e.left) for e in join_cells(locked, cells, threshold=0.6, first_cell=0, last_cell=140)]
    assert sum(found) == sum(
        len(e.left) for e in join_cells(vectors, cells, threshold=0.6, first_cell=0, last_cell=140)
    )
    assert sum(found) > 100


def test_more_assignments_take_no_cell_away(quantiser: Quantiser) -> None:
    vectors = topics(300, seed=7)
    for num in (1, 2, 5):
        fewer = assign_cells(vectors, quantiser, assignments=num)
        more = assign_cells(vectors, quantiser, assignments=num + 1)
        assert (np.diff(more, axis=1) > 0).all()
        assert all(set(a) < set(b) for a, b in zip(fewer.tolist(), more.tolist(), strict=True))


def test_rows_without_enough_cells_are_filled_up_in_front() -> None:
    cells = assign_cells(topics(5), topics(2, dim=32).astype(np.float32), assignments=4)
    assert cells.tolist() == [[-1, -1, 0, 1]] * 5


def test_a_quantiser_survives_being_saved(quantiser: Quantiser) -> None:
    file = io.BytesIO()
    np.savez(file, **quantiser._asdict())
    file.seek(0)
    with np.load(file) as saved:
        again = Quantiser(**saved)
    vectors = topics(100, seed=8)
    assert np.array_equal(assign_cells(vectors, quantiser, assignments=2), assign_cells(vectors, again, assignments=2))


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_the_smallest_pools_have_a_quantiser(num_rows: int) -> None:
    vectors = topics(num_rows)
    tiny = fit_quantiser(InMemory(vectors), num_rows=num_rows, assignments=4, seed=0, cell_rows=1)
    assert 1 <= len(tiny.centroids) <= num_rows
    assert (assign_cells(vectors, tiny, assignments=1) >= 0).all()


def test_vectors_without_a_direction_make_no_quantiser_but_are_assigned() -> None:
    zeros = np.zeros((6, 32), np.float16)
    with pytest.raises(ValueError, match="none among 6 rows"):
        fit_quantiser(InMemory(zeros), num_rows=6, assignments=1, seed=0)
    with pytest.raises(ValueError, match="none among 0 rows"):
        fit_quantiser(InMemory(zeros[:0]), num_rows=6, assignments=1, seed=0)
    mixed = np.concatenate([zeros, topics(200)])
    some = fit_quantiser(InMemory(mixed), num_rows=206, assignments=2, seed=0, cell_rows=50)
    assert (assign_cells(mixed, some, assignments=2) >= 0).all()


def test_a_join_makes_no_more_rows_ready_at_once_than_a_run_of_cells_or_the_largest_one(
    quantiser: Quantiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: list[int] = []
    prepare = Processor.prepare

    def spy(self: Processor, vectors: np.ndarray, cells: np.ndarray | None = None) -> object:
        ready.append(len(vectors))
        return prepare(self, vectors, cells)

    monkeypatch.setattr(Processor, "prepare", spy)
    monkeypatch.setattr(Processor, "run_rows", 250)
    vectors = topics(4000)
    cells = assign_cells(vectors, quantiser, assignments=3)
    list(join_cells(vectors, cells, threshold=0.6, first_cell=0, last_cell=len(quantiser.centroids), device="cpu"))
    assert max(ready) <= max(250, np.bincount(cells.ravel()).max())
    assert len(ready) > 30


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_order_and_no_more_is_begun_than_is_soon_needed(threads: int) -> None:
    begun = 0

    def items() -> Iterator[int]:
        nonlocal begun
        for number in range(100):
            begun += 1
            yield number

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        results = []
        for result in in_order(lambda number: number**2, items()):
            results.append(result)
            assert begun <= len(results) + 2 * threads
        assert results == [number**2 for number in range(100)]
    finally:
        torch.set_num_threads(before)


def test_an_error_on_a_thread_is_the_callers() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ZeroDivisionError):
            list(in_order(lambda number: 1 // number, [3, 2, 0, 1]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_formula_counts_the_products_that_are_made(quantiser: Quantiser) -> None:
    vectors = topics(4000)
    cells = assign_cells(vectors, quantiser, assignments=3)
    cost = join_cost(4000, 32, 3, cell_rows=100, probes=6, unevenness=1.0)
    made = (np.bincount(cells.ravel()).astype(np.float64) ** 2).sum() / 2
    assert 1.0 < made / cost["join_products"] < 1.3  # cells of one size are the fewest products
    groups, centroids = len(quantiser.groups), len(quantiser.centroids)
    assert cost["assign_products"] == pytest.approx(4000 * (groups + 6 * centroids / groups), rel=0.15)
    assert cost["flop"] == 64 * (cost["fit_products"] + cost["assign_products"] + cost["join_products"])


def test_cost_grows_no_faster_than_the_rows_to_1_3_up_to_sixteen_millions() -> None:
    small, large = (join_cost(rows, 512, 5)["flop"] for rows in (125_000, 16_000_000))
    assert np.log(large / small) / np.log(128) < 1.3
    doubled = join_cost(2_000_000, 512, 5)["join_products"] / join_cost(1_000_000, 512, 5)["join_products"]
    assert doubled == pytest.approx(2.0, rel=0.01)
