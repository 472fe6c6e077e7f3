"""DCNv3's benchmark: forms that are compared say the same, and what is written has every form's time and memory."""

import json

import pytest
import torch

from bench.dcnv3 import Case, as_torchvision_has_it, check, forms, input_megabytes, measure
from ssl_train.ops.dcnv3 import dcnv3

CASE = Case(2, 6, 32, 2, "float32", "cpu")


def test_forms_agree_and_their_figures_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    # Memory is a process each, seconds of starting Python; test_measure.py has the instrument.
    monkeypatch.setattr("bench.dcnv3.megabytes", lambda form, case: {"plain": 2.0, "textbook": 5.0}.get(form, 1.0))
    found = measure(CASE, repeats=1)
    json.dumps(found)
    assert set(found["forms"]) == set(forms("cpu")) >= {"plain", "textbook"}
    assert all(figures["seconds"] > 0 for figures in found["forms"].values())
    ratios = found["times"]["textbook_to_plain"]
    slow, fast = (found["forms"][form]["seconds"] for form in ("textbook", "plain"))
    assert ratios == {"seconds": round(slow / fast, 2), "megabytes_beyond_inputs": 2.5}


def test_forms_that_disagree_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.dcnv3.dcnv3", lambda *inputs, **settings: 1.1 * dcnv3(*inputs, **settings))
    with pytest.raises(AssertionError):
        check(CASE)


def test_inputs_are_counted_to_the_byte() -> None:
    leaves, grad = CASE.inputs()
    assert input_megabytes(CASE) * 2**20 == sum(t.numel() * t.element_size() for t in (*leaves, grad))


def test_torchvisions_layout_holds_the_same_points() -> None:
    (x, offset, mask), _ = CASE.inputs()
    first, shifts, weights = as_torchvision_has_it(x, offset, mask, CASE)
    assert torch.equal(first[1, :, 2, 3], x[1, 2, 3])
    for group, column, row in ((0, 0, 2), (1, 2, 1)):  # ours run along columns first, theirs along rows
        ours, theirs = (9 * group + 3 * a + b for a, b in ((column, row), (row, column)))
        assert weights[1, theirs, 2, 3] == mask[1, 2, 3, ours]
        assert shifts[1, 2 * theirs, 2, 3] == offset[1, 2, 3, 2 * ours + 1]
        assert shifts[1, 2 * theirs + 1, 2, 3] == offset[1, 2, 3, 2 * ours]
