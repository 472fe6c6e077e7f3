from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.checkpoint import export_teacher
from ssl_train.config import TrainConfig, load_recipe
from ssl_train.data.collate import Batch
from ssl_train.data.labelled import Labelled
from ssl_train.data.labels import ImageLabels
from ssl_train.distributed import World
from ssl_train.errors import ConfigError
from ssl_train.methods.supervised import Supervised, SupervisedNetworks
from ssl_train.models import Model, Vit
from ssl_train.models.class_head import ClassHead
from ssl_train.models.internimage import InternImage
from ssl_train.models.resnet import Resnet
from ssl_train.optim import Optim, build_optimizer
from ssl_train.start import Start, Weights, begin_with, put_backbone
from ssl_train.trainer import build_batches
from tests.ssl_train.test_internimage import classifier_of

ALONE = World(0, 1, torch.device("cpu"))
TINY = Vit(size="tiny", patch_size=8, image_size=32, mask_token=False, layer_scale=None)
HEAD = ClassHead(num_classes=5, init_std=0.5)
Configure = Callable[..., TrainConfig]


def batch_of(num_images: int = 6, *, mixed: bool = True, side: int = 32) -> Batch:
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 5, (num_images,), generator=random)
    shares = torch.tensor([1.0, 0.7, 0.25, 0.0, 0.5, 0.9])[:num_images]
    none = torch.empty(0, 3, 0, 0)
    return Batch(
        keys=tuple(map(str, range(num_images))),
        global_crops=torch.randn(num_images, 3, side, side, generator=random),
        local_crops=none,
        masks=torch.zeros(num_images, 16, dtype=torch.bool),
        masked=torch.empty(0, dtype=torch.long),
        mask_weights=torch.empty(0),
        labels=labels,
        mixed_labels=labels.flip(0) if mixed else None,
        label_shares=shares if mixed else None,
    )


def networks_of(config: Supervised, model: Model = TINY) -> SupervisedNetworks:
    torch.manual_seed(0)
    return config.build(model, num_steps=10)


def loop(logits: Tensor, batch: Batch, config: Supervised) -> Tensor:
    """The docstring's loop over images and classes."""
    assert batch.labels is not None
    losses = []
    for image, row in enumerate(logits):
        shares = [0.0] * len(row)
        if batch.mixed_labels is None or batch.label_shares is None:
            shares[batch.labels[image]] = 1.0
        else:
            shares[batch.labels[image]] += float(batch.label_shares[image])
            shares[batch.mixed_labels[image]] += float(1 - batch.label_shares[image])
        s, total = config.smoothing, torch.zeros(())
        for k, share in enumerate(shares):
            if config.loss == "cross_entropy":
                total = total - ((1 - s) * share + s / len(shares)) * (row[k] - row.logsumexp(0))
            else:
                t = (1 - s) * (share > 0) + s / len(shares)
                p = torch.sigmoid(row[k].double())
                total = total - (t * p.log() + (1 - t) * (1 - p).log()) / len(shares)
        losses.append(total)
    return torch.stack(losses).mean().float()


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("kind", ["cross_entropy", "binary"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_and_its_gradient_are_the_loops(kind: Any, mixed: bool, smoothing: float) -> None:
    config = Supervised(class_head=HEAD, loss=kind, smoothing=smoothing)
    networks, batch = networks_of(config), batch_of(mixed=mixed)
    losses = networks.loss(batch, 0)
    views = networks.student["backbone"]([batch.global_crops])[0]
    logits = networks.student["class_head"](views.cls, views.patches)
    expected = loop(logits, batch, config)
    assert_close(losses.total, expected)
    assert_close(losses.terms["classification"], expected.detach())
    weight = networks.student["class_head"].head.weight
    ours, slow = (torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (losses.total, expected))
    assert_close(ours, slow, rtol=1e-4, atol=1e-6)


def test_the_accuracy_while_training_counts_the_class_with_the_larger_share() -> None:
    networks, batch = networks_of(Supervised(class_head=HEAD)), batch_of()
    views = networks.student["backbone"]([batch.global_crops])[0]
    guesses = networks.student["class_head"](views.cls, views.patches).argmax(1).tolist()
    assert batch.labels is not None
    assert batch.mixed_labels is not None
    own = [True, True, False, False, True, True]
    right = [guess == int(batch.labels[i] if own[i] else batch.mixed_labels[i]) for i, guess in enumerate(guesses)]
    assert networks.loss(batch, 0).monitors["train_top1"] == pytest.approx(100 * sum(right) / 6)


@pytest.mark.parametrize(
    "model",
    [
        replace(TINY, mask_token=True, num_registers=2, interpolation="antialias"),
        Resnet(size="tiny", stem_kind="small", image_size=32),
        InternImage(size="nano", image_size=32),
    ],
    ids=lambda model: model.kind,
)
@pytest.mark.parametrize("head", [ClassHead(num_classes=5), ClassHead(num_classes=5, pool="mean", widen=1.5)])
def test_every_backbone_learns_by_it_in_all_of_its_weights(model: Model, head: ClassHead) -> None:
    networks = networks_of(Supervised(class_head=replace(head, init_std=0.1)), model)
    networks.loss(batch_of(), 0).total.backward()
    trained = {name: p for name, p in networks.student.named_parameters() if p.requires_grad}
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    assert without == []
    frozen = [name for name, p in networks.student.named_parameters() if not p.requires_grad]
    assert frozen == (["backbone.mask_token"] if model.mask_token else [])
    assert len(trained) == sum(
        len(group["params"]) for group in build_optimizer(networks.student, Optim()).param_groups
    )


def test_pools_are_the_class_token_the_mean_patch_and_both() -> None:
    cls, patches = torch.randn(3, 8), torch.randn(3, 6, 8)
    for pool, expected in (("cls", cls), ("mean", patches.mean(1)), ("cls_mean", torch.cat([cls, patches.mean(1)], 1))):
        head = ClassHead(num_classes=4, pool=pool).build(8)  # type: ignore[arg-type]
        assert_close(head(cls, patches), head.head(expected))


def test_a_head_begins_as_it_is_told_and_is_called_as_the_published_ones() -> None:
    head = ClassHead(num_classes=400, init_std=0.01).build(200)
    assert float(head.head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.head.bias.any()
    assert not ClassHead(num_classes=4, init_std=0.0).build(8).head.weight.any()
    names = set(ClassHead(num_classes=4, pool="mean", widen=1.5).build(8).state_dict())
    assert {"conv_head.0.weight", "conv_head.1.0.running_mean", "head.weight", "head.bias"} < names


def test_the_published_internimage_head_says_the_published_logits(vectors: Callable[[str], Any]) -> None:
    file = vectors("internimage_tiny_t_like")
    published = classifier_of(file.metadata)
    state = file.under("weights.")
    published.load_state_dict(state, strict=True)
    head = ClassHead(num_classes=published.head.out_features, pool="mean", widen=1.5).build(published.dim).eval()
    own = {name: tensor for name, tensor in state.items() if name.split(".")[0] in ("head", "conv_head")}
    head.load_state_dict(own, strict=True)
    with torch.no_grad():
        views = published.tokens(file["in.x"])
        assert_close(head(views.cls, views.patches), file["out.logits"], rtol=1e-4, atol=1e-5)


def test_the_average_follows_with_a_momentum_that_grows() -> None:
    networks = networks_of(Supervised(class_head=replace(HEAD, pool="mean", widen=1.0), average_momentum=0.5))
    assert networks.has_teacher
    expected = {name: tensor.clone() for name, tensor in networks.teacher.state_dict().items()}
    moved = networks.student["class_head"].conv_head[1][0]
    for step, momentum in enumerate([0.1, 2 / 11, 0.25, 4 / 13, 5 / 14, 0.4, 7 / 16, 8 / 17, 0.5, 0.5, 0.5]):
        with torch.no_grad():
            for parameter in networks.student.parameters():
                parameter.add_(torch.randn_like(parameter))
            moved.running_mean.add_(1.0)
        networks.after_step(step)
        assert networks.scheduled(step)["average_momentum"] == pytest.approx(momentum)
        for name, tensor in networks.student.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = momentum * expected[name] + (1 - momentum) * tensor
    state = networks.teacher.state_dict()
    for name, tensor in expected.items():
        if tensor.is_floating_point():
            assert_close(state[name], tensor, rtol=1e-4, atol=1e-5)
    assert not networks.teacher.training
    assert not any(module.training for module in networks.teacher.modules())


def test_without_an_average_the_network_itself_is_the_result() -> None:
    networks = networks_of(Supervised(class_head=HEAD, average_momentum=None))
    assert networks.teacher is networks.student
    before = [parameter.clone() for parameter in networks.parameters()]
    networks.after_step(0)
    assert networks.scheduled(0) == {}
    assert all(torch.equal(one, other) for one, other in zip(before, networks.parameters(), strict=True))


def test_lower_layers_of_a_fine_tuned_backbone_move_less() -> None:
    networks = networks_of(Supervised(class_head=HEAD))
    trained = networks_of(Supervised(class_head=HEAD), replace(TINY, image_size=48))
    put_backbone(networks.student["backbone"], trained.teacher_backbone, "there")
    assert_close(
        networks.student["backbone"].blocks[0].mlp.fc1.weight, trained.teacher_backbone.blocks[0].mlp.fc1.weight
    )  # type: ignore[union-attr, operator, index]
    optimizer = build_optimizer(networks.student, Optim(layer_decay=0.5, patch_embed_multiplier=1.0))
    lr = {id(p): group["lr_multiplier"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: lr[id(p)] for name, p in networks.student.named_parameters()}
    assert by_name["class_head.head.weight"] == by_name["backbone.norm.weight"] == 1
    assert [by_name[f"backbone.blocks.{i}.mlp.fc1.weight"] for i in range(4)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert by_name["backbone.pos_embed"] == 1 / 32


def test_a_second_phase_begins_with_backbone_and_head_of_the_first_at_another_size(tmp_path: Path) -> None:
    """DeiT III trains at 192 pixels and goes on at 224; the average begins where the network does."""
    first = networks_of(Supervised(class_head=HEAD))
    with torch.no_grad():
        first.teacher["class_head"].head.bias.fill_(0.3)  # type: ignore[union-attr]
    export_teacher(str(tmp_path / "teacher.safetensors"), first, model=TINY, step=1, seed=0, world=ALONE)
    files = {name: Weights(str(tmp_path / f"{name}.safetensors")) for name in ("teacher", "heads")}
    torch.manual_seed(9)
    second = Supervised(class_head=HEAD).build(replace(TINY, image_size=48), num_steps=10)
    begin_with((second.student, second.teacher), Start(backbone=files["teacher"], heads=files["heads"]))
    images = torch.randn(2, 3, 32, 32)
    for networks in (second.student, second.teacher):
        assert torch.equal(networks["class_head"].head.bias, torch.full((5,), 0.3))
        ours, theirs = (
            modules["backbone"].patch_embed.proj.weight  # type: ignore[union-attr]
            for modules in (networks, first.teacher)
        )
        assert torch.equal(ours, theirs)
    assert second.teacher["backbone"]([images])[0].patches.shape == (2, 16, 128)


def test_what_does_not_fit_is_said_before_the_first_step(tiny_run: Configure) -> None:
    networks = networks_of(Supervised(class_head=HEAD))
    plain = build_batches(tiny_run(), ALONE)
    labels = ImageLabels(np.zeros(len(plain.images), np.int32), ("a", "b"))
    with pytest.raises(ConfigError, match=r"set augment\.kind = labelled"):
        networks.prepare(plain)
    with pytest.raises(ConfigError, match=r"say where they stand with data\.labels"):
        networks.prepare(replace(plain, augment=Labelled()))
    with pytest.raises(ConfigError, match=r"have 2 classes and method\.class_head\.num_classes is 5: set it to 2"):
        networks.prepare(replace(plain, augment=Labelled(), labels=labels))
    networks.prepare(replace(plain, augment=Labelled(), labels=replace(labels, names=tuple("abcde"))))
    assert networks.told()["classes"] == list("abcde")
    with pytest.raises(ConfigError, match="no labels"):
        networks.loss(replace(batch_of(), labels=None), 0)
    (broken,) = (rule for rule, is_broken in Supervised(group_images=4).rules(6).items() if is_broken)
    assert broken.startswith("method.group_images = 4 must divide the 6 images of a process: ")
    assert any(Supervised(class_head=ClassHead(widen=1.5)).rules(6).values())


@pytest.mark.parametrize("head", [ClassHead(), ClassHead(pool="cls_mean"), ClassHead(pool="mean", widen=1.5)])
def test_the_heads_cost_is_that_of_its_products(head: ClassHead) -> None:
    net = head.build(8)
    products = sum(
        p.numel() * (10 if name.startswith("conv") else 1) for name, p in net.named_parameters() if p.ndim > 1
    )
    told = Supervised(class_head=head).head_flops(num_crops=1, num_patches=10, student_dim=8, teacher_dim=8)
    assert told == 3 * 2 * products


def test_the_recipes_have_the_published_numbers() -> None:
    small, base, large = (load_recipe(f"deit3_vit{size}16") for size in "sbl")
    for recipe, lr, drop, pixels in ((small, 4e-3, 0.05, 224), (base, 3e-3, 0.2, 192), (large, 3e-3, 0.45, 192)):
        assert (recipe.optim.kind, recipe.optim.peak_lr(2048), recipe.optim.weight_decay) == ("lamb", lr, 0.05)
        assert (recipe.model.drop_path, recipe.augment.global_pixels) == (drop, pixels)
        assert (recipe.num_steps * 2048 // 1_281_167, recipe.data.repeats) == (799, 3)  # 800 epochs of whole batches
        assert isinstance(recipe.method, Supervised)
        assert (recipe.method.loss, recipe.method.smoothing) == ("binary", 0)
    tiny, internimages = load_recipe("internimage_t_in1k"), [load_recipe(f"internimage_{size}_in1k") for size in "tsb"]
    assert [recipe.model.drop_path for recipe in internimages] == [0.1, 0.4, 0.5]
    assert tiny.optim.peak_lr(1024) == pytest.approx(5e-4 * 1024 / 512)
    assert (tiny.num_steps // 1251, tiny.optim.warmup_steps // 1251, tiny.optim.max_grad_norm) == (300, 20, 5)
    assert isinstance(tiny.method, Supervised)
    assert (tiny.method.average_momentum, tiny.method.class_head.widen) == (0.9999, 1.5)
    for recipe in internimages:
        assert replace(recipe, model=tiny.model) == tiny
