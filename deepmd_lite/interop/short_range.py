"""Models of DeePMD-kit with a short-range table of pairs: `use_srtab`, type `zbl` in its tree.

The tree of such a model holds two, the networks and the table (`pairtab`), the radii between which
one takes over from the other, and an energy bias that both get. Its PyTorch divides by at least
1e-20 in the soft minimum of distances, so that an atom whose nearest neighbour is further than 46
smin_alpha has the table's energy there; in its TensorFlow, and here, that of the networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..model import ModelConfig
from ..model.pair_table import PairTable
from ..model.short_range import ShortRange
from .hybrid import descriptors_of
from .nodes import Tree
from .tree import Node

INFO = 4
"""Numbers of `tab_info`: first distance, spacing, intervals, types."""


@dataclass(frozen=True)
class Found:
    """A table as a tree holds it."""

    table: PairTable
    bias: torch.Tensor
    """(n_types,) float64 eV: of the table's atoms."""
    keys: Tree
    """Keys of the section `model`."""

    def part(self, config: ModelConfig) -> ShortRange:
        """The short-range part of a potential with this configuration."""
        return ShortRange.of(config, self.table, self.bias)


def learned(model: Tree) -> Tree:
    """The networks' model in a tree's `model`, which is that itself where there is no table."""
    return dict(model["models"][0]) if model.get("type") == "zbl" else model


def split(root: Node) -> tuple[Node, Found | None]:
    """The model of the networks, with the whole energy bias, and the table if there is one.

    Raises ModelFileError for a table that is missing, not valid, or cannot be expressed.
    """
    model = root.node("model")
    script = root.values.get("model_def_script")
    script = script if isinstance(script, dict) else {}
    name = script.get("use_srtab")
    if model.values.get("type") != "zbl":
        if name:
            raise root.refusal(
                "model_def_script",
                f"the training had the short-range table '{name}' (use_srtab), but the file holds "
                "none: dp convert-backend leaves that of a .pb out; convert the .pb itself",
            )
        return model, None
    model.version(1, 2)
    model.nothing_else(
        *("type", "type_map", "models", "weights", "sw_rmin", "sw_rmax", "smin_alpha"),
        *("rcond", "preset_out_bias"),
    )
    found = [Node(_mapping(x), x.place, x.parents) for x in _both(model)]
    networks, pairs = found
    pairs.only("type", "pairtab")
    pairs.version(1, 2)
    type_map = model.names("type_map")
    for part in found:
        if part.names("type_map") != type_map:
            raise part.refusal("type_map", f"differs from that of the model, {type_map}")
    if pairs.number("rcut") != max(node.number("rcut") for node in descriptors_of(networks)):
        raise pairs.refusal("rcut", "differs from that of the descriptor, which is not supported")
    n_types = len(type_map)
    shared = _out_bias(model, n_types)
    both = {**_variables(networks), "out_bias": _out_bias(networks, n_types) + shared}
    networks = Node({**networks.values, "@variables": both}, networks.place, networks.parents)
    keys = {
        "use_srtab": Path(name).name if isinstance(name, str) and name else "table",
        "srtab_add_bias": script.get("srtab_add_bias", True) is not False,
        **{key: model.number(key) for key in ("sw_rmin", "sw_rmax", "smin_alpha")},
    }
    bias = (_out_bias(pairs, n_types) + shared)[0, :, 0]
    return networks, Found(_table(pairs, n_types), torch.from_numpy(bias.copy()), keys)


FARTHEST = -math.log(1e-20)
"""In smin_alpha: nearest neighbours at which the divisor of DeePMD-kit's PyTorch takes over."""


def notes(tree: Tree, part: ShortRange) -> list[str]:
    """What a user should know of the table of a converted model."""
    far = FARTHEST * part.smin_alpha
    found = [f"short range: {part.summary(learned(tree['model'])['type_map'])}", *part.notes()]
    if tree.get("backend") == "PyTorch" and far < part.rcut:
        found.append(
            f"DeePMD-kit's PyTorch gives atoms without a neighbour within {far:.1f} Å, but one "
            "within the cutoff, the table's energy; here they have the networks'"
        )
    return found


def _both(model: Node) -> list[Node]:
    found = model.nodes("models", 2)
    if any(x is None for x in found):
        raise model.refusal("models", "expected the networks' model and the table")
    return [x for x in found if x is not None]


def _mapping(node: Node) -> Tree:
    return dict(node.values)


def _variables(node: Node) -> Tree:
    return dict(node.node("@variables").values) if node.given("@variables") else {}


def _out_bias(node: Node, n_types: int) -> np.ndarray:
    """(1, n_types, 1) float64 eV."""
    if not (node.given("@variables") and node.node("@variables").given("out_bias")):
        return np.zeros((1, n_types, 1))
    return node.node("@variables").array("out_bias", (1, n_types, 1)).astype(np.float64)


def _table(pairs: Node, n_types: int) -> PairTable:
    tab = pairs.node("tab")
    tab.version(1)
    variables = tab.node("@variables")
    start, spacing, intervals, types = variables.array("tab_info", (INFO,)).astype(np.float64)
    if types != n_types or intervals < 1 or intervals % 1 or not (spacing > 0 and start >= 0):
        raise variables.refusal(
            "tab_info",
            f"expected first distance, spacing, intervals and {n_types} types, found "
            f"{start:g}, {spacing:g}, {intervals:g} and {types:g}",
        )
    size = n_types * n_types * int(intervals) * 4
    data = variables.array("tab_data", (size,)).astype(np.float64)
    cubics = data.reshape(n_types, n_types, int(intervals), 4)[..., ::-1]
    if (cubics != cubics.transpose(1, 0, 2, 3)).any():
        raise variables.refusal("tab_data", "energies of a pair of types depend on its order")
    return PairTable(float(start), float(spacing), np.ascontiguousarray(cubics))
