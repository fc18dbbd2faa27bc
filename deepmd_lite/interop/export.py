"""A potential as the tree from which DeePMD-kit makes models of its backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..model import Potential
from ..system import InputError
from .deepmd_kit import SOFTWARE


def tree_of(potential: Potential) -> dict[str, Any]:
    """The tree of `potential`, as `deepmd_kit.potential_from_tree` reads it; weights bit for bit.

    Raises InputError for a model with a repulsion of close pairs, which DeePMD-kit cannot add, and
    for one whose embedding networks are lost.
    """
    if potential.repulsion is not None:
        raise InputError(
            "the model adds a ZBL repulsion of close pairs, which DeePMD-kit cannot express; "
            "train one without it (in the input: model: {repulsion: null})"
        )
    config, type_map = potential.config, potential.type_map
    model = {
        "@class": "Model",
        "@version": 2,
        "type": "standard",
        "type_map": type_map,
        "atom_exclude_types": [],
        "pair_exclude_types": [],
        "rcond": None,
        "preset_out_bias": None,
        "@variables": {
            "out_bias": np.zeros((1, len(type_map), 1)),
            "out_std": np.ones((1, len(type_map), 1)),
        },
        "descriptor": _descriptor(potential),
        "fitting": _fitting(potential),
    }
    script = {
        "type_map": type_map,
        "descriptor": {
            **config.descriptor.model_dump(exclude={"type", "sel"}, exclude_defaults=True),
            "type": "se_e2_a",
            "sel": potential.sel,
        },
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


def _descriptor(potential: Potential) -> dict[str, Any]:
    d, n_types = potential.config.descriptor, len(potential.type_map)
    networks = [_embedding_network(potential, p) for p in range(potential.embedding.copies)]
    if not d.type_one_side:  # G_ab stands at a · n_types + b here, at a + n_types · b there
        networks = [networks[a * n_types + b] for b in range(n_types) for a in range(n_types)]
    slots = sum(potential.sel)
    return {
        "@class": "Descriptor",
        "@version": 2,
        "type": "se_e2_a",
        "type_map": potential.type_map,
        "rcut": d.rcut,
        "rcut_smth": d.rcut_smth,
        "sel": potential.sel,
        "neuron": d.neuron,
        "axis_neuron": d.axis_neuron,
        "resnet_dt": d.resnet_dt,
        "trainable": True,
        "type_one_side": d.type_one_side,
        "exclude_types": [list(pair) for pair in d.exclude_types],
        "env_protection": 0.0,
        "set_davg_zero": d.set_davg_zero,
        "activation_function": d.activation_function,
        "precision": potential.precision,
        "spin": None,
        "env_mat": {
            "rcut": d.rcut,
            "rcut_smth": d.rcut_smth,
            "protection": 0.0,
            "use_exp_switch": False,
        },
        "embeddings": _collection(
            "embedding_network", 1 if d.type_one_side else 2, n_types, networks
        ),
        "@variables": {
            key: np.repeat(scale.numpy()[:, None], slots, axis=1)
            for key, scale in (("davg", potential.davg), ("dstd", potential.dstd))
        },
    }


def _fitting(potential: Potential) -> dict[str, Any]:
    d, f, n_types = (
        potential.config.descriptor,
        potential.config.fitting_net,
        len(potential.type_map),
    )
    n_in = d.neuron[-1] * d.axis_neuron
    networks = []
    for network in potential.fitting_networks():
        hidden = zip(network.weights, network.biases, network.steps, strict=True)
        layers = [_layer(w, b, s, f.activation_function) for w, b, s in hidden]
        output = _layer(network.weight_out[:, None], network.bias_out, None, "none", resnet=False)
        networks.append(
            {
                "@class": "FittingNetwork",
                "@version": 1,
                "in_dim": n_in,
                "out_dim": 1,
                "neuron": f.neuron,
                "activation_function": f.activation_function,
                "resnet_dt": f.resnet_dt,
                "bias_out": True,
                "precision": potential.precision,
                "layers": [*layers, output],
            }
        )
    return {
        "@class": "Fitting",
        "@version": 4,
        "type": "ener",
        "var_name": "energy",
        "type_map": potential.type_map,
        "ntypes": n_types,
        "dim_descrpt": n_in,
        "dim_out": 1,
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
        "layer_name": None,
        "use_aparam_as_mask": False,
        "spin": None,
        "atom_ener": None,
        "nets": _collection("fitting_network", 1, n_types, networks),
        "@variables": {
            "bias_atom_e": potential.energy_bias.numpy()[:, None].copy(),
            **dict.fromkeys(("fparam_avg", "fparam_inv_std", "aparam_avg", "aparam_inv_std")),
            "case_embd": None,
        },
    }


def _embedding_network(potential: Potential, p: int) -> dict[str, Any]:
    d, own = potential.config.descriptor, potential.embedding_networks()
    layers = []
    for number in range(len(d.neuron)):
        weight, bias, step = own.parameters_of(number)
        step = None if step is None else step[p, 0]
        layers.append(_layer(weight[p], bias[p, 0], step, d.activation_function))
    return {
        "@class": "EmbeddingNetwork",
        "@version": 2,
        "in_dim": 1,
        "neuron": d.neuron,
        "activation_function": d.activation_function,
        "resnet_dt": d.resnet_dt,
        "bias": True,
        "precision": potential.precision,
        "layers": layers,
    }


def _collection(
    kind: str, ndim: int, n_types: int, networks: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "@class": "NetworkCollection",
        "@version": 1,
        "ndim": ndim,
        "ntypes": n_types,
        "network_type": kind,
        "networks": list(networks),
    }


def _layer(
    weight: torch.Tensor,
    bias: torch.Tensor,
    step: torch.Tensor | None,
    activation: str,
    resnet: bool = True,
) -> dict[str, Any]:
    arrays = {"w": weight, "b": bias, "idt": step}
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": True,
        "use_timestep": step is not None,
        "activation_function": activation,
        "resnet": resnet,
        "precision": str(weight.dtype).removeprefix("torch."),
        "trainable": True,
        "@variables": {
            name: None if x is None else x.detach().numpy().copy() for name, x in arrays.items()
        },
    }
