"""Our own descriptor and our own backbones as the pipeline's encoders: the file's network, on the whole picture."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from ssl_train.descriptor import write_descriptor
from ssl_train.models.descriptor import load_descriptor
from ssl_train.models.gem import DescriptorHead
from ssl_train.models.load import describe, load_backbone
from ssl_train.models.model import Model
from ssl_train.models.resnet import Resnet
from ssl_train.models.vit import Vit
from storage.errors import ChecksumMismatch
from storage.images import resize
from tasks.encoders import Encoder, EncoderUnavailable, SslDescriptor, VitEncoder
from tasks.encoders.network import IMAGENET_MEAN, IMAGENET_STD
from tests.tasks.encoders.pictures import scenes

MODELS: tuple[Model, ...] = (
    Resnet(size="tiny", image_size=64, zero_last_gamma=False),
    Vit(size="tiny", patch_size=16, image_size=64, layer_scale=0.5),
)


def exported(folder: Path, model: Model) -> str:
    """A run's exports: its backbone, and its descriptor's layers beside it."""
    torch.manual_seed(0)
    network = model.build()
    save_file(network.state_dict(), folder / "teacher.safetensors", metadata=describe(model, step=5, seed=7))
    head = {f"descriptor_head.{name}": tensor for name, tensor in DescriptorHead(network.dim, 8).state_dict().items()}
    save_file(head, folder / "heads.safetensors", metadata=describe(model, step=5, seed=7))
    return str(folder / "teacher.safetensors")


def normalised(picture: Any) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std


@pytest.mark.parametrize("model", MODELS, ids=("resnet", "vit"))
@pytest.mark.parametrize("side", [None, 96])
def test_a_descriptor_of_any_backbone_describes_the_whole_picture(
    tmp_path: Path, model: Model, side: int | None
) -> None:
    file = str(tmp_path / "descriptor.safetensors")
    sha256 = write_descriptor(exported(tmp_path, model), file)
    config = {"kind": "ssl_descriptor", "weights": file, "sha256": sha256, "side": side}
    encoder = TypeAdapter(Encoder).validate_python(config).build()
    picture, pixels = scenes()[0], side or 64
    squeezed = resize(picture, height=pixels, width=pixels, method="bicubic")
    with torch.no_grad():
        expected = load_descriptor(file).network(normalised(squeezed)[None])[0].numpy()
    assert encoder.dim == 8
    assert np.abs(encoder.encode([picture])[0] - expected).max() < 1e-5
    assert np.allclose(np.linalg.norm(encoder.encode(scenes()[:3]), axis=1), 1, atol=1e-5)


def test_descriptor_files_are_the_same_bytes_for_the_same_weights(tmp_path: Path) -> None:
    teacher = exported(tmp_path, MODELS[0])
    sums = [write_descriptor(teacher, str(tmp_path / f"{number}.safetensors"), half=True) for number in range(2)]
    assert sums[0] == sums[1] == hashlib.sha256((tmp_path / "0.safetensors").read_bytes()).hexdigest()


def test_a_file_with_another_checksum_or_without_a_descriptor_is_refused(tmp_path: Path) -> None:
    teacher = exported(tmp_path, MODELS[0])
    write_descriptor(teacher, str(tmp_path / "descriptor.safetensors"))
    with pytest.raises(ChecksumMismatch):
        SslDescriptor(weights=str(tmp_path / "descriptor.safetensors"), sha256="0" * 64).build()
    plain = hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
    with pytest.raises(EncoderUnavailable, match=r"holds no descriptor.*python -m ssl_train\.descriptor"):
        SslDescriptor(weights=teacher, sha256=plain).build()


@pytest.mark.parametrize(("tokens", "times"), [("class", 1), ("class_and_mean_patch", 2)])
def test_a_resnet_is_an_embedder_by_its_file_alone(tmp_path: Path, tokens: str, times: int) -> None:
    teacher = exported(tmp_path, MODELS[0])
    named = {"weights": teacher, "sha256": hashlib.sha256(Path(teacher).read_bytes()).hexdigest()}
    encoder = VitEncoder.model_validate({"kind": "vit", **named, "side": 64, "tokens": tokens}).build()
    picture = scenes()[0][:73, :73]  # at 73 pixels, 64 of them are the middle: 73 = 64 * 256 / 224
    with torch.no_grad():
        pooled = load_backbone(teacher).tokens(normalised(picture[4:68, 4:68])[None]).cls[0].numpy()
    expected = np.concatenate([pooled] * times)
    assert np.abs(encoder.encode([picture])[0] - expected / np.linalg.norm(expected)).max() < 1e-5
    with pytest.raises(EncoderUnavailable, match=r"patches of 32 pixels. Take 64"):
        VitEncoder(**named, side=80).build()
