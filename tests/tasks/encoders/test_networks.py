"""Encoders with weights: the checksum decides, pictures are prepared as published, vectors do not know the batch."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_train.models import Vit, infer_vit
from storage.errors import ChecksumMismatch
from tasks.encoders import Encoder, EncoderUnavailable, Sscd, TorchScript, VitEncoder, built
from tasks.encoders.network import IMAGENET_MEAN, IMAGENET_STD
from tests.tasks.encoders.pictures import scenes

REFERENCE = Path(__file__).parents[2] / "reference"


class SmallDescriptor(nn.Module):
    """As SSCD is built: a trunk, generalised-mean pooling of power 3, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 7, stride=4)
        self.project = nn.Linear(8, 6)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.trunk(images).clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        return nn.functional.normalize(self.project(pooled))


class Shape(nn.Module):
    """Gives the height and width of what it is given."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[float(images.shape[2]), float(images.shape[3])]]).repeat(images.shape[0], 1)


class FeatureMap(nn.Module):
    """No descriptor."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def scripted(path: Path, module: nn.Module) -> dict[str, str]:
    """The module as a published file: what a config needs to name it."""
    torch.manual_seed(0)
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module.eval(), torch.zeros(1, 3, 64, 64), check_trace=False), str(path))
    return {"weights": str(path), "sha256": checksum(path)}


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")


def test_sscd_gives_what_the_published_preparation_and_the_module_give(tmp_path: Path) -> None:
    module = SmallDescriptor().eval()
    encoder = Sscd(**scripted(tmp_path / "sscd.pt", module)).build()
    picture = scenes()[0]
    resized = np.asarray(Image.fromarray(picture).resize((320, 320), Image.Resampling.BILINEAR), dtype=np.float32)
    normal = (torch.from_numpy(resized).permute(2, 0, 1) / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / (
        torch.tensor(IMAGENET_STD)[:, None, None]
    )
    with torch.no_grad():
        expected = module(normal[None])[0].numpy()
    assert encoder.dim == 6
    assert np.abs(encoder.encode([picture])[0] - expected).max() < 1e-5


def test_vectors_do_not_depend_on_the_batch_or_on_the_sizes_beside(tmp_path: Path) -> None:
    named = scripted(tmp_path / "sscd.pt", SmallDescriptor())
    encoder = Sscd(**named, resize="short_side_288", batch_images=2).build()
    pictures = [scenes()[0], scenes()[1][:, :150], scenes()[2], scenes()[3], scenes()[4][:100]]
    together = encoder.encode(pictures)
    alone = np.concatenate([encoder.encode([picture]) for picture in pictures])
    assert np.abs(together - alone).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert encoder.encode([]).shape == (0, 6)


@pytest.mark.parametrize(
    ("fit", "height", "width"), [("square", 56, 56), ("short_side", 56, 75), ("centre_crop", 56, 56)]
)
def test_pictures_are_fitted_as_the_config_says(tmp_path: Path, fit: str, height: int, width: int) -> None:
    config = {"kind": "torchscript", **scripted_shape(tmp_path), "side": 56, "fit": fit}
    encoder = TorchScript.model_validate(config).build()
    (ratio,) = encoder.encode([scenes()[0]])  # unit length: only the ratio is left
    assert ratio[0] / ratio[1] == pytest.approx(height / width, abs=1e-4)


def scripted_shape(folder: Path) -> dict[str, str]:
    path = folder / "shape.pt"
    torch.jit.save(torch.jit.script(Shape()), str(path))
    return {"weights": str(path), "sha256": checksum(path)}


def test_a_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    named = scripted(tmp_path / "sscd.pt", SmallDescriptor())
    with pytest.raises(ChecksumMismatch, match=r"sscd\.pt has SHA-256 .* expected 0000"):
        Sscd(weights=named["weights"], sha256="0" * 64).build()


def test_a_file_that_is_no_torchscript_or_no_descriptor_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a module")
    with pytest.raises(EncoderUnavailable, match="not a TorchScript file"):
        TorchScript(weights=str(tmp_path / "text.pt"), sha256=checksum(tmp_path / "text.pt")).build()
    with pytest.raises(EncoderUnavailable, match=r"an encoder gives \[1, dim\]"):
        TorchScript(**scripted(tmp_path / "map.pt", FeatureMap())).build()


def test_a_checksum_is_required() -> None:
    with pytest.raises(ValidationError, match="sha256"):
        TypeAdapter(Encoder).validate_python({"kind": "sscd", "weights": "https://example.test/sscd.pt"})


def checkpoint(path: Path) -> tuple[nn.Module, dict[str, str]]:
    """A tiny ViT of our own, saved under its tensors' names."""
    torch.manual_seed(0)
    network = Vit(size="tiny", patch_size=14, image_size=56).build().eval()
    save_file(network.state_dict(), path)
    return network, {"weights": str(path), "sha256": checksum(path)}


@pytest.mark.parametrize(("tokens", "times"), [("class", 1), ("class_and_mean_patch", 2)])
def test_a_vit_gives_its_class_token_and_if_asked_the_mean_of_its_patches(
    tmp_path: Path, tokens: str, times: int
) -> None:
    network, named = checkpoint(tmp_path / "vit.safetensors")
    encoder = VitEncoder.model_validate({"kind": "vit", **named, "side": 56, "tokens": tokens}).build()
    picture = scenes()[0][:64, :64]
    with torch.no_grad():
        normal = (torch.from_numpy(picture[4:60, 4:60] / np.float32(255)) - torch.tensor(IMAGENET_MEAN)) / (
            torch.tensor(IMAGENET_STD)
        )
        found = network.tokens(normal.permute(2, 0, 1)[None].float())  # type: ignore[operator]
    expected = torch.cat([found.cls, found.patches.mean(dim=1)][:times], dim=1)[0].numpy()
    assert encoder.dim == len(expected)
    assert np.abs(encoder.encode([picture])[0] - expected / np.linalg.norm(expected)).max() < 1e-4


def test_a_side_that_is_no_multiple_of_the_patch_is_refused_with_one_that_is(tmp_path: Path) -> None:
    _, named = checkpoint(tmp_path / "vit.safetensors")
    with pytest.raises(EncoderUnavailable, match="Take 224"):
        VitEncoder(**named, side=230).build()


@pytest.mark.parametrize("prefix", ["", "teacher.backbone.", "module.backbone."])
def test_a_published_pth_file_is_read_as_tensors_under_any_of_its_names(tmp_path: Path, prefix: str) -> None:
    network, named = checkpoint(tmp_path / "vit.safetensors")
    path = tmp_path / "published.pth"
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"teacher": state} if prefix else state, path)
    published = VitEncoder(weights=str(path), sha256=checksum(path), side=56).build()
    ours = VitEncoder(**named, side=56).build()
    assert np.array_equal(published.encode(scenes()[:3]), ours.encode(scenes()[:3]))


class Calls:
    """Unpickling one would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("/tmp/touched-by-a-checkpoint"),)


def test_a_pth_file_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    torch.save({"model": Calls()}, path)
    with pytest.raises(EncoderUnavailable, match="cannot be read as a plain file of tensors"):
        VitEncoder(weights=str(path), sha256=checksum(path)).build()
    assert not Path("/tmp/touched-by-a-checkpoint").exists()


def published_vits() -> list[tuple[str, dict[str, list[int]], tuple[str, int]]]:
    """(name, shapes of its tensors, (size, patch) that its name says) of every published ViT, and of a ViT-H/16."""
    sizes = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant", "deitsmall": "small", "vitbase": "base"}
    found = []
    for family in ("dinov2", "dino_v1"):
        for name, shapes in json.loads((REFERENCE / f"{family}_state_dict_shapes.json").read_text()).items():
            said = re.match(r"[a-z0-9]+_([a-z]+)(\d+)", name)
            if said and said[1] in sizes:
                found.append((name, shapes, (sizes[said[1]], int(said[2]))))
    with torch.device("meta"):
        huge = Vit(size="huge", patch_size=16, image_size=224, layer_scale=None, mask_token=False).build()
    return [*found, ("vith16", {key: list(one.shape) for key, one in huge.state_dict().items()}, ("huge", 16))]


def test_every_published_vit_is_recognised_by_its_tensors() -> None:
    vits = published_vits()
    assert len(vits) == 8 + 4 + 1
    for name, shapes, (size, patch) in vits:
        model = infer_vit({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})
        assert (model.size, model.patch_size) == (size, patch), name
        assert model.num_registers == (4 if name.endswith("reg4") else 0), name


def test_an_images_bits_do_not_depend_on_the_images_beside_it(tmp_path: Path) -> None:
    _, named = checkpoint(tmp_path / "vit.safetensors")
    encoders = [
        Sscd(**scripted(tmp_path / "sscd.pt", SmallDescriptor()), batch_images=8).build(),
        VitEncoder(**named, side=56, batch_images=8).build(),
    ]
    for encoder in encoders:
        together = encoder.encode(scenes()[:19])
        for row in (0, 3, 7, 8, 18):
            assert np.array_equal(encoder.encode([scenes()[row]])[0], together[row])
        assert np.array_equal(encoder.encode(scenes()[5:11]), together[5:11])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_moves_vectors_little(tmp_path: Path, precision: str) -> None:
    _, named = checkpoint(tmp_path / "vit.safetensors")
    whole = VitEncoder(**named, side=56).build().encode(scenes()[:6])
    config = {"kind": "vit", **named, "side": 56, "precision": precision}
    half = VitEncoder.model_validate(config).build().encode(scenes()[:6])
    assert 0 < np.abs(half - whole).max() < 0.02
    assert (half * whole).sum(axis=1).min() > 0.999


def test_a_network_is_compiled_once_whatever_is_left_for_the_last_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, **plain: original(net, **plain, backend=backend))
    _, named = checkpoint(tmp_path / "vit.safetensors")
    plain, faster = (VitEncoder(**named, side=56, batch_images=4, compiled=one).build() for one in (False, True))
    assert np.array_equal(faster.encode(scenes()[:6]), plain.encode(scenes()[:6]))
    faster.encode(scenes()[:1])
    assert len(compiled) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
def test_a_worker_without_the_gpu_that_is_asked_for_says_so_and_building_needs_none(tmp_path: Path) -> None:
    config = Sscd(**scripted(tmp_path / "sscd.pt", SmallDescriptor()), device="cuda")
    encoder = config.build()  # the flow's process checks the weights, and has no GPU
    with pytest.raises(EncoderUnavailable, match="this worker sees no GPU"):
        encoder.encode(scenes()[:1])
    assert Sscd(**scripted(tmp_path / "sscd.pt", SmallDescriptor()), device="auto").build().encode(scenes()[:1]).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_in_half_precision_vectors_are_those_of_the_cpu(tmp_path: Path) -> None:
    _, named = checkpoint(tmp_path / "vit.safetensors")
    on_gpu, on_cpu = (VitEncoder(**named, side=56, device=device).build() for device in ("cuda", "cpu"))
    assert (on_gpu.encode(scenes()[:6]) * on_cpu.encode(scenes()[:6])).sum(axis=1).min() > 0.999


def test_an_encoder_is_built_once_in_a_process(tmp_path: Path) -> None:
    named = scripted(tmp_path / "sscd.pt", SmallDescriptor())
    assert built(Sscd(**named)) is built(Sscd(**named))
    assert built(Sscd(**named)) is not built(Sscd(**named, resize="short_side_288"))


def test_what_only_changes_speed_is_not_in_the_fingerprint_and_the_checksum_is() -> None:
    named = {"weights": "w.pth", "sha256": "a" * 64}
    said = VitEncoder(**named).deciding()
    assert VitEncoder(**named | {"weights": "s3://elsewhere/w.pth"}, compiled=True, device="cuda").deciding() == said
    assert VitEncoder(**named, batch_images=2, num_threads=9).deciding() == said
    assert VitEncoder(**named, precision="bfloat16").deciding() != said
    assert VitEncoder(**named | {"sha256": "b" * 64}).deciding() != said


def test_encoding_leaves_the_processs_threads_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    Sscd(**scripted(tmp_path / "sscd.pt", SmallDescriptor()), num_threads=before + 1).build().encode(scenes()[:2])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["pixels", "textures", "sscd", "vit", "torchscript", "onnx"])
def test_every_kind_is_chosen_by_its_tag(kind: str) -> None:
    needed = {} if kind in ("pixels", "textures") else {"weights": "w.pt", "sha256": "a" * 64}
    plug = TypeAdapter(Encoder).validate_python({"kind": kind, **needed})
    assert plug.kind == kind
