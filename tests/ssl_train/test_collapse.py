"""The study of collapse, run small: what must become of the entropies, and what is said of it."""

import json
import math
import re
from pathlib import Path

import pytest

from ssl_train.config import TrainConfig, load_config, load_recipe
from ssl_train.errors import ConfigError
from ssl_train.methods.ibot import Ibot
from ssl_train.studies import collapse
from ssl_train.studies.collapse import VARIANTS, Curves, Variant, as_page, main, read_curves, verdict, with_variant

STEPS = 36
# Larger steps and a quicker teacher than one would train with: what takes epochs takes seconds.
SMALL = [
    "model.image_size=32",
    "method.dino_head={num_prototypes: 64, hidden_dim: 64, bottleneck_dim: 16}",
    "method.teacher_momentum=[0.9, 1.0]",
    "data.batch_images=8",
    "optim.warmup_steps=5",
    "optim.frozen_last_layer_steps=0",
    "optim.lr=1e-3",
]


@pytest.fixture(scope="module")
def studied(photographs: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page, beside the runs that it was drawn from."""
    out = tmp_path_factory.mktemp("study") / "collapse.html"
    assert main(["--data", photographs, "--out", str(out), "--steps", str(STEPS), *SMALL]) == 0
    return out


def run_of(studied: Path, name: str) -> Path:
    return studied.with_name("collapse-runs") / name.replace(" ", "_")


def curves_of(studied: Path, name: str) -> Curves:
    return read_curves(run_of(studied, name))


def test_a_run_that_lacks_one_of_the_two_ends_where_the_paper_says(studied: Path) -> None:
    ends = {name: verdict(curves_of(studied, name)) for name in VARIANTS}
    assert ends["sharpening only"].entropy < 0.1 * math.log(64)
    assert ends["centering only"].entropy > 0.9 * math.log(64)
    for name in ("sharpening only", "centering only", "neither"):
        assert ends[name].collapsed, name
        assert ends[name].told < 0.05, name
    assert "one prototype" in ends["sharpening only"].words
    assert "log(K)" in ends["centering only"].words
    assert ends["sharpening only"].divergence < 0.1
    assert ends["neither"].divergence < 0.01


def test_centering_pulls_the_entropy_up_and_sharpening_pulls_it_down(studied: Path) -> None:
    ends = {name: verdict(curves_of(studied, name)).entropy for name in VARIANTS}
    assert ends["sharpening only"] < ends["both"] < ends["centering only"]
    assert ends["sharpening only"] < ends["neither"] < ends["centering only"]


def test_the_runs_differ_in_what_their_name_says_and_begin_alike(studied: Path) -> None:
    for name, variant in VARIANTS.items():
        method = load_config(str(run_of(studied, name) / "run.yaml")).method
        assert (method.centering == "softmax") == variant.centering
        assert (method.teacher_temperature != (0.1, 0.1)) == variant.sharpening
    for one, other in (("both", "sharpening only"), ("centering only", "neither")):
        assert curves_of(studied, one).entropy[0] == curves_of(studied, other).entropy[0]  # the first centre is zero


def test_the_page_draws_every_run_marks_log_k_and_says_what_became_of_it(studied: Path) -> None:
    text = studied.read_text()
    assert text.count("<svg") == 3
    assert f"log(K), K = 64 (y = {math.log(64):.4g})" in text
    for name in VARIANTS:
        assert text.count(f">{name}<") == 4  # a legend in each chart, and the table
        assert verdict(curves_of(studied, name)).words in text
    assert not re.search("<script|src=", text)


def test_runs_that_are_there_are_read_and_not_trained_again(studied: Path, tmp_path: Path) -> None:
    before = (run_of(studied, "both") / "metrics.jsonl").read_bytes()
    out = tmp_path / "again" / "page.html"
    assert main(["--out", str(out), "--runs", f"mine={run_of(studied, 'both')}"]) == 0
    assert ">mine<" in out.read_text()
    assert (run_of(studied, "both") / "metrics.jsonl").read_bytes() == before
    assert not out.with_name("page-runs").exists()


def test_a_folder_gets_the_table_the_three_pictures_and_the_figures(studied: Path, tmp_path: Path) -> None:
    out = tmp_path / "collapse"
    assert main(["--out", str(out), "--runs", *(f"{name}={run_of(studied, name)}" for name in VARIANTS)]) == 0
    figures = json.loads((out / "collapse.json").read_text())
    assert list(figures) == list(VARIANTS)
    readme = (out / "README.md").read_text()
    for name, found in figures.items():
        curves = curves_of(studied, name)
        assert found["end"] == verdict(curves)._asdict()
        assert len(found["entropy"]) == len(found["divergence"]) == len(found["told"]) == STEPS
        assert f"| {name} | {verdict(curves).entropy:.2f} of {math.log(64):.2f} |" in readme
    pictures = sorted(path.name for path in out.glob("*.svg"))
    assert pictures == ["entropy.svg", "kl.svg", "told.svg"]
    assert all(f"]({name})" in readme for name in pictures)


def test_a_set_is_made_once_where_the_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def write(folder: Path) -> None:
        made.append(folder)
        folder.mkdir(parents=True)

    def trained(config: TrainConfig, folder: Path) -> dict[str, Path]:
        assert config.data.folder == str(folder / "digits")
        return {}

    monkeypatch.setattr(collapse, "SETS", {"digits": write})
    monkeypatch.setattr(collapse, "train_variants", trained)
    for _ in range(2):
        command = ["--set", "digits", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--steps", "7"]
        assert main([*command, "optim.lr=1e-3"]) == 0
    assert made == [tmp_path / "work" / "digits"]
    told = "--set digits --recipe debug_dino --steps 7 optim.lr=1e-3"
    assert told in (tmp_path / "out" / "README.md").read_text()


def flat(entropy: float, divergence: float, told: float, prototypes: int = 64) -> Curves:
    """A run that has been the same for ever, after a beginning that must not count."""
    return Curves(
        prototypes,
        *([(0, 99.0), *((float(step), value) for step in range(1, 40))] for value in (entropy, divergence, told)),
    )


@pytest.mark.parametrize(
    ("curves", "words", "collapsed"),
    [
        (flat(2.0, 0.5, 1.5), "no collapse: a target says 1.50 nats", False),
        (flat(0.01, 0.0, 0.0), "one prototype", True),
        (flat(math.log(64) - 0.01, 0.0, 0.0), "all prototypes alike", True),
        (flat(2.0, 0.0, 0.01), "one answer", True),
        (flat(0.01, 0.0, 3.0), "no collapse", False),
    ],
)
def test_the_verdict_is_on_the_end_of_a_run(curves: Curves, words: str, collapsed: bool) -> None:
    found = verdict(curves)
    assert words in found.words
    assert found.collapsed == collapsed
    assert found.words in as_page({"run": curves})


def test_without_sharpening_both_temperatures_of_ibot_are_the_students() -> None:
    config = load_recipe("ibot_vits16")
    changed = with_variant(config, Variant(centering=True, sharpening=False)).method
    assert isinstance(changed, Ibot)
    assert changed.teacher_temperature == changed.patch_temperature == (0.1, 0.1)
    assert with_variant(config, VARIANTS["both"]) == config


@pytest.mark.parametrize("changes", [["method.centering=none"], ["method={kind: simclr}"]])
def test_a_recipe_without_both_is_refused(changes: list[str]) -> None:
    with pytest.raises(ConfigError, match="no centering and sharpening to leave out"):
        with_variant(load_recipe("debug_dino", changes), VARIANTS["both"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --set, or --data"),
        (["--runs", "folder-without-a-name"], "wants NAME=FOLDER"),
        (["--runs", "mine=/nowhere"], "/nowhere holds no metrics"),
    ],
)
def test_what_cannot_be_studied_is_explained(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "page.html"), *arguments]) == 2
    assert message in capsys.readouterr().err
