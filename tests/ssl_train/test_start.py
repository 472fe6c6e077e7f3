"""A run may begin with another's weights: the same network on larger images, with its heads, or as a teacher."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ssl_train.checkpoint import heads_path
from ssl_train.config import TrainConfig, check_config, load_config
from ssl_train.distributed import World
from ssl_train.errors import CheckpointError, ConfigError
from ssl_train.metrics import read_metrics
from ssl_train.models import load_backbone
from ssl_train.start import Weights, put_heads, read_heads
from ssl_train.trainer import Trainer, build_networks

Configure = Callable[..., TrainConfig]
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def finished(tiny_run: Configure, tmp_path: Path) -> str:
    """The exported teacher of a short run."""
    folder = tmp_path / "first"
    assert Trainer(tiny_run("num_steps=2", f"output_dir={folder}"), ALONE).run()
    return str(folder / "teacher.safetensors")


def test_student_and_teacher_begin_with_the_weights_of_the_files(tiny_run: Configure, finished: str) -> None:
    config = tiny_run(f"start.backbone.path={finished}", f"start.heads.path={heads_path(finished)}")
    networks = build_networks(config)
    backbone = load_backbone(finished)
    for modules in (networks.student, networks.teacher):
        assert_close(modules["backbone"].state_dict(), backbone.state_dict(), rtol=0, atol=0)
    heads = read_heads(Weights(heads_path(finished)))
    own = {name: tensor for name, tensor in networks.student.state_dict().items() if "_head." in name}
    assert_close(own, heads, rtol=0, atol=0)
    fresh = build_networks(tiny_run(f"start.backbone.path={finished}")).student.state_dict()
    assert not torch.equal(fresh["dino_head.mlp.0.weight"], own["dino_head.mlp.0.weight"])


def test_on_larger_images_the_positions_are_interpolated_and_the_rest_is_the_same(
    tiny_run: Configure, finished: str
) -> None:
    config = tiny_run(f"start.backbone.path={finished}", "model.image_size=64", "augment.global_pixels=64")
    backbone, loaded = build_networks(config).student["backbone"], load_backbone(finished)
    assert backbone.grid > loaded.grid
    assert_close(backbone.pos_embed, loaded.positions(backbone.grid, backbone.grid))
    images = torch.randn(2, 3, 64, 64)
    backbone.eval()
    with torch.no_grad():
        assert_close(backbone.tokens(images).cls, loaded.tokens(images).cls)


def test_the_export_names_its_heads_with_their_checksum(finished: str) -> None:
    told = json.loads(Path(finished).with_suffix(".json").read_text())
    assert told["heads"]["path"] == heads_path(finished)
    assert told["heads"]["bytes"] == Path(heads_path(finished)).stat().st_size


def test_weights_that_do_not_fit_are_refused_by_name(tiny_run: Configure, finished: str) -> None:
    with pytest.raises(CheckpointError, match=r"no backbone for this model .*patch_embed"):
        build_networks(tiny_run(f"start.backbone.path={finished}", "model.patch_size=4", "augment.local_pixels=16"))
    heads = f"start.heads.path={heads_path(finished)}"
    with pytest.raises(CheckpointError, match=r"not this method's: .*dino_head"):
        build_networks(tiny_run(f"start.backbone.path={finished}", heads, "method.dino_head.num_prototypes=7"))
    with pytest.raises(CheckpointError, match="is no file of heads"):
        build_networks(tiny_run(f"start.backbone.path={finished}", f"start.heads.path={finished}"))


def distilled(tiny_run: Configure, teacher: str, *more: str) -> TrainConfig:
    files = f"{{backbone: {{path: {teacher}}}, heads: {{path: {heads_path(teacher)}}}}}"
    return tiny_run(f"method.distil_from={files}", "method.masks={kind: none}", "model.drop_path=0.0", *more)


def test_a_student_is_distilled_from_a_frozen_teacher_and_its_average_is_the_result(
    tiny_run: Configure, finished: str, tmp_path: Path
) -> None:
    config = distilled(tiny_run, finished, f"output_dir={tmp_path / 'student'}", "num_steps=3")
    trainer = Trainer(config, ALONE)
    guide = {name: tensor.clone() for name, tensor in trainer.networks.frozen[0].state_dict().items()}
    assert trainer.run()
    assert_close(trainer.networks.frozen[0].state_dict(), guide, rtol=0, atol=0)
    average = trainer.networks.teacher["backbone"].state_dict()
    assert_close(load_backbone(str(tmp_path / "student" / "teacher.safetensors")).state_dict(), average)
    assert not any(torch.equal(average[name], guide[f"backbone.{name}"]) for name in ("cls_token", "norm.weight"))
    assert {name.split(".")[0] for name in trainer.networks.state_dict()} == {"student", "teacher"}
    assert len(read_metrics(str(tmp_path / "student"))) == 3


def test_in_distillation_every_patch_of_both_global_crops_counts_and_none_is_hidden(
    tiny_run: Configure, finished: str
) -> None:
    trainer = Trainer(distilled(tiny_run, finished), ALONE)
    batch = trainer.loader.batches[0]
    assert not batch.masks.any()
    assert len(batch.masked) == batch.masks.numel()
    assert_close(batch.mask_weights.sum(), torch.tensor(float(len(batch.masks))))
    # The teacher's own backbone as the student, with its own heads: what it says is what it is asked.
    networks = trainer.networks
    networks.student.load_state_dict(networks.guide.state_dict())
    networks.eval()
    own = networks.loss(batch, 0)
    networks.student["ibot_head"].last_layer.weight_v.data.normal_()
    assert own.terms["ibot"] < networks.loss(batch, 0).terms["ibot"]


def test_distillation_without_a_teacher_says_what_it_needs(tiny_run: Configure) -> None:
    with pytest.raises(ConfigError, match=r"method\.distil_from\.backbone\.path"):
        check_config(tiny_run("method.masks={kind: none}"), 1)


@pytest.mark.parametrize("recipe", ["vits14_distilled", "vitb14_distilled", "vitl14_distilled", "highres518"])
def test_recipes_of_later_phases_are_whole_but_for_their_files(recipe: str) -> None:
    config = load_config(recipe)
    assert config.model.drop_path == (0.0 if recipe.endswith("distilled") else 0.4)
    assert config.method.masks.hides is not recipe.endswith("distilled")


def test_a_predictor_that_no_file_has_begins_anew_and_the_other_heads_go_on(tmp_path: Path) -> None:
    changes = ["data.folder=unread", f"output_dir={tmp_path / 'first'}"]
    first = build_networks(load_config("debug_mocov3", changes))
    exported = {
        f"{name}.{key}": tensor
        for name, head in first.teacher.items()
        if name != "backbone"
        for key, tensor in head.state_dict().items()
    }
    assert exported
    assert not any(name.startswith("predictor_head") for name in exported)
    second = build_networks(load_config("debug_mocov3", [*changes, "seed=1"])).student
    fresh = {name: tensor.clone() for name, tensor in second["predictor_head"].state_dict().items()}
    put_heads(second, exported, "heads.safetensors")
    assert_close(second["projector_head"].state_dict(), first.teacher["projector_head"].state_dict(), rtol=0, atol=0)
    assert_close(second["predictor_head"].state_dict(), fresh, rtol=0, atol=0)
