"""From the arrays of a model file and its `model` section to DeePMD-kit's tree.

A frozen graph and a TorchScript archive hold the same things under other names. What the arrays
say themselves (widths, one- or two-sided, precision) is taken from them: the section may be an
unfinished input whose defaults have changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.type_embedding_config import DPA1
from . import nodes
from .nodes import RADIAL, Tree
from .sections import PartsError, check_supported, shown
from .table_parts import TableParts, with_table
from .type_embedding import SMOOTHED

Layer = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
"""Weight (in, out), bias (out,), time step (out,) or None."""


_DPA1_DEFAULTS: Tree = {
    "attn_layer": 2,
    "tebd_input_mode": "concat",
    "use_econf_tebd": False,
    "smooth_type_embedding": True,
}
"""Of the keys that decide whether such a model can be expressed."""
_FLOATS = ("float16", "float32", "float64")


def floats(value: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as finite floating-point numbers of `shape`, where -1 stands for any length.

    Raises PartsError, calling it `name`.
    """
    if not isinstance(value, np.ndarray) or value.dtype.name not in _FLOATS:
        raise PartsError(f"'{name}' is not an array of floating-point numbers")
    fits = value.ndim == len(shape) and all(
        n == wanted or wanted < 0 for n, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise PartsError(f"'{name}' has shape {value.shape}, expected {shape}")
    if not np.isfinite(value).all():
        raise PartsError(f"'{name}' holds values that are not finite")
    return value


@dataclass
class DescriptorParts:
    """What a model file holds of one descriptor; arrays as DeePMD-kit has them."""

    section: Tree
    """A section of the training input."""
    rcut: float
    """Å."""
    rcut_smth: float
    sel: list[int]
    davg: np.ndarray
    """(n_types, N_sel, 4), of `se_e2_r` (n_types, N_sel, 1); as dstd."""
    dstd: np.ndarray
    one_side: bool
    """Whether networks are those of neighbour types, n_types of them; otherwise there are
    n_types² (centre + neighbour · n_types)."""
    embeddings: list[list[Layer] | None]
    """Hidden layers of each network; None for an excluded pair."""
    tables: list[Tree | None] | None
    """Tables (see `nodes`) in their place, in a compressed model."""
    type_factors: list[Layer] | None = None
    """Layers of the second network of DPA-1 with `tebd_input_mode` strip."""
    factor_rows: np.ndarray | None = None
    """(n_types², M): what is left of that network in a compressed graph."""
    fading: str | None = None
    """How its share fades with the distance where not as in PyTorch (see `model.fading`)."""


@dataclass
class Parts:
    """What a model file holds."""

    section: Tree
    """The `model` section of the training input."""
    type_map: list[str]
    descriptors: list[DescriptorParts]
    """The one, or those of a hybrid."""
    type_vectors: list[Layer] | None
    """Layers that give each type its vector. All types and pairs then share one network, whose
    inputs the vectors are beside s (embedding) or the descriptor (fitting)."""
    concatenated: bool
    """Whether the fitting takes the vector too."""
    fparam_scales: tuple[np.ndarray, np.ndarray] | None
    """avg and inv_std (numb_fparam,) of frame parameters, if there are any; the fitting takes them
    last."""
    fittings: list[list[Layer]]
    """Layers for each type, the linear one last."""
    fitting_residual: list[bool]
    """Whether each hidden layer has a residual connection."""
    bias_atom_e: np.ndarray
    """(n_types,), eV."""
    out_bias: np.ndarray
    """(1, n_types, 1), eV, as out_std."""
    out_std: np.ndarray
    min_nbor_dist: float | None
    """Å."""
    short_range: TableParts | None


def one_sided_input(network: list[Layer], vectors: list[Layer], scalars: int = 1) -> bool:
    """Whether a network of `scalars` and vectors takes a neighbour's alone, or the centre's too.

    Raises PartsError where its inputs are neither.
    """
    inputs, width = network[0][0].shape[0], vectors[-1][0].shape[1]
    if inputs not in (scalars + width, scalars + 2 * width):
        raise PartsError(f"{inputs} inputs of the embedding for a type embedding of {width}")
    return inputs == scalars + width


def assembled(parts: Parts) -> Tree:
    """The tree of a `.dp` file; `backend` and versions are added by the reader.

    Raises PartsError where the parts do not fit together.
    """
    model = nodes.model(
        parts.type_map,
        nodes.one_or_hybrid(_descriptors(parts)),
        _fitting(parts),
        parts.out_bias,
        parts.out_std,
        {k: parts.section.get(k) or [] for k in ("atom_exclude_types", "pair_exclude_types")},
    )
    if parts.short_range is not None:
        model = with_table(model, parts.short_range)
    distance = {} if parts.min_nbor_dist is None else {"min_nbor_dist": parts.min_nbor_dist}
    return {"model": model, "model_def_script": parts.section, "@variables": distance}


def _descriptors(parts: Parts) -> list[Tree]:
    n_in = parts.fittings[0][0][0].shape[0]
    if parts.fparam_scales is not None:
        n_in -= len(parts.fparam_scales[0])
    if parts.type_vectors is not None and parts.concatenated:
        n_in -= parts.type_vectors[-1][0].shape[1]
    if len(parts.descriptors) == 1:
        return [_descriptor(parts, parts.descriptors[0], n_in)]
    found = []
    for own in parts.descriptors:
        features = _widths(own)[0][-1]
        axis = 1 if own.section.get("type") in RADIAL else own.section.get("axis_neuron", 4)
        if type(axis) is not int:
            raise PartsError(f"model/descriptor/list: axis_neuron {shown(axis)} is not a number")
        found.append(_descriptor(parts, own, features * axis))
        n_in -= features * axis
    if n_in != 0:
        raise PartsError(f"a fitting net with {n_in} inputs more than the descriptors have")
    return found


def _descriptor(parts: Parts, own: DescriptorParts, n_in: int) -> Tree:
    """The tree of a descriptor with `n_in` numbers."""
    section, is_dpa1 = own.section, own.section.get("type") in DPA1
    n_types, ndim = len(parts.type_map), 1 if own.one_side else 2
    if parts.type_vectors is not None:
        ndim = 0
    resnet_dt, trainable = section.get("resnet_dt", False), section.get("trainable", True)
    activation = section.get("activation_function", "tanh")
    neuron, precision = _widths(own)
    radial = section.get("type") in RADIAL
    if n_in <= 0 or n_in % neuron[-1] or (radial and n_in != neuron[-1]):
        raise PartsError(f"{n_in} inputs of a fitting net for {neuron[-1]} features")
    if own.tables is not None:
        embeddings = nodes.tabulated_embedding(own.tables, ndim, n_types)
    else:
        absent = _zeros(neuron, resnet_dt, precision)
        networks = [
            nodes.embedding_network(
                _layers(e or absent, activation, [True] * len(neuron), trainable), resnet_dt
            )
            for e in own.embeddings
        ]
        embeddings = nodes.collection(networks, ndim, n_types, "embedding_network")
    keys = {
        "rcut": own.rcut,
        "rcut_smth": own.rcut_smth,
        "sel": own.sel,
        "neuron": neuron,
        **({"type": "se_r"} if radial else {"axis_neuron": n_in // neuron[-1]}),
        "resnet_dt": resnet_dt,
        "trainable": trainable,
        "type_one_side": own.one_side,
        "exclude_types": section.get("exclude_types") or [],
        "env_protection": section.get("env_protection", 0.0),
        "set_davg_zero": section.get("set_davg_zero", False),
        "activation_function": activation,
        "precision": precision,
        "type_map": parts.type_map,
    }
    if parts.type_vectors is not None:
        keys["type_embedding"] = _type_embedding(parts)
    if is_dpa1:
        keys |= {key: section.get(key, value) for key, value in _DPA1_DEFAULTS.items()}
        keys |= {"type": "dpa1", "concat_output_tebd": parts.concatenated}
        if section["type"] == SMOOTHED:
            keys["smooth_type_embedding"] = True
    if own.fading is not None:
        keys["fading"] = own.fading
    if own.factor_rows is not None:
        keys |= {"tebd_input_mode": "strip", "type_factors": own.factor_rows}
    if own.type_factors is not None:
        keys["tebd_input_mode"] = "strip"
        layers = _layers(own.type_factors, activation, [True] * len(neuron), trainable)
        network = nodes.embedding_network(layers, resnet_dt)
        keys["embeddings_strip"] = nodes.collection([network], 0, n_types, "embedding_network")
    return nodes.descriptor(keys, embeddings, own.davg, own.dstd)


def _type_embedding(parts: Parts) -> Tree:
    """Raises PartsError for a section that is not a mapping."""
    section = parts.section.get("type_embedding")
    if parts.section["descriptor"].get("type") in DPA1:  # it has no section: one linear layer
        section = {"activation_function": "linear"}
    layers = parts.type_vectors or []
    if not isinstance(section, dict):
        raise PartsError("model/type_embedding is missing from its training script")
    resnet_dt = section.get("resnet_dt", False)
    activation, trainable = section.get("activation_function", "tanh"), [True] * len(layers)
    made = _layers(layers, activation, trainable, trainable)
    return nodes.type_embedding(nodes.embedding_network(made, resnet_dt), section, parts.type_map)


def _widths(own: DescriptorParts) -> tuple[list[int], str]:
    """Widths and precision of the embedding networks; of tables, as far as they tell."""
    for e in own.embeddings:
        if e is not None:
            return [int(w.shape[1]) for w, _, _ in e], e[0][0].dtype.name
    for table in own.tables or []:
        if table is not None:
            coefficients = table["@variables"]["coefficients"]
            hidden = own.section.get("neuron") or [0]
            if not isinstance(hidden, list) or not all(type(n) is int for n in hidden):
                raise PartsError(f"model/descriptor/neuron {shown(hidden)} is not a list of widths")
            hidden = hidden[:-1]
            return [*hidden, int(coefficients.shape[1])], coefficients.dtype.name
    raise PartsError("every pair of types is excluded")


def _zeros(neuron: list[int], resnet_dt: bool, precision: str) -> list[Layer]:
    """The network of a pair that is excluded: never evaluated, all zero as in DeePMD-kit."""
    made: list[Layer] = []
    for n_in, n_out in zip([1, *neuron], neuron, strict=False):
        step = np.zeros(n_out, precision) if resnet_dt and n_out in (n_in, 2 * n_in) else None
        made.append((np.zeros((n_in, n_out), precision), np.zeros(n_out, precision), step))
    return made


def _layers(
    found: Sequence[Layer], activation: str, residual: Sequence[bool], trainable: Any
) -> list[Tree]:
    flags = trainable if isinstance(trainable, list) else [trainable] * len(found)
    if len(flags) < len(found):
        raise PartsError(f"'trainable' has {len(flags)} entries for {len(found)} layers")
    made = []
    for (w, b, idt), connected, flag in zip(found, residual, flags, strict=False):
        n_in, n_out = w.shape
        if not connected or n_out not in (n_in, 2 * n_in):
            idt = None  # kept in some files, but without a residual connection never used
        made.append(nodes.layer(w, b, idt, activation, connected, flag))
    return made


def _fitting(parts: Parts) -> Tree:
    _, section = check_supported(parts.section)
    activation = section.get("activation_function", "tanh")
    resnet_dt, trainable = section.get("resnet_dt", True), section.get("trainable", True)
    count = len(parts.fittings[0])
    trainable = trainable if isinstance(trainable, list) else [trainable] * count
    networks = []
    for layers in parts.fittings:
        hidden = _layers(layers[:-1], activation, parts.fitting_residual, trainable)
        linear = _layers(layers[-1:], "none", [False], trainable[-1:])
        networks.append(nodes.fitting_network([*hidden, *linear], resnet_dt))
    average, inverse = parts.fparam_scales or (None, None)
    n_fparam = 0 if average is None else len(average)
    keys = {
        "dim_descrpt": networks[0]["in_dim"] - n_fparam,
        "numb_fparam": n_fparam,
        "neuron": networks[0]["neuron"],
        "resnet_dt": resnet_dt,
        "mixed_types": parts.type_vectors is not None,
        **{key: section.get(key, value) for key, value in nodes.FITTING_OFF.items()},
        "exclude_types": [],
        "trainable": trainable,
        "activation_function": activation,
        "precision": networks[0]["precision"],
        "type_map": parts.type_map,
    }
    none = dict.fromkeys(("aparam_avg", "aparam_inv_std", "case_embd"))
    ndim, n_types = 1 if parts.type_vectors is None else 0, len(parts.type_map)
    nets = nodes.collection(networks, ndim, n_types, "fitting_network")
    bias = parts.bias_atom_e.reshape(-1, 1)
    scales = {"fparam_avg": average, "fparam_inv_std": inverse}
    return nodes.fitting(keys, nets, {"bias_atom_e": bias, **scales, **none})
