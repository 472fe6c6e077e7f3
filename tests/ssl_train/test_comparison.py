"""Every method stands in the comparison with every backbone for which it is defined, on the same images and steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from ssl_train.config import TrainConfig, check_config
from ssl_train.studies import comparison
from ssl_train.studies.comparison import (
    BACKBONES,
    BATCH_IMAGES,
    MARGIN,
    MASKED,
    METHODS,
    NAMES,
    as_markdown,
    config_of,
    main,
    pairs,
    settings_of,
)

ALL = pairs(list(METHODS), list(BACKBONES))


def test_only_methods_that_hide_patches_leave_a_backbone_out() -> None:
    missing = {(m, b) for m in METHODS for b in BACKBONES} - set(ALL)
    assert missing == {(m, b) for m in MASKED for b in ("resnet", "internimage")}


@pytest.mark.parametrize(("method", "backbone"), ALL)
def test_every_pair_is_a_sound_run_on_the_common_terms(method: str, backbone: str, tmp_path: Path) -> None:
    config = config_of(method, backbone, data=tmp_path, work=tmp_path / "run", steps=7)
    check_config(config, 1)
    assert (config.method.kind, config.model.kind) == (method, backbone)
    assert (config.num_steps, config.data.batch_images, config.augment.global_pixels) == (7, BATCH_IMAGES, 32)


def test_the_table_has_a_line_for_every_run() -> None:
    scores = {"knn": 50.0, "linear": 60.0}
    common = {"before": scores, "after": scores, "seconds": 1.0, "steps": 7}
    lines = as_markdown([{"method": m, "backbone": b, **common} for m, b in ALL], set_name="digits").splitlines()
    assert len(lines) == 8 + len(ALL)
    assert all(any(f"| {m} | {NAMES[b]} |" in line for line in lines) for m, b in ALL)


FEW = [("byol", "vit"), ("byol", "resnet"), ("simclr", "vit"), ("simclr", "resnet")]
ASKED = ["--methods", "byol", "simclr", "--backbones", "vit", "resnet"]


class Counted:
    """In place of training: what was asked for, and a run that dies."""

    def __init__(self, dies_at: int = 99, knn: float = 50.0 + MARGIN) -> None:
        self.asked: list[tuple[str, str]] = []
        self.dies_at, self.knn = dies_at, knn

    def __call__(self, config: TrainConfig, data: Path, untrained: comparison.Scores) -> dict[str, Any]:
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((config.method.kind, config.model.kind))
        before, after = ({"knn": knn, "linear": 60.0} for knn in (50.0, self.knn))
        return {"before": before, "after": after, "seconds": 1.0}


def studied(out: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(comparison, "SETS", {"digits": Path.mkdir})
    monkeypatch.setattr(comparison, "compared", counted)
    return main(["--out", str(out), *(arguments or ASKED)])


def written(out: Path) -> list[tuple[str, str]]:
    return [(run["method"], run["backbone"]) for run in json.loads((out / "comparison.json").read_text())]


def test_a_study_that_dies_goes_on_where_it_was_and_runs_again_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, none, again = Counted(dies_at=3), Counted(), Counted(dies_at=0), Counted()
    with pytest.raises(KeyboardInterrupt):
        studied(tmp_path, first, monkeypatch)
    assert written(tmp_path) == first.asked == FEW[:3]
    assert studied(tmp_path, second, monkeypatch) == 0
    assert second.asked == FEW[3:]
    assert studied(tmp_path, none, monkeypatch) == 0  # nothing is left that could die
    monkeypatch.setattr(comparison, "BATCH_IMAGES", 32)
    assert studied(tmp_path, again, monkeypatch, "--methods", "byol", "--backbones", "vit") == 0
    assert again.asked == FEW[:1]
    assert written(tmp_path) == FEW  # what was not asked for stays


def test_a_vit_that_gains_too_little_is_a_missed_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--methods", "byol", "--backbones", "vit"]
    assert studied(tmp_path / "a", Counted(knn=50.0 + MARGIN), monkeypatch, *one) == 0
    assert studied(tmp_path / "b", Counted(knn=49.9 + MARGIN), monkeypatch, *one) == 1
    assert studied(tmp_path / "c", Counted(knn=0.0), monkeypatch, "--methods", "byol", "--backbones", "resnet") == 0
    assert studied(tmp_path / "d", Counted(knn=0.0), monkeypatch, "--methods", "supervised", "--backbones", "vit") == 0
    assert f"byol {MARGIN - 0.1:+.1f} miss it" in capsys.readouterr().out
    assert f"byol {MARGIN:+.1f} reach it" in (tmp_path / "a" / "README.md").read_text()


def test_a_study_out_of_time_says_how_many_pairs_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert studied(tmp_path, Counted(), monkeypatch, *ASKED, "--minutes", "-1") == 1
    assert f"{len(FEW)} pairs are left" in capsys.readouterr().out


def test_where_a_run_reads_and_writes_is_no_part_of_its_settings(tmp_path: Path) -> None:
    one, other, longer = (
        settings_of(config_of("byol", "vit", data=tmp_path / a, work=tmp_path / b, steps=steps), "digits")
        for a, b, steps in (("a", "b", 7), ("c", "d", 7), ("a", "b", 8))
    )
    assert one == other != longer
