"""One-off: the TensorFlow graph in the PyPI wheel retinaface==1.1.1 as an ONNX file, without TensorFlow.

    python -m venv /tmp/convert && /tmp/convert/bin/pip install onnx==1.23.2 numpy torch scikit-image
    pip download --no-deps retinaface==1.1.1 -d /tmp/convert
    /tmp/convert/bin/python tools/convert_retinaface.py /tmp/convert/retinaface-1.1.1-py3-none-any.whl \
        tasks/filters/weights/retinaface_mobilenet_v2.onnx tests/tasks/filters/retinaface_reference.npz

What is kept is the network: MobileNetV2 to stride 32, a feature pyramid, one context module and two heads a level
(Deng et al. 2019, RetinaFace, section 3). Its batch norms are folded into the convolutions; weights are stored as
float16 and cast to float32 when a session is made. Anchors, box decoding and non-maximum suppression are ours
(tasks/filters). The second output file holds what the original graph, run operation by operation in float32, says
about a photograph: the test compares the ONNX file with that.
"""

from __future__ import annotations

import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skimage.data import astronaut

Array = NDArray[np.float32]
HEADS = {"boxes": ("BboxHead_{}/conv2d{}/BiasAdd", 0, 4), "logits": ("ClassHead_{}/conv2d{}/BiasAdd", 6, 2)}
LEVELS = 3


def wire_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one protobuf message: ints for varints, bytes for everything else."""
    at = 0
    value: Any
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                value, at = _varint(message, at)
            case 1:
                value, at = message[at : at + 8], at + 8
            case 2:
                size, at = _varint(message, at)
                value, at = message[at : at + size], at + size
            case 5:
                value, at = message[at : at + 4], at + 4
            case kind:
                raise ValueError(f"wire type {kind} at byte {at}")
        yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at


@dataclass
class Node:
    """A NodeDef of tensorflow/core/framework/node_def.proto."""

    name: str = ""
    op: str = ""
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, bytes] = field(default_factory=dict)

    def number(self, name: str) -> float:
        return float(struct.unpack("<f", dict(wire_fields(self.attributes[name]))[4])[0])

    def text(self, name: str) -> str:
        return str(dict(wire_fields(self.attributes[name]))[2].decode())

    def stride(self) -> int:
        listed = dict(wire_fields(dict(wire_fields(self.attributes["strides"]))[1]))[3]
        return int(listed[1])  # packed varints, NHWC: [1, stride, stride, 1]

    def constant(self) -> NDArray[Any]:
        """The `value` of a Const: TensorProto fields 1 dtype, 2 shape, 4 content, 5 floats, 7 ints."""
        parts = list(wire_fields(dict(wire_fields(self.attributes["value"]))[8]))
        dtype = {1: "<f4", 3: "<i4"}[next(value for key, value in parts if key == 1)]
        shape = [dict(wire_fields(dim)).get(1, 0) for key, value in parts if key == 2 for _, dim in wire_fields(value)]
        content = next((value for key, value in parts if key == 4), b"")
        if content:
            return np.frombuffer(content, dtype).reshape(shape)
        if dtype == "<f4":
            return np.frombuffer(b"".join(value for key, value in parts if key == 5), dtype).reshape(shape)
        listed = [value for key, value in parts if key == 7]
        return np.array(_varint(listed[0], 0)[0] if isinstance(listed[0], bytes) else listed, dtype).reshape(shape)


def read_graph(wheel: str) -> dict[str, Node]:
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read("retinaface/src/frozen_graph.pb")
    nodes = (_node(value) for key, value in wire_fields(content) if key == 1)
    return {node.name: node for node in nodes}


def _node(message: bytes) -> Node:
    node = Node()
    for key, value in wire_fields(message):
        match key:
            case 1:
                node.name = value.decode()
            case 2:
                node.op = value.decode()
            case 3:
                node.inputs.append(value.decode().split(":")[0])
            case 5:
                entry = dict(wire_fields(value))
                node.attributes[entry[1].decode()] = entry[2]
    return node


class Graph:
    """The frozen graph, with Identity nodes looked through."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def node(self, name: str) -> Node:
        node = self.nodes[name]
        return self.node(node.inputs[0]) if node.op == "Identity" else node

    def constants(self, node: Node, first: int = 1) -> list[NDArray[Any]]:
        return [self.node(name).constant() for name in node.inputs[first:] if self.node(name).op == "Const"]

    def head(self, kind: str, level: int) -> Node:
        pattern, first, _ = HEADS[kind]
        number = first + level
        return self.nodes["RetinaFaceModel/" + pattern.format(level, f"_{number}" if number else "")]


class Reference:
    """The graph as TensorFlow would run it, one operation at a time in float32. Tensors are NCHW here."""

    def __init__(self, graph: Graph, pixels: Array) -> None:
        self.graph = graph
        self.values = {"x": torch.from_numpy(pixels).permute(2, 0, 1)[None]}

    def value(self, name: str) -> torch.Tensor:
        node = self.graph.node(name)
        if node.name not in self.values:
            self.values[node.name] = self._run(node)
        return self.values[node.name]

    def _run(self, node: Node) -> torch.Tensor:
        constants = [torch.from_numpy(np.array(array)) for array in self.graph.constants(node)]
        if node.op == "ConcatV2":
            return torch.cat([self.value(name) for name in node.inputs[:-1]], dim=1)
        x = self.value(node.inputs[0])
        simple: dict[str, Callable[[], torch.Tensor]] = {
            "RealDiv": lambda: x / constants[0],
            "Sub": lambda: x - constants[0],
            "Relu": lambda: F.relu(x),
            "Relu6": lambda: F.relu6(x),
            "LeakyRelu": lambda: F.leaky_relu(x, node.number("alpha")),
            "BiasAdd": lambda: x + constants[0][:, None, None],
            "AddV2": lambda: x + self.value(node.inputs[1]),
            "Pad": lambda: F.pad(x, tuple(constants[0].flip(0).flatten().tolist()[2:6])),
            "ResizeNearestNeighbor": lambda: F.interpolate(x, scale_factor=2, mode="nearest"),
            "Conv2D": lambda: self._convolve(node, x, constants[0].permute(3, 2, 0, 1), 1),
            "DepthwiseConv2dNative": lambda: self._convolve(node, x, constants[0].permute(2, 3, 0, 1), x.shape[1]),
            "FusedBatchNormV3": lambda: F.batch_norm(
                x, constants[2], constants[3], constants[0], constants[1], eps=node.number("epsilon")
            ),
        }
        return simple[node.op]()

    @staticmethod
    def _convolve(node: Node, x: torch.Tensor, kernel: torch.Tensor, groups: int) -> torch.Tensor:
        stride = node.stride()
        if stride == 2 and node.text("padding") == "SAME" and kernel.shape[-1] > 1:
            raise ValueError(f"{node.name}: a strided SAME convolution pads asymmetrically; this graph had none")
        same = node.text("padding") == "SAME"
        return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2 if same else 0, groups=groups)

    def heads(self) -> tuple[Array, Array]:
        """boxes [anchors, 4] (offsets from the anchors), scores [anchors] (softmax, the face's)."""
        rows = {kind: [] for kind in HEADS}  # type: dict[str, list[torch.Tensor]]
        for kind, (_, _, size) in HEADS.items():
            for level in range(LEVELS):
                rows[kind].append(self.value(self.graph.head(kind, level).name)[0].permute(1, 2, 0).reshape(-1, size))
        scores = torch.cat(rows["logits"]).softmax(-1)[:, 1]
        return torch.cat(rows["boxes"]).numpy(), scores.numpy()


class Converter:
    """Walks the graph back from its heads and writes ONNX nodes, each batch norm folded into its convolution."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.onnx_nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names: dict[str, str] = {"x": "pixels"}

    def emit(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = f"{op.lower()}_{len(self.onnx_nodes)}"
        self.onnx_nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def store(self, array: NDArray[Any]) -> str:
        """A stored array; large ones as float16 behind a cast, which onnxruntime folds away when it loads."""
        name = f"weight_{len(self.initializers)}"
        half = array.dtype == np.float32 and array.size > 1024
        self.initializers.append(numpy_helper.from_array(array.astype(np.float16) if half else array, name))
        return self.emit("Cast", [name], to=TensorProto.FLOAT) if half else name

    def tensor(self, name: str) -> str:
        node = self.graph.node(name)
        if node.name not in self.names:
            self.names[node.name] = self._convert(node)
        return self.names[node.name]

    def _convert(self, node: Node) -> str:
        match node.op:
            case "FusedBatchNormV3" | "BiasAdd":
                return self._convolution(node)
            case "Relu":
                return self.emit("Relu", [self.tensor(node.inputs[0])])
            case "Relu6":
                limits = [self.store(np.array(0, np.float32)), self.store(np.array(6, np.float32))]
                return self.emit("Clip", [self.tensor(node.inputs[0]), *limits])
            case "LeakyRelu":
                return self.emit("LeakyRelu", [self.tensor(node.inputs[0])], alpha=node.number("alpha"))
            case "AddV2":
                return self.emit("Add", [self.tensor(name) for name in node.inputs])
            case "ConcatV2":
                return self.emit("Concat", [self.tensor(name) for name in node.inputs[:-1]], axis=1)
            case "ResizeNearestNeighbor":
                scales = self.store(np.array([1, 1, 2, 2], np.float32))
                options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                return self.emit("Resize", [self.tensor(node.inputs[0]), "", scales], **options)
            case "RealDiv" | "Sub":
                op = {"RealDiv": "Div", "Sub": "Sub"}[node.op]
                return self.emit(op, [self.tensor(node.inputs[0]), self.store(self.graph.constants(node)[0])])
            case op:
                raise ValueError(f"{node.name}: no rule for {op}")

    def _convolution(self, last: Node) -> str:
        """Pad + convolution + (batch norm or bias) as one Conv."""
        convolution = self.graph.node(last.inputs[0])
        source, kernel = self.graph.node(convolution.inputs[0]), self.graph.constants(convolution)[0]
        depthwise = convolution.op == "DepthwiseConv2dNative"
        weight = kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)).astype(np.float64)
        if last.op == "BiasAdd":
            bias = self.graph.constants(last)[0].astype(np.float64)
        else:
            gamma, beta, mean, variance = (array.astype(np.float64) for array in self.graph.constants(last))
            scale = gamma / np.sqrt(variance + last.number("epsilon"))
            weight, bias = weight * scale[:, None, None, None], beta - mean * scale
        pads = [weight.shape[-1] // 2 if convolution.text("padding") == "SAME" else 0] * 4
        if source.op == "Pad":
            ((_, _), (top, bottom), (left, right), (_, _)) = self.graph.constants(source)[0].tolist()
            pads, source = [top, left, bottom, right], self.graph.node(source.inputs[0])
        stride = convolution.stride()
        inputs = [self.tensor(source.name), self.store(weight.astype(np.float32)), self.store(bias.astype(np.float32))]
        groups = weight.shape[0] if depthwise else 1
        return self.emit("Conv", inputs, pads=pads, strides=[stride, stride], group=groups)

    def model(self) -> onnx.ModelProto:
        """pixels [batch, 3, height, width] RGB 0..255, sides multiples of 32 -> boxes [batch, anchors, 4], scores."""
        outputs = {}
        for kind, (_, _, size) in HEADS.items():
            shape = self.store(np.array([0, -1, size], np.int64))
            rows = [self.tensor(self.graph.head(kind, level).name) for level in range(LEVELS)]
            rows = [self.emit("Reshape", [self.emit("Transpose", [row], perm=[0, 2, 3, 1]), shape]) for row in rows]
            outputs[kind] = self.emit("Concat", rows, axis=1)
        softmax = self.emit("Softmax", [outputs["logits"]], axis=-1)
        face = self.emit("Gather", [softmax, self.store(np.array(1, np.int64))], axis=2)
        self.onnx_nodes.append(helper.make_node("Identity", [outputs["boxes"]], ["boxes"]))
        self.onnx_nodes.append(helper.make_node("Identity", [face], ["scores"]))
        graph = helper.make_graph(
            self.onnx_nodes,
            "retinaface_mobilenet_v2",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
            [
                helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", "anchors", 4]),
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "anchors"]),
            ],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(wheel: str, model_path: str, reference_path: str) -> None:
    graph = Graph(read_graph(wheel))
    model = Converter(graph).model()
    onnx.checker.check_model(model, full_check=True)
    Path(model_path).write_bytes(model.SerializeToString())
    pixels = astronaut()[32:192, 144:304].astype(np.float32)  # her face and helmet
    boxes, scores = Reference(graph, pixels).heads()
    np.savez_compressed(reference_path, pixels=pixels.astype(np.uint8), boxes=boxes, scores=scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
