"""ONNX files as encoders: they give what their graph says, and what reaches beyond the file is refused unread."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.encoders import EncoderUnavailable, Onnx
from tasks.encoders.network import IMAGENET_MEAN, IMAGENET_STD
from tasks.encoders.onnx_file import NotSelfContained, check_self_contained
from tests.tasks.encoders.onnx_files import field, model, node, projection, tensor, value
from tests.tasks.encoders.pictures import scenes

WEIGHTS = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def saved(folder: Path, data: bytes) -> Onnx:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return Onnx(weights=str(path), sha256=hashlib.sha256(data).hexdigest(), side=32, batch_images=4)


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_an_onnx_file_gives_what_its_graph_says_whatever_batch_it_was_exported_for(
    tmp_path: Path, batch: int | str
) -> None:
    encoder = saved(tmp_path, projection(WEIGHTS, batch=batch)).build()
    pictures = [np.full((40, 50, 3), colour, dtype=np.uint8) for colour in ((255, 0, 9), (3, 77, 200), (8, 8, 8))]
    pictures += list(scenes()[:4])
    found = encoder.encode(pictures)
    for picture, vector in zip(pictures[:3], found, strict=False):
        expected = (picture[0, 0] / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD @ WEIGHTS
        assert np.abs(vector - expected / np.linalg.norm(expected)).max() < 1e-5
    assert encoder.dim == 5
    alone = np.concatenate([encoder.encode([picture]) for picture in pictures])
    assert np.array_equal(found, alone)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(EncoderUnavailable, match="weights in other files, which no checksum covers"):
        saved(tmp_path, projection(WEIGHTS, external=True)).build()


def test_external_weights_are_found_wherever_they_hide() -> None:
    hidden = tensor("inner", WEIGHTS, external=True)
    attribute = field(5, field(1, "value") + field(5, hidden) + field(20, 4))
    constant = field(2, "out") + field(4, "Constant") + attribute
    graph = field(1, constant) + field(2, "inner")
    branch = field(5, field(1, "then_branch") + field(6, graph) + field(20, 5))
    nested = field(1, "condition") + field(2, "out") + field(4, "If") + branch
    for nodes in ([constant], [nested]):
        data = model(nodes, [], value("pictures", [1, 3, 8, 8]), value("out", [1, 5]))
        with pytest.raises(NotSelfContained, match="weights in other files"):
            check_self_contained(data)


def test_operators_of_plug_ins_are_refused_and_those_that_the_file_defines_are_not(tmp_path: Path) -> None:
    plugged = projection(WEIGHTS, domain="com.example", domains=("", "com.example"))
    with pytest.raises(EncoderUnavailable, match=r"operators of 'com\.example', which come as a plug-in"):
        saved(tmp_path, plugged).build()
    body = node("MatMul", ["a", "b"], "c")
    names = field(1, "MatMul") + field(4, "a") + field(4, "b") + field(5, "c")
    function = names + field(7, body) + field(9, field(2, 13)) + field(10, "com.example")
    assert saved(tmp_path, plugged + field(25, function)).build().dim == 5


@pytest.mark.parametrize("data", [b"", b"not a model", b"PK\x03\x04 an archive", projection(WEIGHTS)[:-40]])
def test_what_is_no_whole_onnx_file_is_said_to_be_none(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(EncoderUnavailable, match=r"model\.onnx"):
        saved(tmp_path, data).build()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_can_make_the_check_fail_otherwise(data: bytes) -> None:
    try:
        check_self_contained(data)
    except NotSelfContained:
        return


def test_nesting_without_end_is_refused() -> None:
    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    with pytest.raises(NotSelfContained, match="nested more than"):
        check_self_contained(field(7, graph))


@pytest.mark.parametrize("shape", [["batch", 4, "side", "side"], ["batch", 3]])
def test_a_graph_that_takes_no_pictures_is_refused(tmp_path: Path, shape: list[int | str]) -> None:
    nodes = [node("Identity", ["pictures"], "out")]
    data = model(nodes, [], value("pictures", shape), value("out", shape))
    with pytest.raises(EncoderUnavailable, match=r"takes pictures tensor\(float\).*channels first"):
        saved(tmp_path, data).build()


def test_a_graph_that_gives_a_map_is_refused(tmp_path: Path) -> None:
    shape = ["batch", 3, "side", "side"]
    data = model([node("Identity", ["pictures"], "out")], [], value("pictures", shape), value("out", shape))
    with pytest.raises(EncoderUnavailable, match=r"an encoder gives \[1, dim\]"):
        saved(tmp_path, data).build()
