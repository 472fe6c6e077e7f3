"""Files as MoCo v3 publishes them: both encoders and the predictor of a model wrapped for several processes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ssl_train.methods.mocov3 import MocoV3
from ssl_train.models import Model, Vit, load_backbone
from ssl_train.models.load import infer_model, read_backbone
from ssl_train.models.projectors import MlpHead
from ssl_train.models.resnet import Resnet
from ssl_train.models.vit_published import as_mocov3

VIT = Vit(
    size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False, positions="sincos", init="mocov3"
)
CONV = Vit(**{**VIT.__dict__, "stem_kind": "conv"})
RESNET = Resnet(size="tiny", stem_kind="small")
METHOD = MocoV3(projector=MlpHead(16, 8), predictor=MlpHead(16, 8, num_layers=2))


def published(model: Model, head: str, *, encoders: tuple[str, ...]) -> dict[str, Tensor]:
    """A trained network's tensors under the published names; the two encoders differ."""
    networks = METHOD.build(model, num_steps=10)
    state: dict[str, Tensor] = {}
    for number, (encoder, modules) in enumerate(
        (("base_encoder", networks.student), ("momentum_encoder", networks.teacher))
    ):
        if encoder in encoders:
            for part, place in (("backbone", ""), ("projector_head", f"{head}.")):
                for name, tensor in modules[part].state_dict().items():
                    state[f"module.{encoder}.{place}{name}"] = tensor + number
    state |= {f"module.predictor.{k}": t for k, t in networks.student["predictor_head"].state_dict().items()}
    return state


@pytest.mark.parametrize(
    ("model", "head"), [(VIT, "head"), (CONV, "head"), (RESNET, "fc")], ids=["vit", "conv", "resnet"]
)
@pytest.mark.parametrize("both", [True, False])
def test_the_encoder_of_queries_is_loaded_by_name_and_that_of_keys_where_there_is_no_other(
    tmp_path: Path, model: Model, head: str, both: bool
) -> None:
    encoders = ("base_encoder", "momentum_encoder") if both else ("momentum_encoder",)
    state, path = published(model, head, encoders=encoders), tmp_path / "moco.pth.tar"
    torch.save({"epoch": 300, "arch": "vit", "state_dict": state, "optimizer": {"state": {}}}, path)
    loaded = read_backbone(str(path))
    assert loaded.model.kind == model.kind
    own = loaded.network.state_dict()
    assert len(own) > 20
    for name, tensor in own.items():
        assert_close(tensor, state[f"module.{encoders[0]}.{name}"], rtol=0, atol=0, check_dtype=False)
    images = torch.randn(2, 3, 32, 32)
    assert load_backbone(str(path)).tokens(images).cls.isfinite().all()


def test_the_architecture_is_read_off_the_names(tmp_path: Path) -> None:
    for model in (VIT, CONV):
        path = tmp_path / f"{model.stem_kind}.pth"
        torch.save({"state_dict": published(model, "head", encoders=("base_encoder",))}, path)
        assert read_backbone(str(path)).model == model


@pytest.mark.parametrize(
    ("model", "depth"),
    [
        (Vit(size="small12", patch_size=16, layer_scale=None, mask_token=False), 12),
        (Vit(size="base", patch_size=16, layer_scale=None, mask_token=False), 12),
        (Vit(size="small12", patch_size=16, layer_scale=None, mask_token=False, stem_kind="conv"), 11),
        (Vit(size="base", patch_size=16, layer_scale=None, mask_token=False, stem_kind="conv"), 11),
    ],
    ids=["vit_small", "vit_base", "vit_conv_small", "vit_conv_base"],
)
def test_the_published_sizes_have_twelve_heads_and_eleven_blocks_after_convolutions(model: Vit, depth: int) -> None:
    with torch.device("meta"):
        network = model.build()
        found = as_mocov3(infer_model(network.state_dict()))
    assert (found.size, found.stem_kind, found.patch_size, found.image_size) == (model.size, model.stem_kind, 16, 224)
    assert network.num_layers == depth
    assert network.blocks[0].attn.num_heads == 12
    assert (found.positions, found.init) == ("sincos", "mocov3")
