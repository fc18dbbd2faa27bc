"""What a frozen graph of TensorFlow holds of DPA-1 beyond its networks: its type embedding."""

from __future__ import annotations

import numpy as np

from .graph import Graph
from .nodes import Tree
from .sections import PartsError
from .type_embedding import SMOOTHED

TABLE = "TabulateFusionSeAtten"
"""The operation of a compressed DPA-1, whose last input are the factors of pairs of types."""
_LINEAR = ("Const", "MatMul", "Identity", "Reshape", "Cast")


def fading(section: Tree) -> str | None:
    """How the share of the type embedding fades in TensorFlow (see `model.fading`), if it does."""
    if section.get("type") == SMOOTHED:
        return "cubic"
    stripped = section.get("stripped_type_embedding")
    if stripped is None:
        stripped = section.get("tebd_input_mode") == "strip"
    return "cubic" if stripped and section.get("smooth_type_embedding", False) else None


def check_vectors(graph: Graph) -> None:
    """That the network of the type embedding is linear, as DeePMD-kit 3 makes it for DPA-1.

    Raises PartsError.
    """
    for name, node in graph.nodes.items():
        if name.startswith("type_embed_net/") and node.op not in _LINEAR:
            raise PartsError(
                f"a DPA-1 model with '{name}', as before DeePMD-kit 3, is not supported; "
                "train it with a newer release"
            )


def factors_of_pairs(graph: Graph, n_types: int, fades: bool) -> np.ndarray:
    """(n_types², M): g of each centre a and neighbour b, at a · n_types + b, of a compressed model.

    Raises PartsError where the graph does not look like one.
    """
    table = graph.of(TABLE)[0]
    name, scaled = table.inputs[-1], False
    for _ in range(8):
        node = graph.nodes.get(name.partition(":")[0])
        if node is None or not node.inputs:
            break
        if node.op == "GatherV2":
            rows = graph.array(node.inputs[0], ((n_types + 1) ** 2, -1))  # one is of no atom
            if scaled != fades:
                raise PartsError(
                    "model/descriptor/smooth_type_embedding is not what its graph does"
                )
            grid = rows.reshape(n_types + 1, n_types + 1, -1)[:n_types, :n_types]
            return grid.reshape(n_types**2, -1)
        scaled = scaled or node.op == "Mul"
        name = node.inputs[0]
    raise PartsError(f"the factors of '{table.name}' are not understood")
