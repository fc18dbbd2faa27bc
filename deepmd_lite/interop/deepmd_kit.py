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
from ..model.descriptor_config import DescriptorConfig
from ..model.fading import Distances, FadingEmbedding
from ..model.networks import Embedding
from ..model.potential import TABLE_REACH, prefixes_of
from ..model.statistics import Scales
from ..model.table_error import FINEST
from ..model.tabulated import ScaledEmbedding, TabulatedEmbedding
from ..model.type_embedding_config import DPA1
from ..schema import parse
from ..system import InputError, ModelFileError
from .frame_parameters import at_frame_parameters
from .hybrid import descriptors_of
from .networks import activation, collection, fitting_parameters, layers, parameters_of
from .nodes import HYBRID, RADIAL
from .short_range import Found, split
from .tables import tabulated, tabulated_embedding
from .tree import Node
from .type_embedding import folded, shared_networks

DEFAULT_DISTANCE = 0.6
"""Å: smallest distance assumed where the file does not say it; no bond but H–H is near it."""

SOFTWARE = "deepmd_lite"
"""What a tree says under `software` that was written here."""


def potential_from_tree(
    tree: dict[str, Any], place: str, fparam: Sequence[float] | None = None
) -> Potential:
    """The potential of a tree; `place` names its file in errors.

    `fparam`: the frame parameters at which a model that depends on them is taken, by default its
    own; they stand in the provenance. Raises ModelFileError for a part that is missing or not
    valid, and for one that this model cannot express, with its key and value; InputError for
    `fparam` that the model cannot use. The table has its first spacing, nothing is refined.
    """
    root = Node(tree, place)
    model, short_range = split(root)
    _check_model(model)
    model, fixed = at_frame_parameters(model, fparam)
    with_types, model = model, folded(model)
    fitting, parts = model.node("fitting"), descriptors_of(model)
    _check_parts(fitting, parts)
    n_types = len(model.names("type_map"))
    scales = [_scales(node, n_types) for node in parts]
    each = list(zip(parts, scales, strict=True))
    excluded = [_exclusions(root, model, node, s.davg) for node, s in each]
    config = _config(model, parts, excluded, short_range)
    statistics = Statistics(
        *(scales, _energy_bias(model, n_types), _min_distance(root)),
        short_range=None if short_range is None else short_range.part(config),
    )
    _reach_switch(config, statistics)
    parameters: dict[str, torch.Tensor] = {}
    embeddings, nearest = [], [config.table.min_distance or TABLE_REACH * statistics.min_distance]
    prefixes = prefixes_of(len(parts))
    for prefix, (node, s), d in zip(prefixes, each, config.descriptors, strict=True):
        tables = _scaled_embedding(d, s, node) or tabulated_embedding(node, d, s)
        embeddings.append(None if tables is None else tables[0])
        if tables is None:
            found = _embedding(d, n_types, node)
            parameters |= {f"{prefix}embedding.{k}": v for k, v in found.items()}
        elif tables[1] > 0:
            nearest.append(tables[1])
    if len(nearest) > 1:
        config.table.min_distance = max(nearest)
    nets, width = fitting.node("nets"), sum(d.width for d in config.descriptors)
    for a, network in enumerate(collection(nets, 1, n_types)):
        found = fitting_parameters(config.fitting_net, width, nets, network)
        parameters |= {f"fitting.{a}.{k}": v for k, v in found.items()}
    with torch.device("meta"):  # the arrays of the file take the place of the parameters
        potential = Potential(config, statistics, seed=None, embeddings=embeddings)
    for node, own in zip(parts, potential.descriptors, strict=True):
        if own.grid.n_intervals > FINEST:
            raise node.node("@variables").refusal(
                "dstd", f"too small for a table: {own.dstd[:, 0].tolist()}"
            )
    potential.load_state_dict(parameters, strict=False, assign=True)
    potential.to_precision(config.precision).requires_grad_(False)
    _subtract_vacuum(potential, fitting)
    potential.shared = shared_networks(with_types, config)
    if fixed is not None:
        potential.provenance["fparam"] = fixed
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
    model.node("descriptor").only("type", "se_e2_a", "se_a", *RADIAL, *DPA1, HYBRID)
    model.node("fitting").only("type", "ener", default="ener")


def _check_parts(fitting: Node, parts: Sequence[Node]) -> None:
    for descriptor in parts:
        _check_descriptor(descriptor)
    fitting.version(1, 2, 3, 4)
    fitting.only("mixed_types", False, None)
    fitting.only("dim_out", 1, default=1)
    fitting.nothing_else(
        *("type", "type_map", "ntypes", "dim_descrpt", "dim_out", "var_name", "neuron"),
        *("resnet_dt", "activation_function", "precision", "mixed_types", "nets", "atom_ener"),
        *("trainable", "rcond", "layer_name"),
    )


def _check_descriptor(descriptor: Node) -> None:
    descriptor.version(1, 2, 3)
    descriptor.nothing_else(
        *("type", "type_map", "rcut", "rcut_smth", "sel", "neuron", "axis_neuron", "resnet_dt"),
        *("type_one_side", "exclude_types", "set_davg_zero", "activation_function", "precision"),
        *("embeddings", "env_mat", "trainable", "ntypes"),
        "env_protection",
        "compress",  # a table made of the networks, which are here
    )
    if descriptor.given("env_mat"):
        env_mat = descriptor.node("env_mat")
        _check_protection(descriptor, env_mat)
        env_mat.only("use_exp_switch", False, None)


def _protection(descriptor: Node) -> float:
    """Å: what rows divide by beyond the distance."""
    return descriptor.number("env_protection") if descriptor.given("env_protection") else 0.0


def _check_protection(descriptor: Node, env_mat: Node) -> None:
    """The descriptor's counts in DeePMD-kit, which does not always repeat it in `env_mat`."""
    if env_mat.given("protection") and env_mat.number("protection") not in (
        0.0,
        _protection(descriptor),
    ):
        raise env_mat.refusal("protection", "differs from the descriptor's env_protection")


def _reach_switch(config: ModelConfig, statistics: Statistics) -> None:
    """Where a short-range table takes over, embeddings are needed down to where it alone counts."""
    if statistics.short_range is not None:
        reach = min(TABLE_REACH * statistics.min_distance, statistics.short_range.reach)
        config.table.min_distance = reach


def _config(
    model: Node,
    parts: Sequence[Node],
    excluded: Sequence[list[tuple[int, int]]],
    short_range: Found | None,
) -> ModelConfig:
    fitting = model.node("fitting")
    precisions = {_precision(section) for section in (*parts, fitting)}
    precision = "float32" if precisions == {"float32"} else "float64"
    each = [
        {**_descriptor(node), "exclude_types": pairs, "precision": precision}
        for node, pairs in zip(parts, excluded, strict=True)
    ]
    data = {
        "type_map": model.names("type_map"),
        "descriptor": each[0] if len(each) == 1 else {"type": HYBRID, "list": each},
        "fitting_net": {
            "neuron": fitting.integers("neuron"),
            "activation_function": activation(fitting),
            "resnet_dt": fitting.flag("resnet_dt"),
            "precision": precision,
        },
        "repulsion": None,
        **(short_range.keys if short_range is not None else {}),
    }
    try:
        return parse(ModelConfig, data, model.where())
    except InputError as e:
        raise ModelFileError(str(e)) from None


def _descriptor(node: Node) -> dict[str, Any]:
    """Its section of an input."""
    radial = node.values["type"] in RADIAL
    return {
        "type": "se_e2_r" if radial else "se_e2_a",
        "rcut": node.number("rcut"),
        "rcut_smth": node.number("rcut_smth"),
        "sel": node.integers("sel"),
        "neuron": node.integers("neuron"),
        **({} if radial else {"axis_neuron": int(node.number("axis_neuron"))}),
        "activation_function": activation(node, smooth=True),
        "resnet_dt": node.flag("resnet_dt"),
        "type_one_side": node.flag("type_one_side"),
        "set_davg_zero": node.flag("set_davg_zero"),
        "env_protection": _protection(node),
    }


def _precision(section: Node) -> str:
    """'float32' or 'float64': the networks' arithmetic."""
    return str(section.only("precision", "float64", "float32", default="float64"))


def _min_distance(root: Node) -> float:
    """Smallest distance in the data that the model was trained on, Å."""
    variables = root.node("@variables") if root.given("@variables") else root
    if not variables.given("min_nbor_dist"):
        return DEFAULT_DISTANCE
    found = variables.number("min_nbor_dist")
    if not 0 < found < 100:
        raise variables.refusal("min_nbor_dist", f"expected a distance in Å, found {found}")
    return found


def _scales(descriptor: Node, n_types: int) -> Scales:
    """sel, davg and dstd, which the file repeats for every slot."""
    variables, sel = descriptor.node("@variables"), descriptor.integers("sel")
    slots = sum(sel)
    columns = 1 if descriptor.values["type"] in RADIAL else 4
    found = []
    for key, missing in (("davg", 0.0), ("dstd", 1.0)):
        each = variables.array(key, (n_types, slots, columns)).astype(np.float64)
        each = np.pad(each, ((0, 0), (0, 0), (0, 4 - columns)), constant_values=missing)
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
    return Scales(davg, dstd, sel)


def _exclusions(
    root: Node, model: Node, descriptor: Node, davg: torch.Tensor
) -> list[tuple[int, int]]:
    """Pairs of types that do not see each other.

    Here, as in TensorFlow, neither neighbours nor empty slots of such a pair count. Where davg is
    not 0 DeePMD-kit's other backends count the empty slots; their energy then jumps when an atom
    passes the cutoff, which no sum of smooth terms does.
    """
    by_descriptor = descriptor.pairs("exclude_types") if descriptor.given("exclude_types") else []
    by_model = model.pairs("pair_exclude_types") if model.given("pair_exclude_types") else []
    if by_model and descriptor.values["type"] in RADIAL and not descriptor.flag("type_one_side"):
        raise model.refusal(
            "pair_exclude_types",
            f"{by_model} is not supported together with se_e2_r and type_one_side false",
        )
    smooth = not davg.any()
    ours = root.values.get("backend") == "TensorFlow" or root.values.get("software") == SOFTWARE
    for node, key, pairs, clear in (
        (descriptor, "exclude_types", by_descriptor, smooth or ours),
        (model, "pair_exclude_types", by_model, smooth),
    ):
        if pairs and not clear:
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
    width = sum(d.width for d in potential.config.descriptors)
    empty = torch.zeros(1, width, dtype=potential.dtype)
    for a, energy in enumerate(given):
        if energy is not None:
            potential.energy_bias[a] -= potential.fitting[a](empty)[0].double()


# --- networks -------------------------------------------------------------------------------


def _embedding(d: DescriptorConfig, n_types: int, descriptor: Node) -> dict[str, torch.Tensor]:
    """Parameters of the embedding networks under their names in the descriptor."""
    nets = descriptor.node("embeddings")
    networks = collection(nets, 1 if d.type_one_side else 2, n_types)
    if not d.type_one_side:  # G_ab stands at a + n_types · b there, at a · n_types + b here
        networks = [networks[a + n_types * b] for a in range(n_types) for b in range(n_types)]
    copies: list[dict[str, torch.Tensor] | None] = []
    for p, network in enumerate(networks):
        pair = tuple(sorted(divmod(p, n_types)))
        if network is None and pair in d.exclude_types and not d.type_one_side:
            copies.append(None)  # left out, since it is never evaluated
            continue
        found = layers(network, nets, len(d.neuron))
        copies.append(parameters_of(found, 1, d.neuron, d.activation_function, d.resnet_dt))
    known = [copy for copy in copies if copy is not None]
    if not known:
        raise nets.refusal("networks", "every network is null; expected weights")
    zeros = {name: torch.zeros_like(x) for name, x in known[0].items()}
    return {name: torch.stack([(copy or zeros)[name] for copy in copies]) for name in known[0]}


def _scaled_embedding(
    d: DescriptorConfig, scales: Scales, descriptor: Node
) -> tuple[TabulatedEmbedding, float] | None:
    """That of a `ScaledEmbedding` (see `type_embedding`); None for other embeddings.

    And how near two atoms may come, Å, where a table says it (see `tabulated_embedding`), or 0.
    """
    embeddings, n_types = descriptor.node("embeddings"), len(scales.sel)
    if embeddings.values.get("@class") != "ScaledEmbedding":
        return None
    n_tables = n_types if d.type_one_side else n_types**2
    rows = embeddings.node("@variables").array("factors", (n_tables, d.neuron[-1]))
    factors = torch.tensor(rows).double()
    nets, shortest = embeddings.node("embedding"), 0.0
    shared: Embedding | TabulatedEmbedding
    if nets.values.get("@class") == "TabulatedEmbedding":
        shared, shortest = tabulated(nets, 0, d, scales)
    else:
        (network,) = collection(nets, 0, n_types)
        found = layers(network, nets, len(d.neuron))
        weights = parameters_of(found, 1, d.neuron, d.activation_function, d.resnet_dt)
        shared = Embedding(1, 1, d.neuron, d.activation_function, d.resnet_dt, None)
        shared.load_state_dict({name: x[None] for name, x in weights.items()})
        shared.requires_grad_(False)
    fading = embeddings.only("fading", None, "switch", "cubic")
    if fading is None:
        return ScaledEmbedding(shared, 1.0 + factors), shortest
    davg, dstd = scales.davg[:, 0], scales.dstd[:, 0]
    distances = Distances(d.rcut, d.rcut_smth, d.env_protection, davg, dstd, fading)
    return FadingEmbedding(shared, factors, distances), shortest
