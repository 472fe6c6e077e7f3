"""The study of stability: spikes are what stands out and nothing else, and a pair of runs is made, drawn and told."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_train.config import load_config
from ssl_train.errors import ConfigError
from ssl_train.models.vit import Vit
from ssl_train.studies import stability_pair
from ssl_train.studies.learning_sets import write_split
from ssl_train.studies.stability import as_page, as_svg, deepest_dip, find_spikes, main, read_run


def curve(values: list[float]) -> list[tuple[float, float]]:
    return [(float(step), value) for step, value in enumerate(values, start=1)]


def noisy(length: int, spread: float, seed: int = 0) -> list[float]:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(length, generator=random) * spread).exp().tolist()


def test_a_spike_is_found_where_it_is_and_nowhere_else() -> None:
    values = noisy(200, 0.1)
    values[60], values[150] = 9.0, 40.0
    spikes = find_spikes(curve(values))
    assert [spike.step for spike in spikes] == [61, 151]
    assert spikes[1].ratio == pytest.approx(40, rel=0.1)


def test_neighbouring_points_are_one_spike_the_highest_of_them() -> None:
    values = noisy(100, 0.1)
    values[50:54] = [6.0, 20.0, 8.0, 5.0]
    assert [(spike.step, spike.value) for spike in find_spikes(curve(values))] == [(52, 20.0)]


@pytest.mark.parametrize(
    "values",
    [
        [1.0] * 100,
        [math.exp(-step / 30) for step in range(200)],  # a slope
        noisy(500, 0.5),  # noise
        [1.0] * 50 + [10.0] * 50,  # a new level that stays
        [1.0, 1.0, 50.0],  # too few to say
        [200.0, 160.0, 26.0, *noisy(100, 0.1)],  # a beginning
        [],
    ],
    ids=["flat", "slope", "noise", "level", "few", "beginning", "none"],
)
def test_neither_slopes_nor_noise_nor_a_new_level_are_spikes(values: list[float]) -> None:
    assert find_spikes(curve(values)) == []


def test_the_scale_of_a_curve_does_not_matter() -> None:
    values = noisy(100, 0.1)
    values[30] = 12.0
    small = find_spikes(curve([1e-6 * value for value in values]))
    assert [spike.step for spike in small] == [spike.step for spike in find_spikes(curve(values))] == [31]


def test_a_gradient_that_is_not_finite_is_a_spike_without_end() -> None:
    values = noisy(50, 0.1)
    values[20] = math.nan
    (spike,) = find_spikes(curve(values))
    assert spike.step == 21
    assert spike.ratio == math.inf


def test_the_deepest_dip_is_below_the_best_so_far() -> None:
    assert deepest_dip(curve([10.0, 30.0, 28.0, 40.0, 33.0, 41.0])) == 7.0
    assert deepest_dip(curve([1.0, 2.0])) == deepest_dip([]) == 0.0


def lines_to(folder: Path, lines: list[dict[str, float | None]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_parts_are_drawn_by_depth_and_null_breaks_a_curve(tmp_path: Path) -> None:
    names = ["blocks_2", "layer_10", "layer_02", "stem", "embeddings"]
    lines: list[dict[str, float | None]] = [
        {"step": step, "loss": 1.0, **{f"grad_norm_backbone_{name}": 0.5 for name in names}} for step in range(1, 4)
    ]
    lines[1]["loss"] = None
    run = read_run(lines_to(tmp_path / "run", lines), "one")
    assert list(run.gradients) == ["stem", "embeddings", "blocks_2", "layer_02", "layer_10"]
    assert [step for step, _ in run.loss] == [1, 2, 3]
    assert math.isnan(run.loss[1][1])
    assert run.accuracy == []


def test_a_run_without_parts_is_drawn_by_its_backbones_norm(tmp_path: Path) -> None:
    folder = lines_to(tmp_path / "run", [{"step": 1, "loss": 1.0, "grad_norm_backbone": 2.0}])
    assert read_run(folder, "one").gradients == {"backbone": [(1, 2.0)]}


def test_spikes_are_counted_listed_and_marked(tmp_path: Path) -> None:
    values = noisy(60, 0.1)
    values[40] = 25.0
    lines: list[dict[str, float | None]] = [
        {"step": step, "loss": 1.0, "knn_top1": 50.0 - step % 7, "grad_norm_backbone_embeddings": value}
        for step, value in enumerate(values, start=1)
    ]
    run = read_run(lines_to(tmp_path / "shaky", lines), "shaky <run>")
    text = as_page([run])
    assert "embeddings 1" in text
    assert "<td>41</td><td>25</td>" in text
    assert "shaky &lt;run&gt;" in text
    assert "shaky <run>" not in text
    assert "No gradient spikes" not in text
    assert re.search(r"2\d\.\d times", text)


SMALL = "{hidden_dim: 16, out_dim: 8, num_layers: 2}"
CHANGES = ["data.batch_images=4", f"method.projector={SMALL}", f"method.predictor={SMALL}"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of ten steps, its runs beside it."""
    made = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(16)]
    write_split(made / "data", pictures, ["one", "other"] * 8)
    command = ["--data", str(made / "data"), "--out", str(made / "out"), "--work", str(made / "runs"), "--steps", "10"]
    assert stability_pair.main([*command, *CHANGES]) == 0
    return made


def test_a_pair_of_runs_differs_in_its_stem_alone(pair: Path) -> None:
    configs = [load_config(str(pair / "runs" / name / "run.yaml")) for name in ("free", "frozen")]
    free, frozen = (replace(config, output_dir="") for config in configs)
    assert free != frozen
    assert isinstance(frozen.model, Vit)
    assert replace(free, model=replace(free.model, frozen_stem=True)) == frozen


def test_a_pair_is_told_in_a_table_pictures_and_figures(pair: Path) -> None:
    figures = json.loads((pair / "out" / "stability.json").read_text())
    assert list(figures) == ["free", "frozen"]
    readme = (pair / "out" / "README.md").read_text()
    for name, found in figures.items():
        run = read_run(pair / "runs" / name, name)
        assert [tuple(point) for point in found["knn"]] == run.accuracy
        assert sum(map(len, found["spikes"].values())) == sum(map(len, run.spikes().values()))
        assert f"| {name} | {run.accuracy[-1][1]:.1f} |" in readme
    pictures = {path.name for path in (pair / "out").glob("*.svg")}
    assert pictures == {"accuracy.svg", "loss.svg", "gradients-free.svg", "gradients-frozen.svg"}
    assert all(f"]({name})" in readme for name in pictures)


def test_a_real_pair_of_runs_is_drawn_with_and_without_a_frozen_stem(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, picture = tmp_path / "out" / "stability.html", tmp_path / "out" / "stability.svg"
    runs = [f"{name}={pair / 'runs' / name}" for name in ("frozen", "free")]
    assert main([*runs, "--out", str(page)]) == 0
    assert main([*runs, "--out", str(picture)]) == 0
    frozen, free = (read_run(pair / "runs" / name, name) for name in ("frozen", "free"))
    assert f"frozen: {sum(map(len, frozen.spikes().values()))} gradient spikes" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg ") == 4
    assert "<script" not in text
    root = ET.fromstring(picture.read_text(encoding="utf-8"))
    charts = root.findall("{http://www.w3.org/2000/svg}svg")
    assert len(charts) == 4
    bottoms = [int(chart.attrib["y"]) + int(chart.attrib["height"]) for chart in charts]
    assert [int(chart.attrib["y"]) for chart in charts] == [0, *bottoms[:-1]]
    assert int(root.attrib["height"]) == bottoms[-1]
    assert list(free.gradients) == ["stem", *frozen.gradients]  # what is frozen has no gradient to draw
    assert list(frozen.gradients) == [f"layer_{layer:02d}" for layer in range(6)]
    assert all(math.isfinite(value) for points in free.gradients.values() for _, value in points)


def test_a_pair_without_images_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stability_pair.main(["--out", str(tmp_path / "out")]) == 2
    assert "give --set, or --data" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl with a whole line in"):
        read_run(tmp_path, "nothing")
    one = lines_to(tmp_path / "one", [{"step": 1, "loss": 1.0, "grad_norm_backbone": 2.0}])
    assert main([str(one), str(one), "--out", str(tmp_path / "x.svg")]) == 2
    assert "two runs are called one" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(one), "--out", str(tmp_path / "x.png")])
    assert as_svg([read_run(one, "one")]).startswith("<svg ")
