"""The join finds what brute force finds, whatever the blocks, the tasks over cells, the threads and the device."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tasks.algorithms.blocks import InMemory
from tasks.algorithms.components import Components
from tasks.algorithms.join_codes import code_limit, encode, integer_products
from tasks.algorithms.kmeans import fit_kmeans
from tasks.algorithms.self_join import (
    Edges,
    assign_cells,
    cross_pairs,
    first_shared_cell,
    fit_quantiser,
    join_cells,
    recall_of_cells,
    similar_pairs,
    similar_pairs_in_cells,
)
from tests.tasks.algorithms.self_join_truth import as_dict, brute_force, families


@pytest.mark.parametrize("block_rows", [7, 100, 5000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_join_is_brute_force_whatever_the_block_size(block_rows: int, dtype: type) -> None:
    vectors = families(0).astype(dtype)
    true = brute_force(vectors, 0.6)
    found = as_dict(similar_pairs(InMemory(vectors), threshold=0.6, block_rows=block_rows))
    assert 300 < len(true) < 3000
    assert found.keys() == true.keys()
    assert max(abs(found[pair] - true[pair]) for pair in true) < 1e-7


def test_the_edges_of_any_block_size_and_number_of_threads_have_the_same_bits() -> None:
    vectors, threads = families(1, dim=70), torch.get_num_threads()
    runs = []
    try:
        for count, block_rows in ((1, 5000), (1, 33), (3, 33), (3, 100)):
            torch.set_num_threads(count)
            runs.append(as_dict(similar_pairs(InMemory(vectors), threshold=0.4, block_rows=block_rows)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert all(run == runs[0] for run in runs)
    ordered = [pair for pair, _ in runs[0].items()]
    assert ordered == sorted(ordered)


def test_lengths_and_outliers_change_no_decision() -> None:
    random = np.random.default_rng(3)
    vectors = families(3, dim=40).astype(np.float32)
    vectors[::7, 5] += 3.0  # one coordinate that leaves few codes to the others
    vectors[::11] *= 1e-33
    vectors *= random.uniform(1e-3, 1e3, size=(len(vectors), 1)).astype(np.float32)
    true = brute_force(vectors, 0.6)
    assert len(true) > 300
    assert as_dict(similar_pairs(InMemory(vectors), threshold=0.6, block_rows=50)).keys() == true.keys()


def test_pairs_are_decided_in_float64_on_either_side_of_the_threshold() -> None:
    """Pairs whose cosines lie 1e-7 apart, which no product of 8 or 16 bits tells from each other."""
    random = np.random.default_rng(4)
    dim, count = 96, 400
    basis = np.linalg.qr(random.normal(size=(dim, dim)))[0]
    cosines = 0.6 + (np.arange(count) - count // 2) * 1e-7
    rows = [basis[0]] + [
        cosine * basis[0] + np.sqrt(1 - cosine**2) * basis[1 + i % 90] for i, cosine in enumerate(cosines)
    ]
    vectors = np.stack(rows).astype(np.float32)
    true = {pair for pair in brute_force(vectors, 0.6) if pair[0] == 0}
    assert 50 < len(true) < 350
    found = as_dict(similar_pairs(InMemory(vectors), threshold=0.6, block_rows=64))
    assert {pair for pair in found if pair[0] == 0} == true


def test_an_image_with_more_copies_than_k_keeps_all_its_edges() -> None:
    vectors = np.tile(families(1, 1, 1), (90, 1))
    assert len(as_dict(similar_pairs(InMemory(vectors), threshold=0.6))) == 90 * 89 // 2


@pytest.mark.parametrize("threshold", [0.001, 0.1])
def test_zero_vectors_have_no_edges(threshold: float) -> None:
    vectors = np.concatenate([np.zeros((5, 24), np.float16), families(2, 2, 3)])
    true = brute_force(vectors[5:], threshold)
    moved = {(i - 5, j - 5) for i, j in as_dict(similar_pairs(InMemory(vectors), threshold=threshold))}
    assert moved == true.keys()
    assert moved


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_the_smallest_pools_have_the_pairs_they_have(num_rows: int) -> None:
    vectors = np.tile(families(1, 1, 1), (3, 1))[:num_rows]
    cells = (
        assign_cells(vectors, vectors[:1].astype(np.float32), assignments=2) if num_rows else np.zeros((0, 2), np.int32)
    )
    assert len(as_dict(similar_pairs(InMemory(vectors), threshold=0.6))) == num_rows // 2
    assert len(as_dict(join_cells(vectors, cells, threshold=0.6, first_cell=0, last_cell=9))) == num_rows // 2


@pytest.mark.parametrize("threshold", [-0.2, 0.0, 1.0, 60.0])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        next(similar_pairs(InMemory(families(0)), threshold=threshold))


def test_pairs_across_two_sets_are_those_of_the_set_of_both() -> None:
    vectors = families(6)
    together = as_dict(similar_pairs(InMemory(vectors), threshold=0.6))
    across = as_dict(cross_pairs(InMemory(vectors[:100]), InMemory(vectors[100:]), threshold=0.6, block_rows=64))
    assert {(i, j + 100): s for (i, j), s in across.items()} == {
        (i, j): s for (i, j), s in together.items() if i < 100 <= j
    }


def test_the_bound_on_what_codes_leave_out_holds() -> None:
    vectors = np.concatenate([families(7, dim=50).astype(np.float32), np.eye(50, dtype=np.float32)])
    coded = encode(vectors)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    left_out = np.linalg.norm(unit - coded.codes * coded.scales[:, None].astype(np.float64), axis=1)
    assert (left_out <= coded.errors).all()
    assert left_out.max() > 0.005  # the bound is not met for want of anything to bound


@pytest.mark.parametrize("dim", [3, 512, 1040, 4096])
def test_products_of_codes_are_exact_in_float32_too(dim: int) -> None:
    limit = code_limit(dim)
    left = np.full((2, dim), limit, dtype=np.int8)
    right = np.stack([left[0], -left[0], np.where(np.arange(dim) % 2, limit, -1).astype(np.int8)])
    exact = left.astype(np.int64) @ right.astype(np.int64).T
    assert np.array_equal(integer_products(left, right), exact)
    assert np.array_equal(torch.from_numpy(left).float() @ torch.from_numpy(right).float().T, exact)
    assert np.abs(exact).max() <= 2**24


def test_the_join_by_cells_finds_true_pairs_only_and_as_many_as_its_measured_recall_says() -> None:
    vectors = families(3, num_families=200, noise=0.2)
    source = InMemory(vectors)
    centroids = fit_kmeans(source, num_clusters=40, seed=1, iterations=5).centroids
    true = brute_force(vectors, 0.6)
    recalls = []
    for assignments in (1, 2, 4):
        cells = assign_cells(source, centroids, assignments=assignments)
        found = as_dict(similar_pairs_in_cells(source, cells, threshold=0.6))
        assert found.keys() <= true.keys()
        everyone = np.arange(len(vectors))
        hits, total = recall_of_cells(source, cells, everyone, threshold=0.6, block_rows=77)
        assert (hits, total) == (2 * len(found), 2 * len(true))  # every pair is seen from both its ends
        recalls.append(hits / total)
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.99 < recalls[-1]


def test_one_cell_makes_the_join_exact() -> None:
    vectors = families(4)
    cells = assign_cells(InMemory(vectors), vectors[:1].astype(np.float32), assignments=4)
    found = as_dict(similar_pairs_in_cells(InMemory(vectors), cells, threshold=0.6))
    assert found.keys() == brute_force(vectors, 0.6).keys()


@pytest.mark.parametrize("cuts", [[0, 90], [0, 1, 2, 3, 90], [0, 11, 12, 37, 90], [-5, 44, 1000]])
def test_tasks_over_any_cut_of_the_cells_find_what_one_task_finds(cuts: list[int]) -> None:
    vectors = families(5, num_families=200, noise=0.2)
    quantiser = fit_quantiser(InMemory(vectors), num_rows=len(vectors), assignments=3, seed=0, cell_rows=40)
    assert 60 < len(quantiser.centroids) <= 90
    cells = assign_cells(vectors, quantiser, assignments=3, probes=3)
    whole = as_dict(similar_pairs_in_cells(InMemory(vectors), cells, threshold=0.6))
    tasks = []
    for first, last in pairwise(cuts):
        rows = np.flatnonzero(((cells >= first) & (cells < last)).any(axis=1))  # only what the task may hold
        for edges in join_cells(vectors[rows], cells[rows], threshold=0.6, first_cell=first, last_cell=last):
            tasks.append(Edges(rows[edges.left], rows[edges.right], edges.similarity))
    assert len(whole) > 1000
    assert as_dict(tasks) == whole


def test_every_pair_that_shares_a_cell_is_found_and_no_other() -> None:
    vectors = families(5, num_families=200, noise=0.2)
    cells = assign_cells(vectors, vectors[::31].astype(np.float32), assignments=3)
    sharing = {pair for pair in brute_force(vectors, 0.6) if set(cells[pair[0]]) & set(cells[pair[1]])}
    assert as_dict(join_cells(vectors, cells, threshold=0.6, first_cell=0, last_cell=99)).keys() == sharing


def test_the_first_shared_cell_is_the_smallest_number_in_both_lists() -> None:
    random = np.random.default_rng(0)
    left, right = (np.sort(random.integers(-1, 9, size=(500, 4)), axis=1).astype(np.int32) for _ in range(2))
    slow = [min((set(a.tolist()) & set(b.tolist())) - {-1}, default=-1) for a, b in zip(left, right, strict=True)]
    assert first_shared_cell(left, right).tolist() == slow
    assert -1 in slow


def test_planted_components_survive_the_join_by_cells() -> None:
    """What matters of a missed pair is whether its component falls apart."""
    random = np.random.default_rng(9)
    originals = random.normal(size=(1500, 64))
    groups = [originals]
    for kept in (0.95, 0.8, 0.7):  # three copies each of the first 400: cosines of 0.56 to 0.95 among them
        noise = random.normal(size=(400, 64))
        groups.append(kept * originals[:400] + np.sqrt(1 - kept**2) * noise)
    vectors = np.concatenate(groups).astype(np.float16)
    quantiser = fit_quantiser(InMemory(vectors), num_rows=len(vectors), assignments=6, seed=0, cell_rows=300)
    cells = assign_cells(vectors, quantiser, assignments=6)
    labels = []
    for blocks in (
        similar_pairs(InMemory(vectors), threshold=0.6),
        similar_pairs_in_cells(InMemory(vectors), cells, threshold=0.6),
    ):
        components = Components(len(vectors))
        for edges in blocks:
            components.add(edges.left, edges.right)
        labels.append(np.array(components.labels()))
    planted = np.arange(400)
    copies = np.stack([1500 + part * 400 + planted for part in range(3)])
    exact, by_cells = ((label[copies] == label[planted]).mean() for label in labels)
    assert exact > 0.95
    assert by_cells > 0.99 * exact
