"""An exported backbone, run by those whose format it is in, says what it says here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModel

from ssl_train.export import hf_state_dict, main
from ssl_train.models import Vit, load_backbone
from ssl_train.models.load import describe
from ssl_train.models.vit import VisionTransformer

MODELS = {
    "mlp": Vit(size="tiny", patch_size=14, image_size=56),
    "registers": Vit(size="tiny", patch_size=14, image_size=56, num_registers=4, interpolation="antialias"),
    "swiglu": Vit(size="tiny", patch_size=14, image_size=56, ffn="swiglu"),
}


def written(model: Vit, folder: Path) -> tuple[str, VisionTransformer]:
    """A file of weights none of which is 0 or 1, and the network."""
    network = model.build().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    path = folder / "teacher.safetensors"
    path.write_bytes(safetensors.torch.save(network.state_dict(), metadata=describe(model)))
    return str(path), network


def own_tokens(network: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        tokens = network.tokens(images)
    return tokens.cls, tokens.registers, tokens.patches


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", MODELS)
def test_transformers_gives_the_same_tokens(name: str, tmp_path: Path) -> None:
    path, network = written(MODELS[name], tmp_path)
    assert main([path, "hf", str(tmp_path / "hf")]) == 0
    theirs, report = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        hidden = theirs.eval()(images).last_hidden_state
    assert_close(hidden, torch.cat([group.view(2, -1, 128) for group in _in_order(network, images)], 1), **CLOSE)


CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def _in_order(network: VisionTransformer, images: Tensor) -> list[Tensor]:
    cls, registers, patches = own_tokens(network, images)
    return [cls.unsqueeze(1), registers, patches]


@pytest.mark.parametrize("model", [MODELS["mlp"], replace(MODELS["registers"], ffn="swiglu")], ids=["least", "most"])
def test_onnx_gives_the_same_tokens_for_any_batch(model: Vit, tmp_path: Path) -> None:
    path, network = written(model, tmp_path)
    assert main([path, "onnx", str(tmp_path / "model.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        images = torch.randn(batch, 3, 56, 56)
        found: Any = session.run(["cls", "patches"], {"images": images.numpy()})
        cls, _, patches = own_tokens(network, images)
        np.testing.assert_allclose(found[0], cls.numpy(), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found[1], patches.numpy(), rtol=1e-3, atol=1e-3)


def test_the_published_form_loads_as_a_published_checkpoint_does(tmp_path: Path) -> None:
    path, network = written(MODELS["registers"], tmp_path)
    assert main([path, "published", str(tmp_path / "model.pth")]) == 0
    assert_close(load_backbone(str(tmp_path / "model.pth")).state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vitg14_reg4"])
def test_hf_names_cover_every_tensor_of_a_published_model(facts: Any, name: str) -> None:
    shapes = facts("dinov2_state_dict_shapes")
    if name not in shapes:
        pytest.fail(f"no {name} among {sorted(shapes)[:10]}")
    swiglu, registers = "vitg" in name, 4 if name.endswith("_reg4") else 0
    size = "giant" if swiglu else "small"
    with torch.device("meta"):
        model = Vit(size=size, image_size=518, ffn="swiglu" if swiglu else "mlp", num_registers=registers)
        network = model.build()
    renamed = hf_state_dict(network)
    assert len(renamed) == len(shapes[name]) + 4 * len(network.blocks)  # queries, keys and values stand apart
    assert sum(t.numel() for t in renamed.values()) == sum(int(np.prod(shape)) for shape in shapes[name].values())


def test_a_network_that_the_format_has_no_place_for_is_refused(tmp_path: Path, capsys: Any) -> None:
    path, _ = written(Vit(size="tiny", patch_size=8, image_size=32, layer_scale=None, mask_token=False), tmp_path)
    assert main([path, "hf", str(tmp_path / "hf")]) == 2
    assert "has not" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_config_says_what_the_network_is(tmp_path: Path) -> None:
    path, _ = written(MODELS["registers"], tmp_path)
    main([path, "hf", str(tmp_path / "hf")])
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["model_type"], config["num_register_tokens"]) == ("dinov2_with_registers", 4)
