"""Models with a type embedding as the same models without: a network for each pair of types.

Where the vector of a type is an input beside a scalar or a descriptor, its share of the first layer
is a constant of the type, that is a bias: z = s·w_s + t_b·W_b + t_a·W_a + bias. The folded networks
are therefore exact. Two descriptors have that form: `se_atten` (DPA-1) without attention layers, of
which empty slots may not count, since they have a type of their own there; and `se_e2_a` with a key
`type_embedding`, as TensorFlow has it. Input order: scalar, neighbour's vector, centre's vector.

With `tebd_input_mode: strip` DPA-1 has G_ab(s) = G(s) ⊙ (1 + f g_ab), g_ab a second network of the
vectors and f 1, or with `smooth_type_embedding` a fading with the distance (see `model.fading`):
one of our own nodes holds G and the factors,

    {"@class": "ScaledEmbedding", "@version": 1, "embedding": collection of the one network,
     "fading": null, "switch" or "cubic", "@variables": {"factors": (n_types or n_types², M)}}

rows by neighbour b, or at a · n_types + b, always so with a fading.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..model.activations import VALUES
from ..model.config import ModelConfig
from ..model.type_embedding_config import DPA1, MOST_TYPES, SMOOTHED, TypeEmbeddingConfig
from ..model.typed_networks import Shared
from .networks import (
    activation,
    arrays,
    collection,
    fitting_parameters,
    layers,
    parameters_of,
    with_constant_inputs,
)
from .tree import Node


def folded(model: Node) -> Node:
    """`model` itself if it has no type embedding, else the `se_e2_a` model that equals it.

    Raises ModelFileError, naming the key, where nothing equals it.
    """
    descriptor, fitting = model.node("descriptor"), model.node("fitting")
    is_dpa1 = descriptor.values.get("type") in DPA1
    if descriptor.values.get("type") == SMOOTHED:
        implied = {"tebd_input_mode": "strip", "smooth_type_embedding": True}
        descriptor = Node({**descriptor.values, **implied}, descriptor.place, descriptor.parents)
    if not is_dpa1 and not descriptor.given("type_embedding"):
        return model
    descriptor.only("type", "se_e2_a", "se_a", *DPA1)
    if is_dpa1:
        _check_dpa1(descriptor, bool(model.values.get("pair_exclude_types")))
    n_types = len(model.names("type_map"))
    if n_types > MOST_TYPES:
        raise model.refusal(
            "type_map",
            f"{n_types} types with a type embedding need as many tables as pairs of them; at most "
            f"{MOST_TYPES} are supported: fine-tune it to the elements you need",
        )
    vectors = _vectors(descriptor.node("type_embedding"), n_types)
    one_side = descriptor.flag("type_one_side")
    stripped = descriptor.values.get("tebd_input_mode") == "strip"
    embeddings = _scaled_embedding if stripped else _folded_embeddings
    values = {
        **{k: v for k, v in descriptor.values.items() if k not in DPA1_KEYS},
        "@version": 2,
        "type": "se_e2_a",
        "type_one_side": one_side and not _fades(descriptor),
        "embeddings": embeddings(descriptor, vectors, one_side),
    }
    if is_dpa1:  # one number for all types; only their sum matters here
        (total,) = descriptor.integers("sel")
        values["sel"] = [total // n_types + (a < total % n_types) for a in range(n_types)]
    joined = not is_dpa1 or descriptor.flag("concat_output_tebd")
    folded_fitting = _folded_fitting(fitting, vectors if joined else None, n_types)
    return Node(
        {**model.values, "descriptor": values, "fitting": folded_fitting},
        model.place,
        model.parents,
    )


DPA1_KEYS = (
    *("tebd_dim", "tebd_input_mode", "type_embedding", "concat_output_tebd", "use_econf_tebd"),
    *("use_tebd_bias", "attn", "attn_layer", "attn_dotr", "attn_mask", "attention_layers"),
    *("scaling_factor", "normalize", "temperature", "trainable_ln", "ln_eps", "lmax"),
    *("smooth_type_embedding", "embeddings_strip"),  # with "strip" or attention only
    *("fading", "type_factors"),  # our own
)
"""Keys of DPA-1 that mean nothing once its type embedding is folded."""


def _check_dpa1(descriptor: Node, excludes: bool) -> None:
    """`excludes`: whether the model excludes pairs of types that the descriptor does not name."""
    descriptor.version(1, 2, 3, 4)
    descriptor.only("attn_layer", 0)
    descriptor.only("tebd_input_mode", "concat", "strip", default="concat")
    descriptor.only("lmax", 1, None)
    variables = descriptor.node("@variables")
    if not variables.array("davg", (-1, -1, 4)).any():
        return
    if not _fades(descriptor):
        raise variables.refusal(
            "davg",
            "not 0 together with a type embedding, which gives empty slots a type of their own; "
            "only models with set_davg_zero: true, or with strip and smooth_type_embedding",
        )
    if excludes or descriptor.values.get("exclude_types"):
        raise variables.refusal(
            "davg",
            "not 0 together with exclude_types makes energies jump at the cutoff; only with "
            "set_davg_zero: true",
        )


def _fades(descriptor: Node) -> bool:
    """Whether the share of the type embedding fades with the distance."""
    return descriptor.values.get("tebd_input_mode") == "strip" and descriptor.flag(
        "smooth_type_embedding"
    )


def _vectors(embedding: Node, n_types: int) -> np.ndarray:
    """(n_types, width) float64: the network of the type embedding at the unit vectors."""
    embedding.version(1, 2)
    embedding.only("use_econf_tebd", False, None)
    embedding.only("ntypes", n_types)
    n_layers = len(embedding.integers("neuron"))
    return _output(embedding.node("embedding"), n_layers, np.eye(n_types))


def _output(network: Node, n_layers: int, x: np.ndarray) -> np.ndarray:
    """(n, width) float64: a network at inputs (n, n_in)."""
    for layer in layers(network, network, n_layers):
        weight, bias, step = arrays(layer, (x.shape[1], -1))
        y = VALUES[activation(layer)](torch.from_numpy(x @ weight + bias)).numpy()
        y = y if step is None else y * step
        copies = {x.shape[1]: 1, 2 * x.shape[1]: 2}.get(weight.shape[1], 0)
        x = y + np.tile(x, copies) if copies and layer.flag("resnet") else y
    return x


def _folded_embeddings(descriptor: Node, vectors: np.ndarray, one_side: bool) -> dict[str, Any]:
    n_types = len(vectors)
    network = _single(descriptor.node("embeddings"))
    n_vectors = 1 if one_side else 2
    pairs = [(0, b) for b in range(n_types)]
    if not one_side:  # G_ab stands at a + n_types · b
        pairs = [(a, b) for b in range(n_types) for a in range(n_types)]
    networks, n_layers = [], len(descriptor.integers("neuron"))
    for a, b in pairs:
        inputs = np.concatenate([vectors[b], vectors[a]][:n_vectors])
        networks.append(with_constant_inputs(network, n_layers, 1, inputs, "type embedding"))
    return _collection(1 if one_side else 2, n_types, networks)


def _scaled_embedding(descriptor: Node, vectors: np.ndarray, one_side: bool) -> dict[str, Any]:
    """See the top of this module."""
    n_types, fading = len(vectors), None
    inputs = vectors
    if not one_side:
        centre, neighbor = np.repeat(vectors, n_types, axis=0), np.tile(vectors, (n_types, 1))
        inputs = np.hstack([neighbor, centre])
    n_layers = len(descriptor.integers("neuron"))
    if descriptor.given("type_factors"):  # of a compressed model, whose network is lost
        factors = descriptor.array("type_factors", (len(inputs), -1))
    else:
        factors = _output(_single(descriptor.node("embeddings_strip")), n_layers, inputs)
    if _fades(descriptor):
        fading = descriptor.only("fading", "switch", "cubic", default="switch")
        factors = np.tile(factors, (n_types, 1)) if one_side else factors
    return {
        "@class": "ScaledEmbedding",
        "@version": 1,
        "embedding": descriptor.node("embeddings").values,
        "fading": fading,
        "@variables": {"factors": factors},
    }


def _folded_fitting(fitting: Node, vectors: np.ndarray | None, n_types: int) -> dict[str, Any]:
    """One network for each type, from the one that all types share."""
    fitting.only("mixed_types", True)
    for key in ("numb_fparam", "numb_aparam", "dim_case_embd"):
        fitting.only(key, 0, None)
    if any(energy is not None for energy in fitting.values.get("atom_ener") or ()):
        raise fitting.refusal("atom_ener", "is not supported together with a type embedding")
    network = _single(fitting.node("nets"))
    n_inputs = int(fitting.number("dim_descrpt"))
    networks = [network.values] * n_types
    if vectors is not None:
        n_inputs -= vectors.shape[1]
        n_layers = len(fitting.integers("neuron")) + 1
        networks = [
            with_constant_inputs(network, n_layers, n_inputs, vector, "type embedding")
            for vector in vectors
        ]
    return {
        **fitting.values,
        "mixed_types": False,
        "dim_descrpt": n_inputs,
        "nets": _collection(1, n_types, networks),
    }


# --- the weights themselves, for a training that goes on with them -------------------------------


def shared_networks(model: Node, config: ModelConfig) -> Shared | None:
    """The networks that all types share in `model`, which `folded` takes apart into `config`.

    None where they are not shared, or lost (a compressed model), or fade in a way that is not
    trained here (TensorFlow's `strip`).
    """
    descriptor = model.node("descriptor")
    if not descriptor.given("type_embedding"):
        return None
    smoothed = descriptor.values["type"] == SMOOTHED
    stripped = smoothed or descriptor.values.get("tebd_input_mode") == "strip"
    tabulated = descriptor.node("embeddings").values.get("@class") == "TabulatedEmbedding"
    if tabulated or descriptor.values.get("fading", "switch") != "switch":
        return None
    types, one_side = descriptor.node("type_embedding"), descriptor.flag("type_one_side")
    widths, network = types.integers("neuron"), types.node("embedding")
    of_vectors = layers(network, network, len(widths))
    joined = descriptor.values["type"] not in DPA1 or descriptor.flag("concat_output_tebd")
    section = TypeEmbeddingConfig(
        neuron=widths,
        activation_function=activation(of_vectors[0]),
        resnet_dt=any(arrays(layer)[2] is not None for layer in of_vectors),
        use_tebd_bias=any(arrays(layer)[1].any() for layer in of_vectors),
        tebd_input_mode="strip" if stripped else "concat",
        smooth_type_embedding=stripped and (smoothed or descriptor.flag("smooth_type_embedding")),
        concat_output_tebd=joined,
    )
    (d,), n_types, width = config.descriptors, len(config.type_map), section.neuron[-1]
    n_told = width if one_side else 2 * width
    of_types = section.neuron, section.activation_function, section.resnet_dt
    own = d.neuron, d.activation_function, d.resnet_dt
    found = _arrays("type_embedding", network, n_types, *of_types)
    if not section.use_tebd_bias:
        found = {name: x for name, x in found.items() if ".bias_" not in name}
    network = _single(descriptor.node("embeddings"))
    if stripped:
        found |= _arrays("embedding.network", network, 1, *own)
        strip = _single(descriptor.node("embeddings_strip"))
        found |= _arrays("embedding.of_types", strip, n_told, *own)
    else:
        found |= _told(_arrays("embedding", network, 1 + n_told, *own), "embedding", 1)
    nets, n_in = model.node("fitting").node("nets"), d.width + joined * width
    fitting = fitting_parameters(config.fitting_net, n_in, nets, _single(nets))
    found |= {f"fitting.network.{name}": x for name, x in fitting.items()}
    if joined:
        found = _told(found, "fitting", d.width, "network.")
    return Shared(section, one_side, found)


def _arrays(
    name: str, network: Node, n_in: int, widths: list[int], activation: str, resnet_dt: bool
) -> dict[str, torch.Tensor]:
    found = layers(network, network, len(widths))
    parameters = parameters_of(found, n_in, widths, activation, resnet_dt)
    return {f"{name}.{key}": x[None] for key, x in parameters.items()}


def _told(
    arrays: dict[str, torch.Tensor], name: str, n_free: int, inner: str = ""
) -> dict[str, torch.Tensor]:
    """With the rows of the first layer that multiply the vectors as `type_weight`."""
    first = f"{name}.{inner}weight_0"
    weight = arrays[first]
    split = {first: weight[:, :n_free], f"{name}.type_weight": weight[0, n_free:]}
    return {**arrays, **{key: x.contiguous() for key, x in split.items()}}


def _single(nets: Node) -> Node:
    """The one network of all types."""
    (network,) = collection(nets, 0, int(nets.number("ntypes")))
    if network is None:
        raise nets.refusal("networks", "the network is null; expected its weights")
    return network


def _collection(ndim: int, n_types: int, networks: list[Any]) -> dict[str, Any]:
    return {"@version": 1, "ndim": ndim, "ntypes": n_types, "networks": networks}
