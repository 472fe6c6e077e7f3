"""The loss in chunks is the textbook's, in value and in gradient, whatever the chunk; Sinkhorn-Knopp is a bias."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from ssl_train.losses.centering import sinkhorn_knopp
from ssl_train.losses.dino import dino_loss, swapped_dino_loss
from ssl_train.losses.ibot import ibot_loss
from ssl_train.ops import prototype_loss_budget
from ssl_train.ops.prototype_loss import (
    Budget,
    Projected,
    Targets,
    plain_prototype_loss,
    prototype_loss,
    sinkhorn_targets,
)
from ssl_train.ops.prototype_loss_sweep import Plan, Sweep

IMAGES, DIM, PROTOTYPES = 7, 12, 40
TINY_CHUNK = 4 * PROTOTYPES * 30  # one or two images


def unit(rows: int, *, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def student_of(crops: int, images: int = IMAGES) -> Projected:
    weight = unit(PROTOTYPES, seed=1) * torch.linspace(0.5, 2, PROTOTYPES)[:, None]
    return Projected(unit(crops * images, seed=2).requires_grad_(), weight.requires_grad_())


def targets_of(views: int, images: int = IMAGES, temperature: float = 0.07) -> Targets:
    bias = torch.randn(PROTOTYPES, generator=torch.Generator().manual_seed(5))
    return Targets(unit(views * images, seed=3), unit(PROTOTYPES, seed=4), temperature, bias)


MIXES = {
    "every pair": [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1]],
    "swapped": [[0.0, 0.5], [0.5, 0.0]],
    "swapped and locals": [[0.0, 0.2], [0.2, 0.0], [0.1, 0.1], [0.1, 0.1]],
    "same view": [[1.0]],
}


@pytest.mark.parametrize("chunk_bytes", [1, TINY_CHUNK, 1 << 30])
@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_in_chunks_it_is_the_textbooks_loss_with_the_textbooks_gradients(
    mix: list[list[float]], chunk_bytes: int
) -> None:
    weights = torch.rand(IMAGES, generator=torch.Generator().manual_seed(6))
    results = []
    for chunked in (False, True):
        student, targets = student_of(len(mix)), targets_of(len(mix[0]))
        if chunked:
            found = prototype_loss(student, targets, mix, weights, temperature=0.1, chunk_bytes=chunk_bytes)
        else:
            found = plain_prototype_loss(student, targets, mix, weights, temperature=0.1)
        (3.0 * found.total).backward()
        results.append([*found, student.bottleneck.grad, student.weight.grad])
    for plain, chunked_value in zip(*results, strict=True):
        assert_close(chunked_value, plain, rtol=1e-4, atol=1e-5)


def test_it_is_the_loop_over_images_crops_and_views() -> None:
    mix, weights = [[0.0, 0.3], [0.2, 0.1], [0.4, 0.0]], torch.rand(IMAGES)
    student, targets = student_of(3), targets_of(2)
    t = (targets.bottleneck @ targets.weight.T / targets.temperature + targets.bias).softmax(-1)
    s = (student.logits() / 0.1).log_softmax(-1)
    total = torch.zeros(())
    for image in range(IMAGES):
        for crop in range(3):
            for view in range(2):
                entropy = -(t[view * IMAGES + image] * s[crop * IMAGES + image]).sum()
                total = total + weights[image] * mix[crop][view] * entropy
    assert_close(prototype_loss(student, targets, mix, weights, temperature=0.1).total, total)


def test_the_gradient_is_that_of_finite_differences() -> None:
    targets = Targets(unit(4, seed=3).double(), unit(6, seed=4).double(), 0.5, torch.zeros(6))
    weights = torch.tensor([1.0, 0.5])

    def total(bottleneck: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        mix = [[0.0, 1.0], [1.0, 0.0]]
        return prototype_loss(Projected(bottleneck, weight), targets, mix, weights, temperature=1.0).total

    student = Projected(unit(4, seed=1).requires_grad_(), unit(6, seed=2).requires_grad_())
    total(*student).backward()  # type: ignore[no-untyped-call]
    for parameter in student:
        assert parameter.grad is not None
        for place in [(0, 0), (3, 5), (1, 7)]:
            moved = [parameter.detach().clone() for _ in range(2)]
            moved[0][place] += 1e-2
            moved[1][place] -= 1e-2
            others = [[m if p is parameter else p.detach() for p in student] for m in moved]
            slope = (total(*others[0]) - total(*others[1])) / 2e-2
            assert_close(parameter.grad[place], slope.float(), rtol=2e-2, atol=2e-3)


def test_dinos_and_ibots_losses_are_cases_of_it() -> None:
    student, targets = student_of(5), targets_of(2)
    t = (targets.bottleneck @ targets.weight.T / targets.temperature + targets.bias).softmax(-1).unflatten(0, (2, -1))
    s = student.logits().unflatten(0, (5, -1))
    even = torch.full((IMAGES,), 1 / IMAGES)
    found = prototype_loss(student, targets, [[0, 1], [1, 0], [1, 1], [1, 1], [1, 1]], even, temperature=0.1)
    assert_close(found.by_crop[:2].sum(), swapped_dino_loss(s[:2], t, temperature=0.1))
    assert_close(found.by_crop[2:].sum(), dino_loss(s[2:], t, temperature=0.1))
    masked, mask_weights = student_of(1), torch.rand(IMAGES)
    found = prototype_loss(masked, targets_of(1), [[1.0]], mask_weights / 4, temperature=0.1)
    own = targets_of(1)
    t = (own.bottleneck @ own.weight.T / own.temperature + own.bias).softmax(-1)
    assert_close(found.total, ibot_loss(masked.logits(), t, mask_weights, num_crops=4, temperature=0.1))


@pytest.mark.parametrize("iterations", [1, 3, 6])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_sinkhorn_knopps_targets_are_a_softmax_with_its_bias(iterations: int, chunk_bytes: int) -> None:
    rows, weight = unit(23, seed=8), unit(PROTOTYPES, seed=9) * 1.5
    bias = sinkhorn_targets(
        Projected(rows, weight), temperature=0.05, iterations=iterations, chunk_bytes=chunk_bytes
    ).bias
    found = (rows @ weight.T / 0.05 + bias).softmax(-1)
    assert_close(found, sinkhorn_knopp(rows @ weight.T, temperature=0.05, iterations=iterations), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [1.0, 30.0], ids=["bounded", "any"])
def test_whether_logits_are_kept_or_made_anew_decides_nothing(length: float) -> None:
    teacher, weights = Projected(unit(2 * IMAGES, seed=8), length * unit(PROTOTYPES, seed=9)), torch.rand(IMAGES)
    results = []
    for kept_bytes in (1 << 20, 0):
        student = student_of(2)
        with Budget(kept_bytes=kept_bytes).within():
            targets = sinkhorn_targets(teacher, temperature=0.04)
            found = prototype_loss(student, targets, [[0.0, 1.0], [1.0, 0.0]], weights, temperature=0.1)
        found.total.backward()  # type: ignore[no-untyped-call]
        results.append([*found, student.bottleneck.grad, student.weight.grad])
        made = (targets.masses is not None, targets.scaled_logits is not None)
        assert made == ((length == 1.0, length != 1.0) if kept_bytes else (False, False))
    for kept, anew in zip(*results, strict=True):
        assert_close(kept, anew, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_the_tiles_of_a_chunk_decide_nothing(mix: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(IMAGES)
    results = []
    for tile_bytes in (1 << 20, 4 * PROTOTYPES * 2 * len(mix), 1):  # one tile, two images each, one each
        monkeypatch.setattr(prototype_loss_budget, "_TILE_BYTES", {"cpu": tile_bytes})
        student, teacher = student_of(len(mix)), Projected(unit(len(mix[0]) * IMAGES, seed=3), unit(PROTOTYPES, seed=4))
        targets = sinkhorn_targets(teacher, temperature=0.07)
        found = prototype_loss(student, targets, mix, weights, temperature=0.1)
        found.total.backward()  # type: ignore[no-untyped-call]
        results.append([*found, targets.bias, student.bottleneck.grad, student.weight.grad])
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert_close(same, one, rtol=1e-4, atol=1e-6)


def test_logits_beyond_the_bound_of_exponentials_are_the_textbooks_too() -> None:
    mix, weights = MIXES["swapped"], torch.rand(IMAGES)
    results = []
    for way in (plain_prototype_loss, prototype_loss):
        student, targets = student_of(2), targets_of(2)
        far = Targets(targets.bottleneck, 20 * targets.weight, 0.04, 5 * targets.bias)
        long = Projected(student.bottleneck, student.weight * 20)
        found = way(long, far, mix, weights, temperature=0.1)
        found.total.backward()  # type: ignore[no-untyped-call]
        results.append([*found, student.bottleneck.grad, student.weight.grad])
    for plain, ours in zip(*results, strict=True):
        assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_logits_that_are_kept_in_half_precision_are_the_ones_that_were_made() -> None:
    teacher, weights = Projected(unit(2 * IMAGES, seed=8), unit(PROTOTYPES, seed=9)), torch.ones(IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = sinkhorn_targets(teacher, temperature=0.05)
        assert kept.scaled_logits is not None
        assert kept.scaled_logits.dtype == torch.bfloat16
        again = kept._replace(scaled_logits=None)
        mix = [[0.0, 1.0], [1.0, 0.0]]
        totals = [prototype_loss(student_of(2), t, mix, weights, temperature=0.1).total for t in (kept, again)]
    assert_close(totals[0], totals[1], rtol=1e-6, atol=0)
    exact = sinkhorn_targets(teacher, temperature=0.05)
    assert exact.scaled_logits is None
    assert_close(kept.bias, exact.bias, rtol=0, atol=0.1)


def test_logits_far_apart_overflow_nothing() -> None:
    rows, weight = unit(9, seed=8), unit(PROTOTYPES, seed=9) * 30
    bias = sinkhorn_targets(Projected(rows, weight), temperature=0.04).bias
    assert bias.isfinite().all()
    doubles = rows.double() @ weight.double().T / 0.04
    q = (doubles - doubles.amax()).exp()
    for _ in range(3):
        q = q / q.sum(0).clamp_min(1e-300)
        q = q / q.sum(1, keepdim=True)
    assert_close((rows @ weight.T / 0.04 + bias).softmax(-1).double(), q, rtol=1e-2, atol=1e-3)


def test_no_row_at_all_gives_zero_with_a_gradient_of_zero() -> None:
    student = student_of(1, images=0)
    targets = targets_of(1, images=0)
    teacher = Projected(targets.bottleneck, targets.weight)
    assert sinkhorn_targets(teacher, temperature=0.1).bias.shape == (PROTOTYPES,)
    found = prototype_loss(student, targets, [[1.0]], torch.zeros(0), temperature=0.1)
    found.total.backward()
    assert found.total == 0
    assert student.weight.grad is not None
    assert not student.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_gradients_keep_their_directions(dtype: torch.dtype) -> None:
    # Weights as small as in a real step: 1 / (masked patches of a crop * crops).
    weights = torch.full((IMAGES,), 1e-4)
    exact, half = student_of(1), student_of(1)
    prototype_loss(exact, targets_of(1), [[1.0]], weights, temperature=0.1).total.backward()
    with torch.autocast("cpu", dtype=dtype):
        prototype_loss(half, targets_of(1), [[1.0]], weights, temperature=0.1).total.backward()
    for one, other in zip(exact, half, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        cosine = torch.nn.functional.cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0)
        assert cosine > 0.999
        assert_close(other.grad.norm(), one.grad.norm(), rtol=2e-2, atol=0)


def test_rows_that_are_no_crops_of_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match="need 14 student and 7 teacher rows, got 7 and 7"):
        prototype_loss(student_of(1), targets_of(1), [[1.0], [1.0]], torch.ones(IMAGES), temperature=0.1)


def test_a_smaller_chunk_holds_fewer_images() -> None:
    sizes = []
    for chunk_bytes in (1 << 30, TINY_CHUNK, 1):
        student = student_of(2)
        plan = Plan(((0.5, 0.5), (0.5, 0.5)), 0.1, chunk_bytes)
        sweep = Sweep(*student, targets_of(2), torch.ones(IMAGES), plan, True)
        sizes.append(max(chunk.stop - chunk.start for chunk in sweep.chunks()))
    assert sizes[-1] == 1
    assert all(more >= fewer for more, fewer in pairwise(sizes))
