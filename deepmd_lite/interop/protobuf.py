"""TensorFlow's GraphDef, read from the protobuf wire format without executing anything.

Only what a frozen graph of constants needs: GraphDef → NodeDef → AttrValue → TensorProto (field
numbers: `graph.proto`, `node_def.proto`, `attr_value.proto`, `tensor.proto`, `tensor_shape.proto`
of TensorFlow). Tensors are views of the file until they are asked for; every length is checked
against what contains it. Only a tensor that repeats its last value is larger than its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_ELEMENTS = 1 << 24
"""Of a tensor that repeats its last value, which takes no space in the file."""
MOST_DIMENSIONS = 8

# DataType → numpy type, field of the values where they are not raw bytes, its wire type
_TYPES: dict[int, tuple[np.dtype, int, int]] = {
    1: (np.dtype("<f4"), 5, FIXED32),
    2: (np.dtype("<f8"), 6, FIXED64),
    3: (np.dtype("<i4"), 7, VARINT),
    9: (np.dtype("<i8"), 10, VARINT),
    10: (np.dtype("?"), 11, VARINT),
    19: (np.dtype("<f2"), 13, VARINT),
}
_STRING = 7


class WireError(ValueError):
    """Bytes that are not the message they should be."""


Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, int, Value]]:
    """(field number, wire type, value) of a message; fixed and length-delimited values as bytes.

    Raises WireError for a field that reaches beyond the end, or a wire type of no use here.
    """
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        if wire == VARINT:
            value, at = _varint(message, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            length, at = _varint(message, at)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise WireError(f"wire type {wire} at byte {at}")
        if length > end - at:
            raise WireError(f"a field of {length} bytes where {end - at} are left")
        yield number, wire, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise WireError("the data end inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise WireError(f"a number of more than ten bytes before byte {at}")


def _bytes(wire: int, value: Value, what: str) -> memoryview:
    if wire != BYTES or isinstance(value, int):
        raise WireError(f"{what} has wire type {wire}")
    return value


def _text(wire: int, value: Value, what: str) -> str:
    try:
        return bytes(_bytes(wire, value, what)).decode()
    except UnicodeDecodeError:
        raise WireError(f"{what} is not UTF-8") from None


def _signed(value: Value, what: str) -> int:
    if not isinstance(value, int):
        raise WireError(f"{what} is not a number")
    return value - (1 << 64) if value >> 63 else value


@dataclass
class Node:
    """One node of a graph."""

    name: str
    op: str
    inputs: list[str]
    attributes: dict[str, memoryview]
    """Encoded AttrValue of each attribute."""

    def _attribute(self, key: str, number: int) -> Value:
        """Field `number` of an AttrValue."""
        for found, _, value in fields(self.attributes.get(key, memoryview(b""))):
            if found == number:
                return value
        raise WireError(f"node '{self.name}' has no attribute '{key}' of the expected kind")

    def _message(self, key: str, number: int, size: int = -1) -> memoryview:
        value = self._attribute(key, number)
        if isinstance(value, int) or size not in (-1, len(value)):
            raise WireError(f"attribute '{key}' of node '{self.name}' is of another kind")
        return value

    def number(self, key: str) -> float:
        """A float attribute, which has the precision of float32."""
        (value,) = np.frombuffer(self._message(key, 4, 4), "<f4")
        return float(value)

    def integer(self, key: str) -> int:
        """An integer attribute."""
        return _signed(self._attribute(key, 3), f"attribute '{key}' of node '{self.name}'")

    def integers(self, key: str) -> list[int]:
        """An attribute that is a list of integers."""
        listed = [(wire, v) for n, wire, v in fields(self._message(key, 1)) if n == 3]
        return [int(n) for n in _listed(listed, np.dtype(np.int64), VARINT)]

    def kind(self, key: str) -> np.dtype:
        """An attribute that is a type of numbers."""
        kind = _signed(self._attribute(key, 6), f"attribute '{key}' of node '{self.name}'")
        if kind not in _TYPES:
            raise WireError(f"node '{self.name}': numbers of type {kind} are not supported")
        return _TYPES[kind][0]

    def tensor(self) -> np.ndarray | bytes:
        """The value of a constant: an array (a view where it can be), or bytes for a string."""
        raw = self._message("value", 8)
        try:
            return _tensor(raw)
        except WireError as e:
            raise WireError(f"node '{self.name}': {e}") from None


def graph_nodes(data: memoryview) -> dict[str, Node]:
    """Nodes of an encoded GraphDef by name. Raises WireError."""
    nodes: dict[str, Node] = {}
    for number, wire, value in fields(data):
        if number == 1:
            node = _node(_bytes(wire, value, "a node"))
            if node.name in nodes:
                raise WireError(f"node '{node.name}' occurs twice")
            nodes[node.name] = node
        elif number not in (2, 3, 4):  # library, version, versions
            raise WireError(f"field {number}, which a graph does not have")
    if not nodes:
        raise WireError("no nodes")
    return nodes


def _node(message: memoryview) -> Node:
    node = Node("", "", [], {})
    for number, wire, value in fields(message):
        if number == 1:
            node.name = _text(wire, value, "a node's name")
        elif number == 2:
            node.op = _text(wire, value, "a node's operation")
        elif number == 3:
            node.inputs.append(_text(wire, value, "a node's input"))
        elif number == 5:
            key, content = "", memoryview(b"")
            for inner, inner_wire, entry in fields(_bytes(wire, value, "an attribute")):
                if inner == 1:
                    key = _text(inner_wire, entry, "an attribute's name")
                elif inner == 2:
                    content = _bytes(inner_wire, entry, "an attribute's value")
            node.attributes[key] = content
        elif number not in (4, 6, 7):  # device, debug information, full type
            raise WireError(f"field {number}, which a node does not have")
    if not node.name or not node.op:
        raise WireError("a node without name or operation")
    return node


def _tensor(message: memoryview) -> np.ndarray | bytes:
    dtype, shape, content = 0, [], None
    values: dict[int, list[tuple[int, Value]]] = {}
    for number, wire, value in fields(message):
        if number == 1:
            dtype = _signed(value, "a tensor's type")
        elif number == 2:
            shape = _shape(_bytes(wire, value, "a tensor's shape"))
        elif number == 4:
            content = _bytes(wire, value, "a tensor's content")
        else:
            values.setdefault(number, []).append((wire, value))
    if dtype == _STRING:
        strings = values.get(8, [])
        if shape or len(strings) != 1:
            raise WireError("expected a single string")
        return bytes(_bytes(*strings[0], "a string"))
    if dtype not in _TYPES:
        raise WireError(f"tensors of type {dtype} are not supported")
    kind, field, element = _TYPES[dtype]
    if content:
        array = np.frombuffer(content, np.uint8)
    else:
        array = _listed(values.get(field, []), kind, element)
    size = int(np.prod(shape, dtype=object)) if shape else 1
    if content:
        if len(array) != size * kind.itemsize:
            raise WireError(f"{len(array)} bytes for shape {shape} of {kind.name}")
        return array.view(kind).reshape(shape)
    if len(array) == size:
        return array.reshape(shape)
    if len(array) > size or size > MOST_ELEMENTS:
        raise WireError(f"{len(array)} values for shape {shape}")
    fill = array[-1:] if len(array) else np.zeros(1, kind)
    return np.concatenate([array, np.repeat(fill, size - len(array))]).reshape(shape)


def _shape(message: memoryview) -> list[int]:
    shape = []
    for number, wire, value in fields(message):
        if number != 2:
            raise WireError("a tensor of unknown rank")
        size = 0
        for inner, _, content in fields(_bytes(wire, value, "a dimension")):
            if inner == 1:
                size = _signed(content, "a dimension")
        if size < 0:
            raise WireError(f"dimension {size}")
        shape.append(size)
    if len(shape) > MOST_DIMENSIONS:
        raise WireError(f"{len(shape)} dimensions")
    return shape


def _listed(found: list[tuple[int, Value]], kind: np.dtype, element: int) -> np.ndarray:
    """Values written one by one or packed."""
    parts = []
    for wire, value in found:
        if wire not in (element, BYTES):
            raise WireError(f"a value of wire type {wire} in a tensor of {kind.name}")
        if isinstance(value, int):
            parts.append(_integers([value], kind))
        elif element == VARINT:
            parts.append(_integers(list(_packed(value)), kind))
        elif len(value) % kind.itemsize:
            raise WireError(f"{len(value)} bytes of {kind.name}")
        else:
            parts.append(np.frombuffer(value, kind))
    return np.concatenate(parts) if parts else np.empty(0, kind)


def _packed(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _integers(values: list[int], kind: np.dtype) -> np.ndarray:
    if kind.kind == "f":  # half precision as bit patterns
        return np.array(values, np.uint64).astype("<u2").view(kind)
    return np.array(values, np.uint64).astype(np.int64).astype(kind)
