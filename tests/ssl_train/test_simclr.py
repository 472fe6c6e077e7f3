import copy

import pytest
import torch
from torch.testing import assert_close

from ssl_train.config import check_config, load_recipe
from ssl_train.distributed import World
from ssl_train.errors import ConfigError
from ssl_train.methods.simclr import SimClr
from ssl_train.models import Vit
from ssl_train.models.projectors import MlpHead
from tests.ssl_train.two_processes_views import batch_of

VIT = Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False)
METHOD = SimClr(projector=MlpHead(16, 8), temperature=0.3)
BATCH = batch_of(0, World(0, 1, torch.device("cpu")))


def test_a_step_is_the_loop_over_both_views_of_all_images() -> None:
    networks = METHOD.build(VIT, num_steps=10)
    student = copy.deepcopy(networks.student)
    z = student["projector_head"](student["backbone"].tokens(BATCH.global_crops).cls)
    cosines = torch.stack([torch.cosine_similarity(z, row[None]) for row in z]) / 0.3
    expected = torch.zeros(())
    for i in range(16):
        others = torch.stack([cosines[i, k] for k in range(16) if k != i])
        expected = expected + (others.logsumexp(0) - cosines[i, (i + 8) % 16]) / 16
    losses = networks.loss(BATCH, 0)
    assert_close(losses.total, expected)
    losses.total.backward()
    expected.backward()
    theirs = dict(student.named_parameters())
    for name, parameter in networks.student.named_parameters():
        if theirs[name].grad is not None:
            assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5)


def test_the_network_that_is_optimised_is_the_result() -> None:
    networks = METHOD.build(VIT, num_steps=10)
    assert not networks.has_teacher
    assert networks.teacher is networks.student
    before = {name: tensor.clone() for name, tensor in networks.student.named_parameters()}
    networks.after_step(0)
    assert_close(dict(networks.student.named_parameters()), before, rtol=0, atol=0)
    assert all(name.startswith("student.") for name, _ in networks.named_parameters())


def test_heads_cost_three_passes() -> None:
    assert METHOD.head_flops(num_crops=2, num_patches=0, student_dim=10, teacher_dim=10) == 2 * 3 * 2 * (
        160 + 256 + 128
    )


def test_one_image_is_not_enough() -> None:
    sound = ["output_dir=/run", "data.folder=/photographs"]
    check_config(load_recipe("debug_simclr", sound), 1)
    with pytest.raises(ConfigError, match=r"needs 2 or more, to have something to tell apart"):
        check_config(load_recipe("debug_simclr", [*sound, "data.batch_images=1"]), 1)
