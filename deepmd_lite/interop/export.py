"""A potential as the tree from which DeePMD-kit makes models of its backends."""

from __future__ import annotations

import numpy as np
import torch

from ..model import Potential
from ..model.descriptor import Descriptor
from ..model.typed_networks import Shared
from ..system import InputError
from . import nodes
from .deepmd_kit import SOFTWARE
from .nodes import Tree


def tree_of(potential: Potential) -> Tree:
    """The tree of `potential`, as `deepmd_kit.potential_from_tree` reads it; weights bit for bit.

    Raises InputError for a model with a repulsion of close pairs, which DeePMD-kit cannot add, or
    with a short-range table, and for one whose embedding networks are lost.
    """
    if potential.repulsion is not None:
        raise InputError(
            "the model adds a ZBL repulsion of close pairs, which DeePMD-kit cannot express; "
            "leave it out (dpl convert --without-repulsion: nothing changes but pairs closer than "
            "in the data), or train one without it (in the input: model: {repulsion: null})"
        )
    if potential.short_range is not None:
        raise InputError(
            "the model has a short-range table (use_srtab), which DeePMD-kit's portable files hold "
            "only beside descriptors with a type embedding, not beside se_e2_a or se_e2_r"
        )
    config, type_map = potential.config, potential.type_map
    if any(d.second_degree for d in config.descriptors):
        raise InputError("the model has a descriptor se_e2_q, which DeePMD-kit does not know")
    shared = potential.shared
    if shared is not None and _is_dpa1(potential, shared):
        parts, sections = [_dpa1(potential, shared)], [_dpa1_section(potential, shared)]
        fitting = _shared_fitting(potential, shared)
    else:
        parts = [_descriptor(potential, descriptor) for descriptor in potential.descriptors]
        sections = [_section(d) for d in potential.descriptors]
        fitting = _fitting(potential)
    model = nodes.model(
        type_map,
        nodes.one_or_hybrid(parts),
        fitting,
        np.zeros((1, len(type_map), 1)),
        np.ones((1, len(type_map), 1)),
        {"atom_exclude_types": [], "pair_exclude_types": []},
    )
    script = {
        "type_map": type_map,
        "descriptor": sections[0]
        if len(sections) == 1
        else {"type": nodes.HYBRID, "list": sections},
        "fitting_net": {
            **config.fitting_net.model_dump(exclude={"atom_ener"}, exclude_defaults=True),
            "type": "ener",
        },
    }
    return {
        "software": SOFTWARE,
        "backend": "dpmodel",
        "model": model,
        "model_def_script": script,
        "@variables": {"min_nbor_dist": np.array(potential.min_distance)},
    }


def _section(descriptor: Descriptor) -> Tree:
    """The section of the training input that describes it."""
    d = descriptor.config
    given = d.model_dump(exclude={"type", "sel"}, exclude_defaults=True)
    return {**given, "type": d.type, "sel": descriptor.sel}


def _descriptor(potential: Potential, descriptor: Descriptor) -> Tree:
    d, n_types = descriptor.config, len(potential.type_map)
    networks = [_embedding_network(descriptor, p) for p in range(descriptor.embedding.copies)]
    if not d.type_one_side:  # G_ab stands at a · n_types + b here, at a + n_types · b there
        networks = [networks[a * n_types + b] for b in range(n_types) for a in range(n_types)]
    ndim = 1 if d.type_one_side else 2
    embeddings = nodes.collection(networks, ndim, n_types, "embedding_network")
    section = _keys(potential, descriptor)
    return nodes.descriptor(section, embeddings, *_scales(descriptor))


def _keys(potential: Potential, descriptor: Descriptor) -> Tree:
    """Keys of a descriptor."""
    d = descriptor.config
    return {
        "type": "se_r" if d.radial else "se_e2_a",
        "type_map": potential.type_map,
        "rcut": d.rcut,
        "rcut_smth": d.rcut_smth,
        "sel": descriptor.sel,
        "neuron": d.neuron,
        **({} if d.radial else {"axis_neuron": d.axis_neuron}),
        "resnet_dt": d.resnet_dt,
        "trainable": True,
        "type_one_side": d.type_one_side,
        "exclude_types": [list(pair) for pair in d.exclude_types],
        "env_protection": d.env_protection,
        "set_davg_zero": d.set_davg_zero,
        "activation_function": d.activation_function,
        "precision": potential.precision,
    }


def _scales(descriptor: Descriptor) -> list[np.ndarray]:
    """davg and dstd, of each slot."""
    columns = 1 if descriptor.config.radial else 4
    return [
        np.repeat(scale.numpy()[:, None, :columns], sum(descriptor.sel), axis=1)
        for scale in (descriptor.davg, descriptor.dstd)
    ]


def _embedding_network(descriptor: Descriptor, p: int) -> Tree:
    d, own = descriptor.config, descriptor.embedding_networks()
    layers = []
    for number in range(len(d.neuron)):
        weight, bias, step = own.parameters_of(number)
        step = None if step is None else step[p, 0]
        layers.append(_layer(weight[p], bias[p, 0], step, d.activation_function))
    return nodes.embedding_network(layers, d.resnet_dt)


def _fitting(potential: Potential) -> Tree:
    f = potential.config.fitting_net
    networks = []
    for network in potential.fitting_networks():
        hidden = zip(network.weights, network.biases, network.steps, strict=True)
        layers = [_layer(w, b, s, f.activation_function) for w, b, s in hidden]
        output = _layer(network.weight_out[:, None], network.bias_out, None, "none", False)
        networks.append(nodes.fitting_network([*layers, output], f.resnet_dt))
    nets = nodes.collection(networks, 1, len(networks), "fitting_network")
    return _fitting_node(potential, nets, sum(d.width for d in potential.config.descriptors))


def _fitting_node(potential: Potential, nets: Tree, n_inputs: int) -> Tree:
    f = potential.config.fitting_net
    section = {
        "type_map": potential.type_map,
        "dim_descrpt": n_inputs,
        "neuron": f.neuron,
        "resnet_dt": f.resnet_dt,
        "activation_function": f.activation_function,
        "precision": potential.precision,
        "numb_fparam": 0,
        **nodes.FITTING_OFF,
        "mixed_types": nets["ndim"] == 0,
        "exclude_types": [],
        "trainable": [True] * (len(f.neuron) + 1),
        "atom_ener": None,
    }
    variables = {
        "bias_atom_e": potential.energy_bias.numpy()[:, None].copy(),
        **dict.fromkeys(("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")),
        "case_embd": None,
    }
    return nodes.fitting(section, nets, variables)


def _layer(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    step: torch.Tensor | None,
    activation: str,
    residual: bool = True,
) -> Tree:
    w, b, idt = (None if x is None else x.detach().numpy().copy() for x in (weight, bias, step))
    assert w is not None
    return nodes.layer(w, b, idt, activation, residual, True)


# --- networks that all elements share ------------------------------------------------------------


def _is_dpa1(potential: Potential, shared: Shared) -> bool:
    """Whether DeePMD-kit's DPA-1 says the same.

    Its vectors come from one linear layer, and its empty slots are of no element, so that they may
    not count.
    """
    types, descriptor = shared.type_embedding, potential.descriptor
    linear = len(types.neuron) == 1 and types.activation_function in ("linear", "none")
    return linear and (types.fades or not descriptor.davg.any())


def _dpa1_section(potential: Potential, shared: Shared) -> Tree:
    """The section of the training input that describes it."""
    types, (d,) = shared.type_embedding, shared.config(potential.config).descriptors
    given = d.model_dump(exclude={"type", "sel"}, exclude_defaults=True)
    return {
        **given,
        **{"type": "se_atten", "sel": sum(potential.descriptor.sel), "attn_layer": 0},
        **{"set_davg_zero": not potential.descriptor.davg.any(), "tebd_dim": types.neuron[0]},
        **{key: getattr(types, key) for key in _OF_TYPES},
    }


_OF_TYPES = ("tebd_input_mode", "concat_output_tebd", "use_tebd_bias", "smooth_type_embedding")
_ATTENTION = {
    **{"scaling_factor": 1.0, "normalize": True, "temperature": None},
    **{"trainable_ln": True, "ln_eps": 1e-5},
}
"""Of the layers of attention that there are not."""


def _dpa1(potential: Potential, shared: Shared) -> Tree:
    descriptor, types = potential.descriptor, shared.type_embedding
    d, stripped, n_types = descriptor.config, types.tebd_input_mode == "strip", len(descriptor.sel)
    made_of = (len(d.neuron), d.activation_function, potential.dtype)
    told = None if stripped else shared.arrays["embedding.type_weight"]
    prefix = "embedding.network." if stripped else "embedding."
    network = nodes.embedding_network(_layers(shared, prefix, *made_of, told), d.resnet_dt)
    embeddings = nodes.collection([network], 0, n_types, "embedding_network")
    vectors = _layers(shared, "type_embedding.", 1, "Linear", potential.dtype)
    of_vectors = nodes.embedding_network(vectors, False)
    keys = {
        **{**_keys(potential, descriptor), **_dpa1_section(potential, shared), **_ATTENTION},
        **{"type": "dpa1", "sel": [sum(descriptor.sel)], "ntypes": n_types},
        **{"attn": 128, "attn_dotr": True, "attn_mask": False, "use_econf_tebd": False},
        "precision": potential.precision,
        "type_embedding": nodes.type_embedding(of_vectors, {}, potential.type_map),
        "attention_layers": {
            **{"@class": "NeighborGatedAttention", "@version": 1, "layer_num": 0},
            **{"nnei": sum(descriptor.sel), "embed_dim": d.neuron[-1], "hidden_dim": 128},
            **{"do_mask": False, "dotr": True, **_ATTENTION},
            **{"precision": potential.precision, "attention_layers": []},
        },
    }
    if stripped:
        layers = _layers(shared, "embedding.of_types.", *made_of)
        strip = nodes.embedding_network(layers, d.resnet_dt)
        keys["embeddings_strip"] = nodes.collection([strip], 0, n_types, "embedding_network")
    return nodes.descriptor(keys, embeddings, *_scales(descriptor))


def _shared_fitting(potential: Potential, shared: Shared) -> Tree:
    f, arrays = potential.config.fitting_net, shared.arrays
    made_of = (len(f.neuron), f.activation_function, potential.dtype)
    layers = _layers(shared, "fitting.network.", *made_of, arrays.get("fitting.type_weight"))
    ends = (arrays[f"fitting.network.{k}_out"] for k in ("weight", "bias"))
    weight, bias = (x.to(potential.dtype) for x in ends)
    output = _layer(weight[:, None], bias, None, "none", False)
    network = nodes.fitting_network([*layers, output], f.resnet_dt)
    nets = nodes.collection([network], 0, len(potential.type_map), "fitting_network")
    return _fitting_node(potential, nets, network["in_dim"])


def _layers(
    shared: Shared,
    prefix: str,
    n_layers: int,
    activation: str,
    dtype: torch.dtype,
    told: torch.Tensor | None = None,
) -> list[Tree]:
    """Those of one network; `told`: rows of its first layer that multiply the vectors."""
    made = []
    for number in range(n_layers):
        weight, bias, step = (
            None if x is None else x[0].to(dtype)
            for x in (
                shared.arrays.get(f"{prefix}{k}_{number}") for k in ("weight", "bias", "step")
            )
        )
        assert weight is not None
        if number == 0 and told is not None:
            weight = torch.cat([weight, told.to(dtype)])
        made.append(_layer(weight, bias, step, activation))
    return made
