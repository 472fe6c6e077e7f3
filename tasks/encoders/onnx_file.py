"""Looks through an ONNX file for what reaches beyond it, without running or fully parsing it.

ONNX is a protocol buffer: fields of (number, wire type, value), messages inside messages (onnx.proto3, IR version 3 and
later). Only the few fields that matter here are followed.
"""

from collections.abc import Iterator

_BUILT_IN = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"}
_DOMAIN_OF_OPSET, _DATA_LOCATION, _EXTERNAL = 1, 14, 1
_FUNCTION, _DOMAIN_OF_FUNCTION = 25, 10

# For each message: field number -> the message inside it that may hold tensors or nodes.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_MAX_DEPTH = 64


class NotSelfContained(ValueError):
    """A file that is no ONNX, or that needs more than itself and onnxruntime."""


def check_self_contained(data: bytes) -> None:
    """Raises NotSelfContained for weights in other files, for operators of plug-ins, and for what is no ONNX file.

    Time grows with the number of nodes and tensors, not with the bytes of the weights.
    """
    try:
        own = {
            bytes(value).decode()
            for number, function in _fields(memoryview(data))
            if number == _FUNCTION and isinstance(function, memoryview)
            for inner, value in _fields(function)
            if inner == _DOMAIN_OF_FUNCTION and isinstance(value, memoryview)
        }
        _check(memoryview(data), "model", _BUILT_IN | own, 0)
    except (IndexError, UnicodeDecodeError) as error:
        raise NotSelfContained("it is no ONNX file, or it is cut. Fetch it again.") from error


def _check(message: memoryview, kind: str, domains: set[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise NotSelfContained(f"its graphs are nested more than {_MAX_DEPTH} deep.")
    for number, value in _fields(message):
        if kind == "tensor" and number == _DATA_LOCATION and value == _EXTERNAL:
            raise NotSelfContained(
                "it keeps weights in other files, which no checksum covers. Save it as one file "
                "(onnx.save_model(..., save_as_external_data=False); at most 2 GiB)."
            )
        if kind == "opset" and number == _DOMAIN_OF_OPSET and isinstance(value, memoryview):
            domain = bytes(value).decode()
            if domain not in domains:
                raise NotSelfContained(
                    f"it needs operators of {domain!r}, which come as a plug-in (code). Export it with standard ones."
                )
        inner = _INSIDE.get(kind, {}).get(number)
        if inner is not None and isinstance(value, memoryview):
            _check(value, inner, domains, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a message: an integer, or the bytes of a nested one (fixed-width numbers likewise)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire not in (1, 2, 5) or number == 0:
            raise NotSelfContained("it is no ONNX file. Give the .onnx file itself, not an archive or a checkpoint.")
        size = {1: 8, 5: 4}.get(wire)
        if size is None:
            size, position = _varint(message, position)
        if position + size > len(message):
            raise IndexError(f"{size} bytes at {position} of {len(message)}")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError("a number of more than ten bytes")
