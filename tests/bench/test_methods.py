"""The methods' benchmark: every row is a sound run, the textbook computes the same loss, the profile adds up."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from bench import methods
from bench.methods import METHODS, TEXTBOOK, by_the_textbook, explained, held_mb, profile, run, setup_of
from bench.train_step_run import Setup, Way, timed_steps
from ssl_train.config import check_config
from ssl_train.trainer import build_networks

SHARED: dict[str, Any] = {"size": "tiny", "prototypes": 64, "batch_images": 4, "precision": "fp32"}
TINY = (
    "model={size: tiny, patch_size: 16, image_size: 32, layer_scale: 0.5}",
    "augment={global_pixels: 32, local_pixels: 16, num_local: 2}",
    "method.dino_head={num_prototypes: 48, hidden_dim: 32, bottleneck_dim: 16}",
    "method.centering=softmax",
    "precision=fp32",
)


def tiny(method: str, **_: object) -> Setup:
    return Setup(METHODS[method][0], TINY, 4)


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_a_sound_run_of_its_own_method_on_the_common_backbone(method: str) -> None:
    setup = setup_of(method, **SHARED)
    config = replace(setup, changes=(*setup.changes, "data.folder=/nowhere")).config()
    check_config(config, 1)
    assert (config.method.kind, config.model.kind, config.model.dim) == (method, "vit", 128)
    assert config.data.batch_images == 4


def test_ibot_by_the_textbook_makes_all_logits_and_has_the_same_loss() -> None:
    ours = timed_steps(tiny("ibot"), Way(), 2).loss
    rows: list[int] = []
    plain = methods.plain_prototype_loss

    def watched(student: Any, *rest: Any, **named: Any) -> Any:
        rows.append(len(student.bottleneck))
        return plain(student, *rest, **named)

    with patch.object(methods, "plain_prototype_loss", watched), by_the_textbook():
        assert timed_steps(tiny("ibot"), Way(), 2).loss == pytest.approx(ours, rel=1e-5)
    assert set(rows) == {4 * 4, 2 * 4 * 4}  # class tokens of all crops; patches of both views, masked or not


def test_what_is_held_between_steps_is_counted() -> None:
    setup = tiny("dinov2")
    networks = build_networks(setup.config())
    student = sum(parameter.nbytes for parameter in networks.student.parameters() if parameter.requires_grad)
    rest = sum(tensor.nbytes for tensor in networks.buffers())
    rest += sum(parameter.nbytes for parameter in networks.parameters() if not parameter.requires_grad)
    assert held_mb(setup) * 2**20 == pytest.approx(4 * student + rest, rel=0.01)  # with a gradient and two moments


def test_the_profile_is_the_line_through_both_peaks_and_its_share_goes_to_that_of_an_image() -> None:
    ours, theirs = profile({4: 900.0, 8: 1300.0}, 500.0), profile({4: 2500.0, 8: 4500.0}, 500.0)
    assert (ours["mb_per_image"], ours["mb_at_no_image"], ours["worked_mb"]) == (100.0, 500, 800)
    found = explained(ours, theirs, 8)
    assert found["share_of_what_is_worked"] == found["share_of_an_image"] == 0.2
    shares = list(found["share_by_batch_on_the_lines"].values())
    assert shares[0] == pytest.approx(1300 / 4500, abs=1e-3)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > 0.2


def test_a_run_has_every_row_and_tells_dinov2_beside_both_forms_of_ibot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "setup_of", tiny)
    monkeypatch.setattr(methods, "peak_megabytes", lambda work, *given: (work(*given), 100.0 * given[0].batch_images))
    found = run(["ibot"], SHARED, steps=1, compiled=False)
    assert set(found["methods"]) == {"dinov2", "ibot", TEXTBOOK}
    assert set(found["dinov2"]) == {"ibot", TEXTBOOK}
    for name in ("dinov2", TEXTBOOK):
        assert found["profile"][name]["peak_mb"] == {"2": 200, "4": 400}
        assert found["profile"][name]["mb_per_image"] == 100.0
    assert found["dinov2"][TEXTBOOK]["share_of_memory"] == 1.0
    assert found["profile"]["explained"]["share_of_an_image"] == 1.0
