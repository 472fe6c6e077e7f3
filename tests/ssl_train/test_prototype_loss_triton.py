"""Triton's kernels against the textbook: on a GPU, or anywhere by Triton's interpreter where the package is there.

Without a GPU one test runs all others in a process of its own: the interpreter is chosen before Triton is imported.
"""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.ops.prototype_loss import (
    Budget,
    Projected,
    PrototypeLoss,
    Targets,
    plain_prototype_loss,
    prototype_loss,
    sinkhorn_targets,
)
from ssl_train.ops.prototype_loss_kernels import kernels_for

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RUNS = HAS_TRITON and (INTERPRETED or DEVICE.type == "cuda")
runs = pytest.mark.skipif(not RUNS, reason="needs triton, and a GPU or TRITON_INTERPRET=1")
TRITON, TORCH = Budget(kernels="triton"), Budget(kernels="torch")
IMAGES, DIM, PROTOTYPES = 3, 12, 4150  # more than a block of a row, and no whole number of any block


@pytest.mark.skipif(not HAS_TRITON or RUNS, reason="needs triton, and no GPU")
def test_the_interpreter_agrees() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-p",
        "no:xdist",
        "-o",
        "addopts=--import-mode=importlib",
        "-q",
    ]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stdout:
        pytest.skip("the interpreter of this Triton (3.6, for one) does not run beside NumPy 2.4 or newer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def unit(rows: int, *, seed: int) -> Tensor:
    drawn = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1).to(DEVICE)


def student_of(crops: int, images: int = IMAGES) -> Projected:
    return Projected(unit(crops * images, seed=2).requires_grad_(), (3 * unit(PROTOTYPES, seed=1)).requires_grad_())


def teacher_of(views: int, images: int = IMAGES) -> Projected:
    return Projected(unit(views * images, seed=3), unit(PROTOTYPES, seed=4))


def found_by(budget: Budget | None, crops: list[list[float]], *, half: bool, balanced: bool) -> list[Tensor]:
    """Value, parts and gradients, by kernels or (None) by the textbook."""
    student, teacher = student_of(len(crops)), teacher_of(len(crops[0]))
    weights = torch.rand(IMAGES, generator=torch.Generator().manual_seed(6)).to(DEVICE)
    bias = torch.randn(PROTOTYPES, generator=torch.Generator().manual_seed(5)).to(DEVICE)
    found: PrototypeLoss
    with (budget or TORCH).within(), torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=half):
        targets = sinkhorn_targets(teacher, temperature=0.1) if balanced else Targets(*teacher, 0.1, bias)
        if budget is None:
            found = plain_prototype_loss(student, targets, crops, weights, temperature=0.1)
        else:
            found = prototype_loss(student, targets, crops, weights, temperature=0.1)
    (2.0 * found.total).backward()  # type: ignore[no-untyped-call]
    assert student.bottleneck.grad is not None
    assert student.weight.grad is not None
    return [*(value.detach() for value in found), targets.bias, student.bottleneck.grad, student.weight.grad]


@runs
@pytest.mark.parametrize("mix", [[[1.0]], [[0.0, 0.5], [0.5, 0.0], [0.2, 0.3]]], ids=["same view", "pairs"])
@pytest.mark.parametrize("balanced", [False, True], ids=["bias", "Sinkhorn-Knopp"])
def test_loss_and_gradients_are_the_textbooks(mix: list[list[float]], balanced: bool) -> None:
    plain = found_by(None, mix, half=False, balanced=balanced)
    for kernels, wanted in zip(found_by(TRITON, mix, half=False, balanced=balanced), plain, strict=True):
        assert_close(kernels, wanted, rtol=1e-4, atol=1e-5)


@runs
def test_in_half_precision_they_are_torchs_operations() -> None:
    mix = [[0.0, 0.5], [0.5, 0.0], [0.2, 0.3]]
    ours, torchs = (found_by(budget, mix, half=True, balanced=True) for budget in (TRITON, TORCH))
    for kernels, wanted in zip(ours[:-2], torchs[:-2], strict=True):
        assert_close(kernels, wanted, rtol=1e-3, atol=1e-4)
    for kernels, wanted in zip(ours[-2:], torchs[-2:], strict=True):
        assert torch.nn.functional.cosine_similarity(kernels.flatten(), wanted.flatten(), dim=0) > 0.9999


@runs
def test_no_row_at_all_is_zero() -> None:
    student, teacher = student_of(1, images=0), teacher_of(1, images=0)
    with TRITON.within():
        targets = sinkhorn_targets(teacher, temperature=0.1)
        found = prototype_loss(student, targets, [[1.0]], torch.zeros(0, device=DEVICE), temperature=0.1)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert found.total == 0


def test_without_triton_a_wish_for_it_is_an_error_and_auto_does_without() -> None:
    assert kernels_for(torch.device("cpu")) is None
    if HAS_TRITON:
        pytest.skip("triton is here")
    with TRITON.within(), pytest.raises(ValueError, match="needs the triton package"):
        kernels_for(torch.device("cpu"))
