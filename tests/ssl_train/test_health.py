"""Planted histories: each illness is told by its kind, and healthy runs by none."""

import math
from typing import Any

import pytest

from ssl_train.health import find_warnings

LOG_K, NUM_LINES, NUM_STEPS = math.log(4096), 120, 1200
History = list[dict[str, Any]]


def healthy(num_lines: int = NUM_LINES) -> History:
    """A run that begins uniform, learns, and anneals its learning rate: lines 10 steps apart."""
    return [healthy_line(number) for number in range(1, num_lines + 1)]


def healthy_line(number: int) -> dict[str, Any]:
    done = number / NUM_LINES
    learned = 1 - math.exp(-12 * done)
    entropy, marginal = LOG_K - 5 * learned, LOG_K - 1.5 * learned
    wobble = 1 + 0.1 * math.sin(number)
    return {
        "step": 10 * number,
        "num_steps": NUM_STEPS,
        "loss": LOG_K - 3 * learned - done,
        "lr": 1e-3 * min(number / 10, 1) * (0.5 + 0.5 * math.cos(math.pi * done)),
        "teacher_entropy": entropy,
        "teacher_marginal_entropy": marginal,
        "prototypes_used": math.exp(marginal - LOG_K),
        "teacher_student_kl": 1.2 * learned * wobble,
        "feature_rank": 20 * wobble + 10 * learned,
        "grad_norm_peak": 2 * wobble,
        "loader_wait_share": 0.02,
        "skipped_steps": 0,
    }


def planted(history: History, *, since: int, **values: Any) -> History:
    """The history whose lines from `since` on have other values: plain ones, or functions of the lines after it."""
    return [
        line
        if number < since
        else line | {name: value(number - since) if callable(value) else value for name, value in values.items()}
        for number, line in enumerate(history)
    ]


def used(marginal: float) -> float:
    return math.exp(marginal - LOG_K)


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 30, 60, NUM_LINES])
def test_a_healthy_run_is_told_nothing_at_any_of_its_lines(length: int) -> None:
    assert find_warnings(healthy()[:length]) == {}


def test_targets_that_become_one_prototype_are_a_collapse() -> None:
    ill = planted(
        healthy(),
        since=80,
        teacher_entropy=lambda after: 3 * math.exp(-after),
        teacher_marginal_entropy=lambda after: 4 * math.exp(-after),
        prototypes_used=lambda after: used(4 * math.exp(-after)),
    )
    assert "the same prototype" in find_warnings(ill)["collapse"]
    assert "optim.lr" in find_warnings(ill)["collapse"]


def test_targets_that_become_uniform_are_a_collapse() -> None:
    flat = {"teacher_entropy": LOG_K - 0.001, "teacher_marginal_entropy": LOG_K, "prototypes_used": 1.0}
    assert "nearly uniform" in find_warnings(planted(healthy(), since=80, **flat))["collapse"]


def test_targets_that_never_leave_uniform_are_a_collapse_once_the_beginning_is_over() -> None:
    flat = {"teacher_entropy": LOG_K - 0.001, "teacher_marginal_entropy": LOG_K, "prototypes_used": 1.0}
    never = planted(healthy(), since=0, **flat)
    warm_up = [line | {"num_steps": 10 * NUM_STEPS, "lr": 1e-6 * line["step"]} for line in never]
    assert find_warnings(warm_up[:30]) == {}
    assert find_warnings(never[:49]) == {}  # too few steps for any run
    assert "never left uniform" in find_warnings(never)["collapse"]


def test_a_marginal_entropy_that_falls_to_the_targets_own_is_a_collapse() -> None:
    entropy = healthy()[-1]["teacher_entropy"]
    ill = planted(
        healthy(),
        since=80,
        teacher_marginal_entropy=lambda after: entropy + 3 * math.exp(-after),
        prototypes_used=lambda after: used(entropy + 3 * math.exp(-after)),
    )
    assert "hardly differ between images" in find_warnings(ill)["collapse"]


def test_sharp_targets_that_differ_between_images_are_healthy() -> None:
    sharp = planted(healthy(), since=60, teacher_entropy=0.01, teacher_marginal_entropy=4.8, prototypes_used=used(4.8))
    assert find_warnings(sharp) == {}


@pytest.mark.parametrize(
    ("values", "kind", "advice"),
    [
        ({"teacher_student_kl": 0.001}, "student_equals_teacher", "teacher_momentum"),
        ({"feature_rank": 3.0}, "rank_falls", "koleo_weight"),
        ({"loader_wait_share": 0.4}, "loader_starves", "num_workers"),
        ({"skipped_steps": lambda after: after}, "many_skipped", "bf16"),
    ],
)
def test_an_illness_is_told_by_its_kind_with_what_to_try(values: dict[str, Any], kind: str, advice: str) -> None:
    found = find_warnings(planted(healthy(), since=100, **values))
    assert list(found) == [kind]
    assert advice in found[kind]


def test_a_gradient_spike_is_told_at_its_line_and_no_longer() -> None:
    spike = planted(healthy()[:100], since=99, grad_norm_peak=25.0)
    assert list(find_warnings(spike)) == ["gradient_spikes"]
    assert find_warnings(spike + healthy()[100:101]) == {}
    steps_up = planted(healthy()[:100], since=99, grad_norm_peak=15.0)
    assert find_warnings(steps_up) == {}


def test_a_loss_that_does_not_move_while_the_rate_is_high_is_told_and_at_the_end_it_is_not() -> None:
    still = planted(healthy(), since=20, loss=4.0)
    assert list(find_warnings(still[:90])) == ["loss_plateau"]
    assert find_warnings(still) == {}


def test_an_illness_is_over_when_its_numbers_are_well_again() -> None:
    ill = planted(healthy(), since=60, loader_wait_share=0.5)
    well = planted(ill, since=80, loader_wait_share=0.01)
    assert [bool(find_warnings(well[:length])) for length in (62, 75, 90)] == [False, True, False]


def test_one_odd_line_is_no_trend_and_numbers_that_are_not_finite_say_nothing() -> None:
    names = ("teacher_entropy", "teacher_marginal_entropy", "teacher_student_kl", "feature_rank", "loader_wait_share")
    odd = [*healthy()[:100], healthy()[100] | dict.fromkeys(names, 0.0)]
    assert find_warnings(odd) == {}
    numbers = ("loss", *names, "grad_norm_peak", "prototypes_used")
    assert find_warnings([line | dict.fromkeys(numbers) for line in healthy()]) == {}


def test_skipped_steps_are_counted_across_a_resume_that_begins_the_count_anew() -> None:
    before = planted(healthy()[:105], since=100, skipped_steps=lambda after: 40 + after)
    after = [line | {"skipped_steps": number} for number, line in enumerate(healthy()[105:110])]
    assert "many_skipped" in find_warnings(before + after)
    assert find_warnings(planted(healthy(), since=110, skipped_steps=2)) == {}
