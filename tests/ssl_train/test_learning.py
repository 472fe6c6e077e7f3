"""The study of learning: held-out images stay out, what is written is what was found, a missed margin is a failure."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from ssl_train.config import load_recipe
from ssl_train.evaluate.features import read_split
from ssl_train.evaluate.frozen import build_untrained
from ssl_train.studies import learning
from ssl_train.studies.learning import CHARTS, MARGINS, Margin, main, score
from ssl_train.studies.learning_sets import SETS, write_digits, write_split

TINY = [
    "model.image_size=16",
    "augment={global_pixels: 16, local_pixels: 8, num_local: 1}",
    "method.dino_head={num_prototypes: 16, hidden_dim: 16, bottleneck_dim: 8}",
    "method.ibot_head=null",
    "method.group_images=4",
    "data.batch_images=4",
    "num_steps=3",
    "metrics.every_steps=1",
]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Bright and dark pictures."""
    rng = np.random.default_rng(0)
    levels = [40 if number % 2 else 200 for number in range(24)]
    pictures = [np.clip(rng.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8) for level in levels]
    write_split(tmp_path / "labelled", pictures, ["dark" if level < 100 else "bright" for level in levels])
    return tmp_path / "labelled"


def test_every_digit_is_in_one_split_and_a_quarter_is_held_out(tmp_path: Path) -> None:
    write_digits(tmp_path)
    train, classes = read_split(str(tmp_path), "train")
    test, _ = read_split(str(tmp_path), "test", classes)
    assert classes == tuple("0123456789")
    assert len(train.paths) + len(test.paths) == 1797
    assert len(test.paths) == pytest.approx(1797 / 4, abs=10)
    names = [{Path(path).name for path in split.paths} for split in (train, test)]
    assert not names[0] & names[1]


def test_what_was_found_is_written_and_the_run_sees_no_held_out_image(
    tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    class Watched(learning.Trainer):
        def __init__(self, config: Any, world: Any) -> None:
            seen.append(config.data.folder)
            super().__init__(config, world)

    monkeypatch.setattr(learning, "Trainer", Watched)
    monkeypatch.setattr(learning, "LOOK_STEPS", 2)
    monkeypatch.setattr(learning, "DEFAULT_MARGIN", Margin(knn=-100.0, linear=-100.0))
    out = tmp_path / "out"
    assert main(["--out", str(out), "--sets", "--labelled", f"two={labelled}", "--", *TINY]) == 0
    assert seen == [str(labelled / "train")]
    found = json.loads((out / "learning.json").read_text())["two"]
    assert found["reached"]
    assert (found["num_train"], found["num_test"], found["num_steps"]) == (18, 6, 3)
    assert found["gained"]["knn"] == pytest.approx(found["trained"]["knn"] - found["untrained"]["knn"])
    assert [step for step, _ in found["curves"]["loss"]] == [1, 2, 3]
    assert found["curves"]["knn_top1"][0] == [0, found["untrained"]["knn"]]
    assert len(found["curves"]["knn_top1"]) == 2
    page = (out / "README.md").read_text()
    for chart in CHARTS:
        assert f"(two-{chart}.svg)" in page
        assert ElementTree.parse(out / f"two-{chart}.svg").getroot().tag.endswith("svg")


def test_a_missed_margin_is_a_failure_and_still_written(
    tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "DEFAULT_MARGIN", Margin(knn=101.0, linear=0.0))
    out = tmp_path / "out"
    assert main(["--out", str(out), "--sets", "--labelled", f"two={labelled}", "--", *TINY]) == 1
    assert not json.loads((out / "learning.json").read_text())["two"]["reached"]


def test_scores_are_of_held_out_images(labelled: Path) -> None:
    config = load_recipe(learning.RECIPE, TINY)
    train, classes = read_split(str(labelled), "train")
    test, _ = read_split(str(labelled), "test", classes)
    torch.manual_seed(0)
    assert score(build_untrained(config.model, 0), train, test, config) == {"knn": 100.0, "linear": 100.0}


def test_a_folder_without_labels_is_a_mistake_that_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out"), "--sets", "--labelled", f"none={tmp_path}", "--", *TINY]) == 2
    assert "error:" in capsys.readouterr().err


def test_every_set_has_a_margin_that_was_stated() -> None:
    assert SETS.keys() == MARGINS.keys()
    assert all(margin.knn > 0 and margin.linear > 0 for margin in MARGINS.values())
