import copy

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from ssl_train.config import check_config, load_recipe
from ssl_train.distributed import World
from ssl_train.errors import ConfigError
from ssl_train.methods.byol import Byol
from ssl_train.models import Vit
from ssl_train.models.projectors import MlpHead
from tests.ssl_train.two_processes_views import batch_of

VIT = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False)
METHOD = Byol(projector=MlpHead(16, 8), predictor=MlpHead(16, 8, num_layers=2), teacher_momentum=(0.9, 1.0))
BATCH = batch_of(0, World(0, 1, torch.device("cpu")))


def test_a_step_is_the_loop_over_images_and_views() -> None:
    networks = METHOD.build(VIT, num_steps=10)
    student, teacher = copy.deepcopy(networks.student), copy.deepcopy(networks.teacher)
    views = BATCH.global_crops.chunk(2)
    said = [student["predictor_head"](student["projector_head"](student["backbone"].tokens(v).cls)) for v in views]
    heard = [teacher["projector_head"](teacher["backbone"].tokens(view).cls).detach() for view in views]
    expected = torch.zeros(())
    for view, other in ((0, 1), (1, 0)):
        for p, t in zip(said[view], heard[other], strict=True):
            expected = expected + (F.normalize(p, dim=0) - F.normalize(t, dim=0)).square().sum() / 8
    losses = networks.loss(BATCH, 0)
    assert_close(losses.total, expected)
    losses.total.backward()
    expected.backward()
    theirs = dict(student.named_parameters())
    for name, parameter in networks.student.named_parameters():
        assert (parameter.grad is None) == (theirs[name].grad is None), name
        if parameter.grad is not None:
            assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)
    assert losses.terms["regression"] == losses.total


def test_the_teacher_moves_after_the_step() -> None:
    networks = METHOD.build(VIT, num_steps=10)
    weight, own = networks.teacher["backbone"].norm.weight, networks.student["backbone"].norm.weight
    with torch.no_grad():
        own.add_(1.0)
    before = weight.clone()
    networks.loss(BATCH, 0)
    assert torch.equal(weight, before)
    networks.after_step(0)
    assert_close(weight, before.lerp(own, 0.1))
    assert "predictor_head" not in networks.teacher
    assert networks.scheduled(0)["teacher_momentum"] == pytest.approx(0.9)


def test_settings_that_do_not_fit_are_named() -> None:
    sound = ["output_dir=/run", "data.folder=/photographs"]
    check_config(load_recipe("debug_byol", sound), 1)
    with pytest.raises(ConfigError, match=r"method.predictor.out_dim must be"):
        check_config(load_recipe("debug_byol", [*sound, "method.predictor.out_dim=5"]), 1)
    with pytest.raises(ConfigError, match=r"needs 2 or more"):
        check_config(load_recipe("debug_byol", [*sound, "data.batch_images=2"]), 2)


def test_its_own_heads_can_be_written() -> None:
    own = "{num_layers: 2, last_norm: false, bias: true, hidden_dim: 16, out_dim: 8}"
    method = load_recipe("debug_byol", [f"method.projector={own}", f"method.predictor={own}"]).method
    head = method.build(VIT, num_steps=1).student["projector_head"]
    assert [name for name, _ in head.named_parameters()] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.weight",
        "3.bias",
    ]
