"""SSCD: its loss is the docstring's loop, blends say truly what they show, and it learns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from ssl_train.config import TrainConfig, check_config
from ssl_train.descriptor import main, write_descriptor
from ssl_train.errors import CheckpointError, ConfigError
from ssl_train.losses.copies import copy_losses
from ssl_train.methods.blends import Blended, Blends
from ssl_train.methods.sscd import Sscd, shared_content
from ssl_train.models.descriptor import load_descriptor
from ssl_train.models.gem import DescriptorHead, GemPool
from ssl_train.models.load import describe
from ssl_train.models.resnet import Resnet
from ssl_train.trainer import Trainer
from tests.ssl_train import copies_of_processes
from tests.ssl_train.one_and_two import ALONE


def loop(own: Tensor, everyone: Tensor, related: Tensor, *, first: int, temperature: float) -> tuple[Tensor, Tensor]:
    """The loop in `copy_losses`'s docstring."""
    contrast, entropy = [], []
    for i in range(len(own)):
        similar = {first + j for j in range(len(own)) if related[i, j]}
        positives, negatives = similar - {first + i}, set(range(len(everyone))) - similar
        outside = sum((own[i] @ everyone[k] / temperature).exp() for k in negatives)
        terms = []
        for j in positives:
            p = (own[i] @ everyone[j] / temperature).exp()
            terms.append(-torch.log(p / (p + outside)))
        contrast.append(torch.stack(terms).mean())
        nearest = max(own[i] @ everyone[k] for k in negatives)
        entropy.append(-torch.log(torch.sqrt(torch.clamp(2 - 2 * nearest, min=1e-6))))
    return torch.stack(contrast).mean(), torch.stack(entropy).mean()


@pytest.mark.parametrize("first", [0, 6])
def test_the_loss_is_the_loop(first: int) -> None:
    everyone = F.normalize(torch.randn(18, 8, dtype=torch.float64), dim=-1).float().requires_grad_()
    own = everyone[first : first + 6]
    contents = torch.eye(3, dtype=torch.bool).repeat(2, 1)
    contents[1, 2] = contents[5, 0] = True  # two blends
    related = shared_content(contents, 6, 3)
    found = copy_losses(own, everyone, related, first=first, temperature=0.2)
    expected = loop(own, everyone, related, first=first, temperature=0.2)
    assert_close((found.contrast, found.entropy), expected)
    assert_close(
        torch.autograd.grad(found.contrast + found.entropy, everyone, retain_graph=True),
        torch.autograd.grad(sum(expected), everyone),
    )


def test_equal_strangers_have_a_finite_entropy() -> None:
    same = F.normalize(torch.ones(4, 8), dim=-1).requires_grad_()
    losses = copy_losses(
        same, same, shared_content(torch.eye(2, dtype=torch.bool).repeat(2, 1), 4, 2), first=0, temperature=0.05
    )
    (losses.contrast + losses.entropy).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()
    assert_close(losses.entropy, torch.tensor(-0.5 * np.log(1e-6), dtype=torch.float32))


def test_crops_are_related_when_they_show_an_image_in_common() -> None:
    contents = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)
    related = shared_content(contents, 9, 3)
    rows = [*contents, *torch.eye(3, dtype=torch.bool)]
    expected = [[bool((one & other).any()) for other in rows] for one in rows]
    assert related.tolist() == expected


@pytest.mark.parametrize("pasted", [0.0, 1.0])
def test_blends_show_what_they_say(pasted: float) -> None:
    crops = torch.arange(8.0)[:, None, None, None].expand(8, 3, 16, 16).clone()
    blended = Blends(chance=0.6, pasted=pasted).draw(8, 16)
    mixed = blended.applied(crops)
    shown = blended.contents(4)
    assert 0 < len(blended.rows) < 8
    for row in range(8):
        found = mixed[row].unique()
        if row not in blended.rows:
            assert found.tolist() == [row]
            assert shown[row].tolist() == [image == row % 4 for image in range(4)]
            continue
        partner = int(blended.partners[blended.rows.tolist().index(row)])
        assert partner != row
        assert set(shown[row].nonzero().flatten().tolist()) == {row % 4, partner % 4}
        if pasted:
            assert set(found.tolist()) == {row, partner}
            other = mixed[row, 0] == partner
            sides = [int(other.any(axis).sum()) for axis in (0, 1)]
            assert sides[0] == sides[1]
            assert int(other.sum()) == sides[0] * sides[1]  # one square, wherever it lies
        else:
            assert len(found) == 1
            assert min(row, partner) < float(found) < max(row, partner)
    assert crops[:, 0, 0, 0].tolist() == list(range(8))


def test_a_chance_of_zero_blends_nothing() -> None:
    crops = torch.randn(4, 3, 8, 8)
    assert torch.equal(Blends(chance=0.0).draw(4, 8).applied(crops), crops)


def test_pooling_is_the_mean_at_power_one_and_nearly_the_largest_at_a_high_one() -> None:
    x = 0.5 + torch.rand(3, 5, 4) / 2
    assert_close(GemPool(1.0)(x), x.mean(1))
    assert_close(GemPool(100.0)(x), x.amax(1), rtol=0.02, atol=0)
    assert_close(GemPool(3.0)(x), (x.double() ** 3).mean(1).pow(1 / 3).float())
    assert_close(GemPool(3.0)(-x), torch.full((3, 4), 1e-6), rtol=1e-3, atol=0)


def test_a_learned_power_has_a_gradient_and_a_fixed_one_none() -> None:
    learned, fixed = GemPool(learned=True), GemPool()
    learned(torch.rand(2, 3, 4)).sum().backward()
    assert learned.power.grad is not None
    assert float(learned.power.grad.abs()) > 0
    assert not list(fixed.parameters())
    assert "power" in fixed.state_dict()


def test_descriptors_have_unit_length_in_half_precision_too() -> None:
    head = DescriptorHead(16, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(torch.rand(4, 9, 16) * 1e-3)
    assert found.dtype == torch.float32
    assert_close(found.norm(dim=-1), torch.ones(4))


@pytest.fixture
def copies_run(tiny_run: Callable[..., TrainConfig]) -> Callable[..., TrainConfig]:
    """Runs of SSCD that take a moment."""

    def configure(*overrides: str) -> TrainConfig:
        return tiny_run(
            "model={kind: resnet, size: tiny, image_size: 32}",
            "method={kind: sscd, descriptor_dim: 16, entropy_weight: 1.0}",
            "augment={kind: copies, global_pixels: 32}",
            *overrides,
        )

    return configure


def test_a_run_ends_in_a_file_that_describes_as_its_network_does(
    copies_run: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(copies_run("method.gem_power=2.5"), ALONE)
    assert trainer.run()
    teacher, images = str(tmp_path / "run" / "teacher.safetensors"), torch.randn(3, 3, 32, 32)
    assert main([teacher, str(tmp_path / "whole.safetensors")]) == 0
    sha256 = write_descriptor(teacher, str(tmp_path / "half.safetensors"), half=True)
    networks = trainer.networks.eval()
    with torch.no_grad():
        expected = networks.student["descriptor_head"](networks.student["backbone"].tokens(images).patches)
        whole = load_descriptor(str(tmp_path / "whole.safetensors")).network(images)
        half = load_descriptor(str(tmp_path / "half.safetensors"), sha256).network(images)
    assert_close(whole, expected)
    assert F.cosine_similarity(half, expected).min() > 0.999
    assert '"kind": "ssl_descriptor"' in capsys.readouterr().out
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_four_steps_equal_two_plus_stop_plus_resume_two_bit_for_bit(
    copies_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    settings = ("method.blends.chance=0.5", "checkpoint.every_steps=100")
    whole = Trainer(copies_run(*settings, f"output_dir={tmp_path / 'whole'}"), ALONE)
    assert whole.run()
    stopped = Trainer(copies_run(*settings), ALONE)
    stopped.stop.set()
    assert not stopped.run()
    resumed = Trainer(copies_run(*settings), ALONE)
    assert resumed.run()
    assert_close(resumed.networks.state_dict(), whole.networks.state_dict(), rtol=0, atol=0)
    assert int(resumed.networks.state_dict()["student.backbone.bn1.num_batches_tracked"]) == 4


def test_an_export_without_descriptor_layers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, teacher = Resnet(size="tiny"), tmp_path / "teacher.safetensors"
    save_file(model.build().state_dict(), teacher, metadata=describe(model))
    save_file({"dino_head.mlp.0.weight": torch.zeros(2, 2)}, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match="no descriptor_head among its tensors"):
        write_descriptor(str(teacher), str(tmp_path / "none.safetensors"))
    assert main([str(teacher), str(tmp_path / "none.safetensors")]) == 2
    assert "no descriptor_head" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no descriptor_head among its tensors"):
        load_descriptor(str(teacher))


def test_a_process_with_one_image_is_refused(copies_run: Callable[..., TrainConfig]) -> None:
    with pytest.raises(ConfigError, match="sscd needs 2 or more"):
        check_config(copies_run("data.batch_images=2"), 2)


def test_copies_come_together_and_other_images_apart() -> None:
    """Twenty steps on eight images, each seen under noise: the loss falls, and copies end nearer than strangers."""
    networks = Sscd(descriptor_dim=16, entropy_weight=1.0).build(Resnet(size="tiny"), num_steps=20)
    optimizer = torch.optim.AdamW(networks.student.parameters(), lr=2e-3)
    images = torch.randn(8, 3, 32, 32)
    first = last = None
    for step in range(20):
        batch = copies_of_processes.batch_of(torch.cat([images, images]) + 0.5 * torch.randn(16, 3, 32, 32))
        last = networks.loss(batch, step)
        first = first or last
        last.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first is not None
    assert last is not None
    assert float(last.total.detach()) < float(first.total.detach()) - 1
    assert last.monitors["positive_similarity"] > last.monitors["nearest_similarity"] + 0.2


def test_what_is_mixed_depends_on_the_random_state_alone() -> None:
    def drawn() -> Blended:
        torch.manual_seed(5)
        return Blends(chance=0.5).draw(6, 8)

    for one, other in zip(drawn()[1:], drawn()[1:], strict=True):
        assert torch.equal(one, other)
