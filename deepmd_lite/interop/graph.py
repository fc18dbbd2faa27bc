"""A frozen graph of TensorFlow by the names of its nodes."""

from __future__ import annotations

import numpy as np

from .assembly import floats
from .protobuf import Node
from .sections import PartsError

FILLED = 1 << 28
"""Bytes that tensors may take beyond what the file has, by repeating their last value."""


class Graph:
    """Constants by name. Every method raises WireError or PartsError."""

    def __init__(self, found: dict[str, Node], size: int) -> None:
        """`size` of the file, bytes."""
        self.nodes = found
        self.room = FILLED + 4 * size
        """Bytes of arrays that may still be made."""

    def __contains__(self, name: str) -> bool:
        return name in self.nodes

    def of(self, *operations: str) -> list[Node]:
        """All nodes with one of these operations."""
        return [node for node in self.nodes.values() if node.op in operations]

    def constant(self, name: str) -> np.ndarray | bytes:
        """The value behind a name, through identities and casts."""
        kind = None
        for _ in range(8):
            node = self.nodes.get(name.partition(":")[0])
            if node is None:
                raise PartsError(f"the graph lacks '{name}'; freeze the model again")
            if node.op == "Const":
                value = node.tensor()
                self.room -= len(value) if isinstance(value, bytes) else value.nbytes
                if self.room < 0:
                    raise PartsError("its tensors repeat their values beyond any model's size")
                return value if kind is None or isinstance(value, bytes) else value.astype(kind)
            if node.op not in ("Identity", "Cast") or not node.inputs:
                break
            if node.op == "Cast":
                kind = kind or node.kind("DstT")
            name = node.inputs[0]
        raise PartsError(f"'{name}' is not a constant: not a frozen model; run `dp freeze` first")

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Finite floating-point numbers of `shape`, where -1 stands for any length."""
        return floats(self.constant(name), name, shape)

    def text(self, name: str) -> str:
        value = self.constant(name)
        if not isinstance(value, bytes):
            raise PartsError(f"'{name}' is not a string")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise PartsError(f"'{name}' is not UTF-8") from None

    def integers(self, name: str) -> list[int]:
        value = self.constant(name)
        if isinstance(value, bytes) or value.dtype.kind not in "iu":
            raise PartsError(f"'{name}' is not an array of integers")
        return [int(n) for n in value.reshape(-1)]
