"""Models of DeePMD-kit as potentials, from the tree that it serialises a model into.

The tree of version 3: `model` holds `descriptor` and `fitting`, each with its networks and, under
`@variables`, its statistics. Its networks are ours but for names and order (G_ab stands at
a + n_types · b there); davg and dstd are given once for each slot and are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..model import ModelConfig, Potential, Statistics
from ..model.activations import ACTIVATIONS
from ..model.file import FINEST
from ..model.potential import TABLE_REACH
from ..schema import parse
from ..system import InputError, ModelFileError
from .tables import tabulated_embedding
from .tree import Node

DEFAULT_DISTANCE = 0.6
"""Å: smallest distance assumed where the file does not say it; no bond but H–H is near it."""


def potential_from_tree(tree: dict[str, Any], place: str) -> Potential:
    """The potential of a tree; `place` names its file in errors.

    Raises ModelFileError for a part that is missing or not valid, and for one that this model
    cannot express, with its key and value. The table has its first spacing, nothing is refined.
    """
    root = Node(tree, place)
    model = root.node("model")
    _check_model(model)
    descriptor, fitting = model.node("descriptor"), model.node("fitting")
    n_types = len(model.names("type_map"))
    davg, dstd = _scales(descriptor, n_types)
    config = _config(model, _exclusions(root, davg))
    sel = descriptor.integers("sel")
    statistics = Statistics(davg, dstd, _energy_bias(model, n_types), sel, _min_distance(root))
    arrays, tabulated = {}, tabulated_embedding(descriptor, config, davg, dstd)
    if tabulated is None:
        arrays = {f"embedding.{k}": v for k, v in _embedding(config, descriptor).items()}
    else:
        nearest = max(TABLE_REACH * statistics.min_distance, tabulated[1])
        config.table.min_distance = nearest
    for a, network in enumerate(_collection(fitting.node("nets"), 1, n_types)):
        found = _fitting(config, fitting, network)
        arrays |= {f"fitting.{a}.{k}": v for k, v in found.items()}
    with torch.device("meta"):  # the arrays of the file take the place of the parameters
        embedding = None if tabulated is None else tabulated[0]
        potential = Potential(config, statistics, seed=None, embedding=embedding)
    if potential.grid.n_intervals > FINEST:
        raise descriptor.node("@variables").refusal(
            "dstd", f"too small for a table: {dstd[:, 0].tolist()}"
        )
    potential.load_state_dict(arrays, strict=False, assign=True)
    potential.to_precision(config.precision).requires_grad_(False)
    _subtract_vacuum(potential, fitting)
    return potential


# --- what the model is ----------------------------------------------------------------------


def _check_model(model: Node) -> None:
    model.only("type", "standard", default="standard")
    model.version(1, 2)
    model.only("atom_exclude_types", [], None)
    model.nothing_else(
        *("type", "type_map", "atom_exclude_types", "pair_exclude_types", "descriptor", "fitting"),
        *("rcond", "preset_out_bias"),  # how the bias was found: the bias itself is given
    )
    descriptor, fitting = model.node("descriptor"), model.node("fitting")
    descriptor.only("type", "se_e2_a", "se_a")
    descriptor.version(1, 2, 3)
    descriptor.only("env_protection", 0, 0.0, None)
    descriptor.nothing_else(
        *("type", "type_map", "rcut", "rcut_smth", "sel", "neuron", "axis_neuron", "resnet_dt"),
        *("type_one_side", "exclude_types", "set_davg_zero", "activation_function", "precision"),
        *("embeddings", "env_mat", "trainable", "ntypes"),
        "compress",  # a table made of the networks, which are here
    )
    if descriptor.given("env_mat"):
        env_mat = descriptor.node("env_mat")
        env_mat.only("protection", 0, 0.0, None)
        env_mat.only("use_exp_switch", False, None)
    fitting.only("type", "ener", default="ener")
    fitting.version(1, 2, 3, 4)
    fitting.only("mixed_types", False, None)
    fitting.only("dim_out", 1, default=1)
    fitting.nothing_else(
        *("type", "type_map", "ntypes", "dim_descrpt", "dim_out", "var_name", "neuron"),
        *("resnet_dt", "activation_function", "precision", "mixed_types", "nets", "atom_ener"),
        *("trainable", "rcond", "layer_name"),
    )


def _config(model: Node, excluded: list[tuple[int, int]]) -> ModelConfig:
    descriptor, fitting = model.node("descriptor"), model.node("fitting")
    precisions = {_precision(descriptor), _precision(fitting)}
    precision = "float32" if precisions == {"float32"} else "float64"
    data = {
        "type_map": model.names("type_map"),
        "descriptor": {
            "rcut": descriptor.number("rcut"),
            "rcut_smth": descriptor.number("rcut_smth"),
            "sel": descriptor.integers("sel"),
            "neuron": descriptor.integers("neuron"),
            "axis_neuron": int(descriptor.number("axis_neuron")),
            "activation_function": _activation(descriptor),
            "resnet_dt": descriptor.flag("resnet_dt"),
            "type_one_side": descriptor.flag("type_one_side"),
            "exclude_types": excluded,
            "set_davg_zero": descriptor.flag("set_davg_zero"),
            "precision": precision,
        },
        "fitting_net": {
            "neuron": fitting.integers("neuron"),
            "activation_function": _activation(fitting),
            "resnet_dt": fitting.flag("resnet_dt"),
            "precision": precision,
        },
        "repulsion": None,
    }
    try:
        return parse(ModelConfig, data, model.where())
    except InputError as e:
        raise ModelFileError(str(e)) from None


def _precision(section: Node) -> str:
    """'float32' or 'float64': the networks' arithmetic."""
    return str(section.only("precision", "float64", "float32", default="float64"))


def _activation(section: Node) -> str:
    name = section.text("activation_function").lower()
    if name not in ACTIVATIONS:
        raise section.refusal(
            "activation_function",
            f"'{name}' is not supported (nothing here but functions with two derivatives); only "
            + ", ".join(sorted(ACTIVATIONS)),
        )
    return name


def _min_distance(root: Node) -> float:
    """Smallest distance in the data that the model was trained on, Å."""
    variables = root.node("@variables") if root.given("@variables") else root
    if not variables.given("min_nbor_dist"):
        return DEFAULT_DISTANCE
    found = variables.number("min_nbor_dist")
    if not 0 < found < 100:
        raise variables.refusal("min_nbor_dist", f"expected a distance in Å, found {found}")
    return found


def _scales(descriptor: Node, n_types: int) -> tuple[torch.Tensor, torch.Tensor]:
    """davg and dstd, each (n_types, 4), which the file repeats for every slot."""
    variables = descriptor.node("@variables")
    slots = sum(descriptor.integers("sel"))
    found = []
    for key in ("davg", "dstd"):
        each = variables.array(key, (n_types, slots, 4)).astype(np.float64)
        if (each != each[:, :1]).any():
            raise variables.refusal(
                key, "differs from slot to slot; expected one row for each type"
            )
        found.append(torch.from_numpy(each[:, 0].copy()))
    davg, dstd = found
    if davg[:, 1:].any():
        raise variables.refusal("davg", "means of x, y and z are not 0; only that of 1/r may be")
    if not (dstd > 0).all():
        raise variables.refusal("dstd", "holds deviations that are not positive")
    return davg, dstd


def _exclusions(root: Node, davg: torch.Tensor) -> list[tuple[int, int]]:
    """Pairs of types that do not see each other.

    Here, as in TensorFlow, neither neighbours nor empty slots of such a pair count. Where davg is
    not 0 DeePMD-kit's other backends count the empty slots; their energy then jumps when an atom
    passes the cutoff, which no sum of smooth terms does.
    """
    model = root.node("model")
    descriptor = model.node("descriptor")
    by_descriptor = descriptor.pairs("exclude_types") if descriptor.given("exclude_types") else []
    by_model = model.pairs("pair_exclude_types") if model.given("pair_exclude_types") else []
    smooth = not davg.any()
    for node, key, pairs, possible in (
        (descriptor, "exclude_types", by_descriptor, root.values.get("backend") == "TensorFlow"),
        (model, "pair_exclude_types", by_model, False),
    ):
        if pairs and not (possible or smooth):
            raise node.refusal(
                key,
                f"{pairs} together with davg that is not 0 makes energies jump at the cutoff; "
                "only with set_davg_zero: true",
            )
    return sorted({(min(pair), max(pair)) for pair in by_descriptor + by_model})


def _energy_bias(model: Node, n_types: int) -> torch.Tensor:
    """(n_types,) eV: that of the fitting and that of the model, which are added."""
    bias = model.node("fitting").node("@variables").array("bias_atom_e", (n_types, 1))
    total = bias[:, 0].astype(np.float64)
    if model.given("@variables") and model.node("@variables").given("out_bias"):
        out_bias = model.node("@variables").array("out_bias", (1, n_types, 1))
        total = total + out_bias[0, :, 0].astype(np.float64)
    return torch.from_numpy(total)


def _subtract_vacuum(potential: Potential, fitting: Node) -> None:
    """With `atom_ener`, the energy of an element is relative to that of a descriptor of zeros."""
    if not fitting.given("atom_ener"):
        return
    given = fitting.values["atom_ener"]
    n_types = len(potential.type_map)
    if not isinstance(given, list) or len(given) not in (0, n_types):
        raise fitting.refusal("atom_ener", f"expected a list of {n_types} energies or nulls")
    d = potential.config.descriptor
    empty = torch.zeros(1, d.neuron[-1] * d.axis_neuron, dtype=potential.dtype)
    for a, energy in enumerate(given):
        if energy is not None:
            potential.energy_bias[a] -= potential.fitting[a](empty)[0].double()


# --- networks -------------------------------------------------------------------------------


def _embedding(config: ModelConfig, descriptor: Node) -> dict[str, torch.Tensor]:
    """Parameters of the embedding networks under their names in the potential."""
    d, n_types = config.descriptor, len(config.type_map)
    networks = _collection(descriptor.node("embeddings"), 1 if d.type_one_side else 2, n_types)
    if d.type_one_side:
        ordered = networks
    else:  # G_ab stands at a + n_types · b there, at a · n_types + b here
        ordered = [networks[a + n_types * b] for a in range(n_types) for b in range(n_types)]
    copies: list[dict[str, torch.Tensor] | None] = []
    for p, network in enumerate(ordered):
        a, b = divmod(p, n_types)
        if not d.type_one_side and (min(a, b), max(a, b)) in d.exclude_types:
            copies.append(None)  # never evaluated; the file may have left it out
            continue
        layers = _layers(descriptor, "embeddings", network, len(d.neuron))
        copies.append(_hidden(layers, 1, d.neuron, d.activation_function, d.resnet_dt))
    known = [copy for copy in copies if copy is not None]
    if not known:
        raise descriptor.refusal("exclude_types", "every pair of types is excluded")
    zeros = {name: torch.zeros_like(x) for name, x in known[0].items()}
    return {name: torch.stack([(copy or zeros)[name] for copy in copies]) for name in known[0]}


def _fitting(config: ModelConfig, fitting: Node, network: Node | None) -> dict[str, Any]:
    """Parameters of the network from descriptor to energy of one element."""
    d, f = config.descriptor, config.fitting_net
    *layers, last = _layers(fitting, "nets", network, len(f.neuron) + 1)
    n_in = d.neuron[-1] * d.axis_neuron
    hidden = _hidden(layers, n_in, f.neuron, f.activation_function, f.resnet_dt)
    found = {name: x[None] for name, x in hidden.items()}
    weight, bias, step = _layer(last, (f.neuron[-1], 1), "none", residual=False)
    if step is not None:
        raise last.refusal("@variables", "a time step 'idt' of the last layer is not supported")
    return {**found, "weight_out": weight[:, 0], "bias_out": bias}


def _collection(nets: Node, ndim: int, n_types: int) -> list[Node | None]:
    nets.version(1)
    nets.only("ndim", ndim)
    nets.only("ntypes", n_types)
    return nets.nodes("networks", n_types**ndim)


def _layers(parent: Node, key: str, network: Node | None, count: int) -> list[Node]:
    if network is None:
        raise parent.refusal(key, "a network is null; expected its weights")
    network.version(1, 2)
    layers = [layer for layer in network.nodes("layers", count) if layer is not None]
    if len(layers) != count:
        raise network.refusal("layers", "a layer is null; expected its weights")
    return layers


def _hidden(
    layers: Sequence[Node], n_in: int, widths: Sequence[int], activation: str, resnet_dt: bool
) -> dict[str, torch.Tensor]:
    """`weight_l` (in, out), `bias_l` (1, out) and `step_l` (1, out) of the hidden layers."""
    found = {}
    for number, (layer, n_out) in enumerate(zip(layers, widths, strict=True)):
        residual = n_out in (n_in, 2 * n_in)
        weight, bias, step = _layer(layer, (n_in, n_out), activation, residual)
        if (step is not None) != (resnet_dt and residual):
            raise layer.refusal("@variables", "the time step 'idt' does not agree with resnet_dt")
        found[f"weight_{number}"] = weight
        found[f"bias_{number}"] = bias[None]
        if step is not None:
            found[f"step_{number}"] = step[None]
        n_in = n_out
    return found


def _layer(
    layer: Node, shape: tuple[int, int], activation: str, residual: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Weight (in, out), bias (out,), zero where there is none, and time step (out,) or None."""
    layer.version(1, 2)
    found, linear = layer.text("activation_function").lower(), {"none", "linear"}
    if found != activation and not {found, activation} <= linear:
        raise layer.refusal("activation_function", f"'{found}' where '{activation}' is expected")
    if residual and not layer.flag("resnet"):
        raise layer.refusal("resnet", "layers without residual connection are not supported")
    variables = layer.node("@variables")
    weight = torch.from_numpy(variables.array("w", shape).copy())
    bias, step = torch.zeros(shape[1], dtype=weight.dtype), None
    if variables.given("b"):
        bias = torch.from_numpy(variables.array("b", shape[1:]).copy())
    if variables.given("idt"):
        step = torch.from_numpy(variables.array("idt", shape[1:]).copy())
    return weight, bias, step
