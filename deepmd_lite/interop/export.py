"""A potential as the tree from which DeePMD-kit makes models of its backends."""

from __future__ import annotations

import numpy as np
import torch

from ..model import Potential
from ..model.descriptor import Descriptor
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
    parts = [_descriptor(potential, descriptor) for descriptor in potential.descriptors]
    model = nodes.model(
        type_map,
        nodes.one_or_hybrid(parts),
        _fitting(potential),
        np.zeros((1, len(type_map), 1)),
        np.ones((1, len(type_map), 1)),
        {"atom_exclude_types": [], "pair_exclude_types": []},
    )
    sections = [_section(d) for d in potential.descriptors]
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
    """Of the training input."""
    d = descriptor.config
    given = d.model_dump(exclude={"type", "sel"}, exclude_defaults=True)
    return {**given, "type": d.type, "sel": descriptor.sel}


def _descriptor(potential: Potential, descriptor: Descriptor) -> Tree:
    d, n_types = descriptor.config, len(potential.type_map)
    networks = [_embedding_network(descriptor, p) for p in range(descriptor.embedding.copies)]
    if not d.type_one_side:  # G_ab stands at a · n_types + b here, at a + n_types · b there
        networks = [networks[a * n_types + b] for b in range(n_types) for a in range(n_types)]
    section = {
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
    ndim = 1 if d.type_one_side else 2
    embeddings = nodes.collection(networks, ndim, n_types, "embedding_network")
    davg, dstd = (
        np.repeat(scale.numpy()[:, None, : 1 if d.radial else 4], sum(descriptor.sel), axis=1)
        for scale in (descriptor.davg, descriptor.dstd)
    )
    return nodes.descriptor(section, embeddings, davg, dstd)


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
    section = {
        "type_map": potential.type_map,
        "dim_descrpt": sum(d.width for d in potential.config.descriptors),
        "neuron": f.neuron,
        "resnet_dt": f.resnet_dt,
        "activation_function": f.activation_function,
        "precision": potential.precision,
        "numb_fparam": 0,
        "numb_aparam": 0,
        "dim_case_embd": 0,
        "default_fparam": None,
        "mixed_types": False,
        "exclude_types": [],
        "rcond": None,
        "tot_ener_zero": False,
        "trainable": [True] * (len(f.neuron) + 1),
        "use_aparam_as_mask": False,
        "atom_ener": None,
    }
    variables = {
        "bias_atom_e": potential.energy_bias.numpy()[:, None].copy(),
        **dict.fromkeys(("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")),
        "case_embd": None,
    }
    nets = nodes.collection(networks, 1, len(networks), "fitting_network")
    return nodes.fitting(section, nets, variables)


def _layer(
    weight: torch.Tensor,
    bias: torch.Tensor,
    step: torch.Tensor | None,
    activation: str,
    residual: bool = True,
) -> Tree:
    w, b = weight.detach().numpy().copy(), bias.detach().numpy().copy()
    idt = None if step is None else step.detach().numpy().copy()
    return nodes.layer(w, b, idt, activation, residual, True)
