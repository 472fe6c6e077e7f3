"""DINOv2's ablation as recipes: neighbours differ by what the paper's table says, and by nothing else."""

from itertools import pairwise
from typing import Any

import pytest

from ssl_train.config import RECIPES, check_config, load_recipe, plain_values, recipes

LADDER = [name for name in recipes() if name.startswith("ladder_")]
# arXiv 2304.07193, Table 1: what each row adds, and its k-NN and linear accuracy on ImageNet-1k.
ADDED: dict[str, tuple[set[str], float, float]] = {
    "ladder_01_ibot": (set(), 74.5, 83.2),
    "ladder_02_layer_scale": ({"model.layer_scale", "model.drop_path"}, 75.4, 82.0),
    "ladder_03_prototypes": ({"method.dino_head.num_prototypes"}, 76.6, 81.9),
    "ladder_04_koleo": ({"method.koleo_weight"}, 78.9, 82.5),
    "ladder_05_swiglu": ({"model.ffn"}, 78.7, 83.1),
    "ladder_06_patch14": ({"model.patch_size", "augment.local_pixels"}, 78.9, 83.5),
    "ladder_07_momentum": ({"method.teacher_momentum"}, 79.4, 83.6),
    "ladder_08_warmup": ({"optim.warmup_steps"}, 80.5, 83.8),
    "ladder_09_batch": ({"data.batch_images"}, 81.7, 84.7),
    "ladder_10_sinkhorn": ({"method.centering"}, 81.7, 84.7),
    "ladder_11_untied": ({"method.ibot_head"}, 82.0, 84.5),
}


def settings(values: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Every setting of a run by its place; a head that is absent is one setting."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, dict) and name != "ibot_head"
        found |= settings(value, f"{place}{name}.") if inside else {f"{place}{name}": value}
    return found


def lines(name: str) -> list[str]:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_the_ladder_has_every_rung_of_the_papers_table() -> None:
    assert list(ADDED) == LADDER


@pytest.mark.parametrize(("below", "above"), list(pairwise(ADDED)))
def test_a_rung_differs_from_the_one_below_by_what_it_adds(below: str, above: str) -> None:
    one, other = (settings(plain_values(load_recipe(name))) for name in (below, above))
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == ADDED[above][0]


@pytest.mark.parametrize(("below", "above"), list(pairwise(ADDED)))
def test_a_rung_is_one_line_but_where_the_patch_decides_the_crops_side(below: str, above: str) -> None:
    changed = [line for line, before in zip(lines(above), lines(below), strict=True) if line != before]
    assert len(changed) == (2 if above == "ladder_06_patch14" else 1)


@pytest.mark.parametrize("name", ADDED)
def test_a_rungs_first_comment_states_the_papers_accuracy(name: str) -> None:
    _, knn, linear = ADDED[name]
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    assert text.startswith("#")
    assert f"{knn} k-NN, {linear} linear" in comment


@pytest.mark.parametrize("name", ADDED)
def test_a_rung_runs_on_the_machines_that_its_batch_is_for(name: str) -> None:
    recipe = load_recipe(name, ["output_dir=/run", "data.folder=/photographs"])
    check_config(recipe, 96 if recipe.data.batch_images == 3072 else 64)


def test_the_top_of_the_ladder_is_the_published_long_recipe() -> None:
    assert load_recipe("ladder_11_untied") == load_recipe("vitl14_long")


def test_the_foot_of_the_ladder_keeps_ibots_own_settings_where_dinov2s_code_has_them() -> None:
    foot, published = load_recipe("ladder_01_ibot"), load_recipe("ibot_vitl16_in22k")
    for name in ("layer_scale", "drop_path", "patch_size", "ffn", "size"):
        assert getattr(foot.model, name) == getattr(published.model, name), name
    for method in (foot.method, published.method):
        assert method.dino_head.num_prototypes == 8192
        assert (method.ibot_head, method.centering) == (None, "softmax")
    assert foot.method.masks.share == published.method.masks.share
