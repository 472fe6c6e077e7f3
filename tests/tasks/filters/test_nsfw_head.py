"""The second opinion: its scores are those of its two networks, a picture's depends on that picture alone."""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from examples.sample_web.concepts import CONCEPTS, render_scene
from storage.images import Pixels, resize
from tasks.filters import FilterUnavailable, Picture
from tasks.filters.nsfw_head import NsfwHead
from tasks.image_filter import ImageFilter

WEIGHTS = np.array([[1.5], [-2.0], [0.5]], np.float32)


def _saved(path: Path, nodes: list[Any], shapes: tuple[list[Any], list[Any]], weights: list[Any]) -> tuple[str, str]:
    one, other = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("in", "out"), shapes, strict=True)
    )
    graph = helper.make_graph(nodes, "g", [one], [other], initializer=weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def config(tmp_path: Path) -> NsfwHead:
    """The embedding is the mean of each channel; the score a sigmoid of a weighted sum of it."""
    mean = [helper.make_node("GlobalAveragePool", ["in"], ["pooled"]), helper.make_node("Flatten", ["pooled"], ["out"])]
    encoder = _saved(tmp_path / "encoder.onnx", mean, (["b", 3, 32, 32], ["b", 3]), [])
    score = [helper.make_node("MatMul", ["in", "w"], ["sum"]), helper.make_node("Sigmoid", ["sum"], ["out"])]
    head = _saved(tmp_path / "head.onnx", score, (["b", 3], ["b", 1]), [numpy_helper.from_array(WEIGHTS, "w")])
    return NsfwHead(encoder=encoder[0], encoder_sha256=encoder[1], head=head[0], head_sha256=head[1], side=32)


def _pictures() -> list[Picture]:
    sizes = ((48, 80), (96, 40), (32, 32), (200, 150))
    scenes: list[Pixels] = [render_scene(CONCEPTS[n], n, size) for n, size in enumerate(sizes)]
    return [Picture(scene, scene.shape[1], scene.shape[0]) for scene in scenes]


def slow_score(pixels: Pixels, config: NsfwHead) -> float:
    """The definition, a pixel at a time."""
    height, width = pixels.shape[:2]
    scale = config.side / min(height, width)
    small = resize(pixels, height=round(height * scale), width=round(width * scale))
    top, left = (small.shape[0] - config.side) // 2, (small.shape[1] - config.side) // 2
    total = np.zeros(3)
    for row in range(config.side):
        for column in range(config.side):
            total += (small[top + row, left + column] / 255 - np.array(config.mean)) / np.array(config.std)
    embedding = total / config.side**2
    embedding /= np.linalg.norm(embedding)
    return float(1 / (1 + np.exp(-(embedding @ WEIGHTS[:, 0]))))


def test_scores_are_those_of_the_two_networks(config: NsfwHead) -> None:
    pictures = _pictures()
    findings = config.build().examine(pictures)
    for picture, finding in zip(pictures, findings, strict=True):
        expected = slow_score(picture.pixels, config)
        assert finding.columns["nsfw_score"] == pytest.approx(expected, abs=1e-4)
        assert finding.value == finding.columns["nsfw_score"]


def test_a_pictures_score_does_not_depend_on_its_batch(config: NsfwHead) -> None:
    pictures, built = _pictures(), config.build()
    alone = [built.examine([picture])[0].value for picture in pictures]
    assert [finding.value for finding in built.examine(pictures)] == pytest.approx(alone, abs=1e-6)
    assert built.examine([]) == []


def test_a_lower_threshold_never_drops_fewer_and_the_scores_stay(config: NsfwHead) -> None:
    dropped: list[set[int]] = []
    for threshold in (0.9, 0.6, 0.3, 0.01):
        findings = config.model_copy(update={"threshold": threshold}).build().examine(_pictures())
        dropped.append({number for number, finding in enumerate(findings) if finding.drop == "nsfw"})
    assert all(fewer <= more for fewer, more in pairwise(dropped))
    assert len(dropped[-1]) == 4


def test_another_file_than_the_checksum_says_is_refused(config: NsfwHead) -> None:
    with pytest.raises(FilterUnavailable, match="SHA-256"):
        config.model_copy(update={"head_sha256": "0" * 64}).build()
    with pytest.raises(FilterUnavailable, match=r"nowhere\.onnx"):
        config.model_copy(update={"head": "/nowhere.onnx"}).build()


def test_it_stands_in_a_stages_config_beside_the_others(config: NsfwHead) -> None:
    stage = ImageFilter(filters=(config,))
    assert ImageFilter.model_validate_json(stage.model_dump_json()) == stage
    assert "encoder" not in config.deciding()
    assert config.deciding()["encoder_sha256"] == config.encoder_sha256
