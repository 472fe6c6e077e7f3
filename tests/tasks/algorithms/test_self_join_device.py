"""A GPU's form of the join finds what the processor's finds; what both read comes in blocks that do not matter."""

import numpy as np
import pytest
import torch

from tasks.algorithms import join_device
from tasks.algorithms.blocks import Concatenated, InMemory, even_blocks
from tasks.algorithms.join_backend import Gpu, backend_for
from tasks.algorithms.self_join import assign_cells, cross_pairs, join_cells, similar_pairs
from tests.tasks.algorithms.self_join_truth import as_dict, families


def test_the_form_for_a_gpu_finds_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_device, "_EXACT_PAIRS", 70)
    vectors = np.concatenate([families(8, dim=40), np.zeros((3, 40), np.float16)])
    cells = assign_cells(vectors, families(9, 5, 1, dim=40).astype(np.float32), assignments=2)
    gpu, cpu = Gpu("cpu", tile_rows=100), backend_for("cpu")
    for cell, chosen in ((-1, np.arange(len(vectors))), (2, np.flatnonzero((cells == 2).any(axis=1)))):
        found = [
            backend.pairs(rows, rows, 0.6, upper=True, cell=cell)
            for backend in (gpu, cpu)
            for rows in (backend.subset(backend.prepare(vectors, cells), chosen),)
        ]
        one, other = (as_dict([edges]) for edges in found)
        assert len(one) > 50 if cell < 0 else one
        assert one == pytest.approx(other, abs=1e-7)
    left, right = gpu.prepare(vectors[:50]), gpu.prepare(vectors[50:])
    across = as_dict(cross_pairs(InMemory(vectors[:50]), InMemory(vectors[50:]), threshold=0.002, device="cpu"))
    assert as_dict([gpu.pairs(left, right, 0.002, upper=False)]).keys() == across.keys()


def test_a_device_that_is_not_there_is_an_error_that_says_what_to_take() -> None:
    with pytest.raises(ValueError, match="take 'auto', 'cpu'"):
        next(similar_pairs(InMemory(families(0)), threshold=0.6, device="tpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_what_the_processor_finds() -> None:
    vectors = families(8, 500, dim=512)
    cells = assign_cells(vectors, vectors[:9].astype(np.float32), assignments=3)
    one, other = (
        as_dict(join_cells(vectors, cells, threshold=0.6, first_cell=0, last_cell=9, device=device))
        for device in ("cuda", "cpu")
    )
    assert one == pytest.approx(other, abs=1e-7)


def test_a_row_that_is_not_finite_is_an_error_on_every_device() -> None:
    vectors = families(0)
    vectors[17, 3] = np.nan
    with pytest.raises(ValueError, match="vector 17 of the block is not finite"):
        next(similar_pairs(InMemory(vectors), threshold=0.6))
    with pytest.raises(ValueError, match="vector 17 of the block is not finite"):
        Gpu("cpu").prepare(vectors)


def test_even_blocks_do_not_depend_on_the_cuts_of_the_source() -> None:
    vectors = families(5)
    parts = Concatenated([InMemory(vectors[:3]), InMemory(vectors[3:100]), InMemory(vectors[100:])])
    blocks = list(even_blocks(parts, 50))
    assert [start for start, _ in blocks] == list(range(0, 360, 50))
    assert all(len(block) == 50 for _, block in blocks[:-1])
    assert np.array_equal(np.concatenate([block for _, block in blocks]), vectors.astype(np.float32))
    rows = np.array([359, 2, 3, 99, 100, 0])
    assert np.array_equal(parts.take(rows), vectors[rows].astype(np.float32))


def test_sources_of_different_dimensions_are_not_joined() -> None:
    with pytest.raises(ValueError, match="one dimension"):
        Concatenated([InMemory(np.zeros((2, 3))), InMemory(np.zeros((2, 4)))])
