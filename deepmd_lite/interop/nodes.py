"""Nodes of the tree that DeePMD-kit 3.2 serialises a model to, built from arrays.

Keys, `@class` names and versions are those of its `.dp` files. One node is our own: what is left of
the embedding networks of a compressed model,

    {"@class": "TabulatedEmbedding", "@version": 1, "ndim": 1 or 2, "ntypes": n, "tables": [...]}

with one entry for each network, in the order of a `NetworkCollection` (centre + neighbour · n where
ndim is 2), None for an excluded pair of types. A table has `lower`, `upper`, `max`, `stride0`,
`stride1` (normalised s: steps of stride0 from lower to upper, then of stride1 to max), and in
`@variables` `coefficients` (n_intervals, M, 6): of x⁰ … x⁵, x from the left end of the interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Tree = dict[str, Any]

HYBRID = "hybrid"
RADIAL = ("se_e2_r", "se_r")
"""Names of the descriptor of distances alone, whose rows have one column."""
FITTING_OFF: Tree = {
    "numb_aparam": 0,
    "dim_case_embd": 0,
    "default_fparam": None,
    "rcond": None,
    "tot_ener_zero": False,
    "atom_ener": [],
    "use_aparam_as_mask": False,
}
"""Keys of the fitting at the values at which they change nothing."""


def layer(
    w: np.ndarray,
    b: np.ndarray | None,
    idt: np.ndarray | None,
    activation: str,
    residual: bool,
    trainable: bool,
) -> Tree:
    """A `Layer`: w (in, out), b (out,), idt (out,) or None."""
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": b is not None,
        "use_timestep": idt is not None,
        "activation_function": activation,
        "resnet": residual,
        "precision": w.dtype.name,
        "trainable": trainable,
        "@variables": {
            "w": w,
            "b": None if b is None else b.reshape(-1),
            "idt": None if idt is None else idt.reshape(-1),
        },
    }


def embedding_network(layers: list[Tree], resnet_dt: bool) -> Tree:
    """An `EmbeddingNetwork`; all layers have the activation and precision of the first."""
    first, widths = layers[0], _widths(layers)
    return {
        "@class": "EmbeddingNetwork",
        "@version": 2,
        "in_dim": widths[0],
        "neuron": widths[1:],
        "activation_function": first["activation_function"],
        "resnet_dt": resnet_dt,
        "bias": first["bias"],
        "precision": first["precision"],
        "layers": layers,
    }


def fitting_network(layers: list[Tree], resnet_dt: bool) -> Tree:
    """A `FittingNetwork`: hidden layers and the linear output layer, which is the last."""
    first, widths = layers[0], _widths(layers)
    return {
        "@class": "FittingNetwork",
        "@version": 1,
        "in_dim": widths[0],
        "out_dim": widths[-1],
        "neuron": widths[1:-1],
        "activation_function": first["activation_function"],
        "resnet_dt": resnet_dt,
        "precision": first["precision"],
        "bias_out": layers[-1]["bias"],
        "layers": layers,
    }


def _widths(layers: list[Tree]) -> list[int]:
    shapes = [layer["@variables"]["w"].shape for layer in layers]
    return [int(shapes[0][0]), *(int(shape[1]) for shape in shapes)]


def collection(networks: Sequence[Tree], ndim: int, ntypes: int, kind: str) -> Tree:
    """A `NetworkCollection` of `kind` 'embedding_network' or 'fitting_network'."""
    return {
        "@class": "NetworkCollection",
        "@version": 1,
        "ndim": ndim,
        "ntypes": ntypes,
        "network_type": kind,
        "networks": list(networks),
    }


def table(info: np.ndarray, coefficients: np.ndarray, width: int) -> Tree:
    """One table of a `TabulatedEmbedding`.

    `info` begins with lower, upper, max, stride0, stride1; `coefficients` (n_intervals, 6 · width)
    as DeePMD-kit stores them. Raises ValueError for sizes and numbers that do not agree.
    """
    if info.size < 5 or coefficients.ndim != 2 or coefficients.shape[1] != 6 * width:
        raise ValueError(f"a table of shape {coefficients.shape} for {width} features")
    lower, upper, top, stride0, stride1 = (float(x) for x in info.reshape(-1)[:5])
    if not (np.isfinite(info).all() and lower < upper <= top and stride0 > 0 and stride1 > 0):
        raise ValueError(f"a table with lower, upper, max and strides {info.tolist()}")
    expected = round((upper - lower) / stride0) + (top - upper) / stride1
    if abs(expected - len(coefficients)) > 1.001:
        raise ValueError(f"a table of {len(coefficients)} intervals where {expected} are expected")
    return {
        "lower": lower,
        "upper": upper,
        "max": top,
        "stride0": stride0,
        "stride1": stride1,
        "@variables": {"coefficients": coefficients.reshape(len(coefficients), width, 6)},
    }


def tabulated_embedding(tables: Sequence[Tree | None], ndim: int, ntypes: int) -> Tree:
    """See the top of this module."""
    return {
        "@class": "TabulatedEmbedding",
        "@version": 1,
        "ndim": ndim,
        "ntypes": ntypes,
        "tables": list(tables),
    }


def descriptor(section: Tree, embeddings: Tree, davg: np.ndarray, dstd: np.ndarray) -> Tree:
    """A `Descriptor`, `se_e2_a` unless `section`, its keys, says otherwise.

    davg and dstd (n, N_sel, 4), of `se_r` (n, N_sel, 1).
    """
    rcut, smooth, protection = (section[k] for k in ("rcut", "rcut_smth", "env_protection"))
    environment = {
        "rcut": rcut,
        "rcut_smth": smooth,
        "protection": protection,
        "use_exp_switch": False,
    }
    return {
        "@class": "Descriptor",
        "type": "se_e2_a",
        "@version": 2,
        **section,
        "embeddings": embeddings,
        "env_mat": environment,
        "@variables": {"davg": davg, "dstd": dstd},
        "spin": None,
    }


def one_or_hybrid(parts: list[Tree]) -> Tree:
    """The only one of the descriptors, or the hybrid of all."""
    if len(parts) == 1:
        return parts[0]
    return {"@class": "Descriptor", "type": HYBRID, "@version": 1, "list": parts}


def type_embedding(network: Tree, section: Tree, type_map: list[str]) -> Tree:
    """A `TypeEmbedNet`: `network` gives each unit vector of a type its vector."""
    return {
        "@class": "TypeEmbedNet",
        "@version": 2,
        "ntypes": len(type_map),
        "neuron": network["neuron"],
        "resnet_dt": network["resnet_dt"],
        "precision": network["precision"],
        "activation_function": network["activation_function"],
        "trainable": section.get("trainable", True),
        "padding": True,  # a vector of zeros for slots without a neighbour
        "use_econf_tebd": section.get("use_econf_tebd", False),
        "use_tebd_bias": network["bias"],
        "type_map": type_map,
        "embedding": network,
    }


def fitting(section: Tree, nets: Tree, variables: Tree) -> Tree:
    """A `Fitting` of type `ener`; `section` has its keys, `variables` its arrays."""
    return {
        "@class": "Fitting",
        "type": "ener",
        "@version": 4,
        "var_name": "energy",
        "ntypes": nets["ntypes"],
        "dim_out": 1,
        "layer_name": None,
        "spin": None,
        **section,
        "nets": nets,
        "@variables": variables,
    }


def model(
    type_map: list[str],
    descriptor_node: Tree,
    fitting_node: Tree,
    out_bias: np.ndarray,
    out_std: np.ndarray,
    excluded: Tree,
) -> Tree:
    """A `Model` of type `standard`; `excluded` has atom_exclude_types and pair_exclude_types."""
    return {
        "@class": "Model",
        "type": "standard",
        "@version": 2,
        "type_map": type_map,
        "descriptor": descriptor_node,
        "fitting": fitting_node,
        **excluded,
        "rcond": None,
        "preset_out_bias": None,
        "@variables": {"out_bias": out_bias, "out_std": out_std},
    }
