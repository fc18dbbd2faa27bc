"""A short-range table as the files of DeePMD-kit's backends hold it, and its place in the tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .nodes import HYBRID, Tree


@dataclass(frozen=True)
class TableParts:
    """What a model file holds of a table; arrays as DeePMD-kit has them."""

    info: np.ndarray
    """(4,): first distance (Å), spacing (Å), intervals, types."""
    data: np.ndarray
    """Cubics, highest power first, of all pairs."""
    smin_alpha: float
    """Å, as the radii."""
    sw_rmin: float
    sw_rmax: float
    bias: np.ndarray
    """(1, n_types, 1) eV, of the table alone."""
    shared_bias: np.ndarray
    """Energy bias that table and networks share, of the same shape."""


def with_table(model: Tree, parts: TableParts) -> Tree:
    """A tree's `model` of type `zbl` from that of the networks and a table."""
    type_map, shape = model["type_map"], parts.bias.shape
    ones, descriptor = np.ones(shape), model["descriptor"]
    each = descriptor["list"] if descriptor["type"] == HYBRID else [descriptor]
    tab = {
        "@class": "PairTab",
        "@version": 1,
        "@variables": {"tab_info": parts.info, "tab_data": parts.data},
    }
    pairs = {
        "@class": "Model",
        "type": "pairtab",
        "@version": 2,
        "type_map": type_map,
        "tab": tab,
        "rcut": max(d["rcut"] for d in each),
        "sel": int(np.max([d["sel"] for d in each], axis=0).sum()),
        "@variables": {"out_bias": parts.bias, "out_std": ones},
    }
    excluded = ("atom_exclude_types", "pair_exclude_types")  # of the model as a whole there
    return {
        "@class": "Model",
        "type": "zbl",
        "@version": 2,
        "type_map": type_map,
        "models": [{**model, **{key: [] for key in excluded}}, pairs],
        "weights": "mean",
        **{key: model[key] for key in excluded},
        "sw_rmin": parts.sw_rmin,
        "sw_rmax": parts.sw_rmax,
        "smin_alpha": parts.smin_alpha,
        "@variables": {"out_bias": parts.shared_bias, "out_std": ones},
    }
