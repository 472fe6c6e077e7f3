"""ONNX files made by hand, message by message (onnx.proto3), where the package `onnx` is not to be had."""

from collections.abc import Mapping, Sequence

import numpy as np

FLOAT, EXTERNAL = 1, 1


def field(number: int, content: int | str | bytes) -> bytes:
    """One field: an integer, or a text or a message with its length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def tensor(name: str, array: np.ndarray, *, external: bool = False) -> bytes:
    """A TensorProto of float32, its numbers inside it or said to lie in another file."""
    dims = b"".join(field(1, size) for size in array.shape)
    head = dims + field(2, FLOAT) + field(8, name)
    if external:
        return head + field(13, field(1, "location") + field(2, "weights.bin")) + field(14, EXTERNAL)
    return head + field(9, array.astype("<f4").tobytes())


def node(kind: str, inputs: Sequence[str], output: str, *, domain: str = "", ints: Mapping[str, int] = {}) -> bytes:
    """A NodeProto with one output and integer attributes."""
    attributes = b"".join(field(5, field(1, name) + field(3, value) + field(20, 2)) for name, value in ints.items())
    names = b"".join(field(1, name) for name in inputs) + field(2, output)
    return names + field(4, kind) + attributes + (field(7, domain) if domain else b"")


def value(name: str, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto of a float32 tensor; a size by name is free."""
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, FLOAT) + field(2, dims)))


def model(
    nodes: Sequence[bytes],
    tensors: Sequence[bytes],
    given: bytes,
    found: bytes,
    *,
    domains: Sequence[str] = ("",),
) -> bytes:
    """A ModelProto of one graph, of IR version 8 and operators of version 13."""
    graph = b"".join(field(1, one) for one in nodes) + field(2, "graph") + b"".join(field(5, one) for one in tensors)
    graph += field(11, given) + field(12, found)
    opsets = b"".join(field(8, (field(1, domain) if domain else b"") + field(2, 13)) for domain in domains)
    return field(1, 8) + field(7, graph) + opsets


def projection(
    weights: np.ndarray,
    *,
    batch: int | str = "batch",
    side: int | str = "side",
    external: bool = False,
    domain: str = "",
    domains: Sequence[str] = ("",),
) -> bytes:
    """A small descriptor: the mean of each channel, times weights [3, dim]."""
    nodes = [
        node("GlobalAveragePool", ["pictures"], "pooled"),
        node("Flatten", ["pooled"], "means", ints={"axis": 1}),
        node("MatMul", ["means", "weights"], "vectors", domain=domain),
    ]
    return model(
        nodes,
        [tensor("weights", weights, external=external)],
        value("pictures", [batch, 3, side, side]),
        value("vectors", [batch, weights.shape[1]]),
        domains=domains,
    )
