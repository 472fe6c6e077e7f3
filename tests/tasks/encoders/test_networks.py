"""Encoders with weights: the checksum decides, pictures are prepared as published, vectors do not know the batch."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_train.models import Vit
from storage.errors import ChecksumMismatch
from tasks.encoders import Encoder, EncoderUnavailable, Sscd, TorchScript, VitEncoder
from tasks.encoders.network import IMAGENET_MEAN, IMAGENET_STD
from tests.tasks.encoders.pictures import scenes


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


def test_encoding_leaves_the_processs_threads_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    Sscd(**scripted(tmp_path / "sscd.pt", SmallDescriptor()), num_threads=before + 1).build().encode(scenes()[:2])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("kind", ["pixels", "textures", "sscd", "vit", "torchscript"])
def test_every_kind_is_chosen_by_its_tag(kind: str) -> None:
    needed = {} if kind in ("pixels", "textures") else {"weights": "w.pt", "sha256": "a" * 64}
    plug = TypeAdapter(Encoder).validate_python({"kind": kind, **needed})
    assert plug.kind == kind
