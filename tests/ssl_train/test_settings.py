from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ssl_train.config import (
    TrainConfig,
    check_config,
    dump_config,
    load_config,
    load_recipe,
    parse_config,
    plain_values,
    recipes,
)
from ssl_train.data.loader import Data
from ssl_train.errors import ConfigError
from ssl_train.methods import DinoV2

PUBLISHED_PROCESSES = {
    "vitl16_short": 32,
    "vitl14_long": 96,
    "vitg14": 256,
    "vits16_sample": 1,
    "debug": 2,
    "vith16_in22k": 64,
    "vits14_distilled": 64,
    "vitb14_distilled": 64,
    "vitl14_distilled": 64,
    "highres518": 96,
    "sscd_resnet50": 32,
    "distil_resnet50": 64,
    "distil_internimage_t": 64,
}
OTHERS = 8
"""Processes of the recipes that are not named: a machine of eight GPUs; recipes for a CPU are checked with one."""
MORE = {
    "_distilled": "method.distil_from={backbone: {path: teacher.safetensors}, heads: {path: heads.safetensors}}",
    "distil": "method.teacher={path: teacher.safetensors}",
}
"""What recipes leave to be filled in, by a part of their names."""


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_sound_on_the_machines_it_is_for(name: str) -> None:
    more = [next((text for part, text in MORE.items() if part in name), "seed=0")]
    recipe = load_recipe(name, ["output_dir=/run", "data.folder=/photographs", *more])
    check_config(recipe, PUBLISHED_PROCESSES.get(name, 1 if name.startswith("debug") else OTHERS))
    assert parse_config(plain_values(recipe)) == recipe


def test_the_recipes_have_the_published_numbers() -> None:
    short, long, giant = (load_recipe(name) for name in ("vitl16_short", "vitl14_long", "vitg14"))
    assert isinstance(long.method, DinoV2)
    assert isinstance(short.method, DinoV2)
    assert (short.num_steps, short.data.batch_images, short.optim.peak_lr(2048)) == (125_000, 2048, 4e-3 * 2**0.5)
    assert (long.num_steps, long.data.batch_images, long.optim.warmup_steps) == (625_000, 3072, 100_000)
    assert long.optim.peak_lr(3072) == pytest.approx(3.5e-4, rel=0.011)  # the paper's rounded number
    assert long.method.ibot_head is not None
    assert (long.method.dino_head.bottleneck_dim, long.method.ibot_head.bottleneck_dim) == (384, 256)
    assert short.method.ibot_head is None
    assert giant == replace(long, model=replace(long.model, size="giant"), method=replace(long.method, group_images=12))


def test_a_config_survives_its_yaml(tmp_path: Path) -> None:
    config = load_recipe("vitl14_long", ["output_dir=/run", "data.shards=[a.tar, b.tar]"])
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert load_config(str(tmp_path / "run.yaml")) == config


def test_a_config_is_a_field_of_a_pydantic_model_with_help_for_every_field() -> None:
    class Flow(BaseModel):
        train: TrainConfig = load_recipe("debug")

    assert Flow.model_validate_json(Flow().model_dump_json()) == Flow()
    for name, definition in Flow.model_json_schema()["$defs"].items():
        for field, schema in definition["properties"].items():
            assert "$ref" in schema or schema.get("description"), f"{name}.{field} has no docstring"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.shard=x", r"unknown key 'shard' in 'data' \(did you mean 'shards'\?\)"),
        ("method.dino_head.prototypes=4", r"unknown key 'prototypes' in 'method.dino_head' .*'num_prototypes'"),
        ("method.ibot_head={num_prototype: 4}", r"'num_prototype' in 'method.ibot_head' .*'num_prototypes'"),
        ("lerning_rate=1", r"unknown key 'lerning_rate'; valid keys: output_dir"),
        ("optim.lr=-1", r"optim.lr: Input should be greater than 0"),
        ("model.size=tny", r"model.size: Input should be 'tiny'"),
        ("num_steps.x=1", r"goes into 'num_steps', which is a plain value"),
        ("optim.lr", r"write key=value"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("debug", [override])


def test_a_value_that_is_no_yaml_is_the_text_itself() -> None:
    shards = ["*.tar", "s-[0-9", "{a,b}-*.tar"]
    assert [load_config("debug", [f"data.shards={text}"]).data.shards for text in shards] == shards


def test_numbers_in_overrides_may_be_written_with_an_exponent() -> None:
    assert load_recipe("debug", ["optim.lr=1e-3"]).optim.lr == 0.001


def test_an_unknown_recipe_and_an_unreadable_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'debgu' \(did you mean 'debug'\?\)"):
        load_config("debgu")
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml"):
        load_config(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds no settings"):
        load_config(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(
    ("changes", "world_size", "message"),
    [
        ({"output_dir": ""}, 1, "output_dir is empty"),
        ({"output_dir": "s3://bucket/run"}, 1, "must be a local or mounted folder"),
        ({"data": Data(batch_images=16)}, 1, r"give one of data\.shards"),
        ({"data": Data(folder="a", shards="b", batch_images=16)}, 1, r"give one of data\.shards"),
        ({"data": Data(folder="a", batch_images=15)}, 2, "cannot be shared equally by 2 processes"),
        ({"data": Data(folder="a", batch_images=12)}, 1, r"group_images = 8 must divide the 12 images"),
        ({"method": DinoV2(), "data": Data(folder="a", batch_images=2)}, 2, "needs 2 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: dict[str, Any], world_size: int, message: str) -> None:
    sound = load_recipe("debug", ["output_dir=/run", "data.folder=/photographs"])
    check_config(sound, world_size)
    with pytest.raises(ConfigError, match=message):
        check_config(replace(sound, **changes), world_size)
