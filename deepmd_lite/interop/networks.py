"""Networks in the tree: collections of them, their layers, and the arrays of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..model.activations import ACTIVATIONS, VALUES
from ..model.config import FittingConfig
from .tree import Node


def collection(nets: Node, ndim: int, n_types: int) -> list[Node | None]:
    """The networks of all types (`ndim` 1), all pairs (2, a + n_types · b) or the only one (0)."""
    nets.version(1)
    nets.only("ndim", ndim)
    nets.only("ntypes", n_types)
    return nets.nodes("networks", n_types**ndim)


def layers(network: Node | None, nets: Node, count: int) -> list[Node]:
    """All `count` layers of a network of the collection `nets`."""
    if network is None:
        raise nets.refusal("networks", "a network is null; expected its weights")
    network.version(1, 2)
    found = [layer for layer in network.nodes("layers", count) if layer is not None]
    if len(found) != count:
        raise network.refusal("layers", "a layer is null; expected its weights")
    return found


def arrays(
    layer: Node, shape: tuple[int, int] = (-1, -1)
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Weight (in, out) of `shape`, bias (out,), 0 where there is none, and time step or None."""
    layer.version(1, 2)
    variables = layer.node("@variables")
    weight = variables.array("w", shape)
    width = weight.shape[1:]
    bias = variables.array("b", width) if variables.given("b") else np.zeros(width, weight.dtype)
    return weight, bias, variables.array("idt", width) if variables.given("idt") else None


def with_constant_inputs(
    network: Node, n_layers: int, n_free: int, inputs: np.ndarray, what: str
) -> dict[str, Any]:
    """The network of the first `n_free` inputs, the others being the constants `inputs`.

    Raises ModelFileError, calling the constants `what`, where there is no such network.
    """
    first, *others = layers(network, network, n_layers)
    weight, bias, _ = arrays(first)
    n_in, n_out = weight.shape
    if n_in != n_free + len(inputs):
        raise first.refusal(
            "@variables",
            f"w has {n_in} inputs; expected {n_free} and {len(inputs)} of the {what}",
        )
    if n_out in (n_in, 2 * n_in, n_free, 2 * n_free):
        raise first.refusal(
            "resnet",
            f"a first layer of {n_out} features on {n_in} inputs, the {what} among them, adds its "
            f"inputs to its output, which no network without {what} does",
        )
    shifted = bias + inputs @ weight[n_free:].astype(np.float64)
    variables = {"w": weight[:n_free], "b": shifted.astype(weight.dtype), "idt": None}
    own = {**first.values, "bias": True, "@variables": variables}
    return {**network.values, "layers": [own, *(layer.values for layer in others)]}


def activation(section: Node, smooth: bool = False) -> str:
    """The activation function of a network or layer, one of those known here.

    `smooth`: one of those that an embedding may have, which is tabulated with two derivatives.
    """
    name, known = section.text("activation_function").lower(), ACTIVATIONS if smooth else VALUES
    if name not in known:
        where = "in an embedding, which is tabulated; only" if smooth else "here; only"
        raise section.refusal(
            "activation_function", f"'{name}' is not supported {where} {', '.join(sorted(known))}"
        )
    return name


def parameters_of(
    found: Sequence[Node], n_in: int, widths: Sequence[int], name: str, resnet_dt: bool
) -> dict[str, torch.Tensor]:
    """`weight_l` (in, out), `bias_l` and `step_l` (1, out) of layers with activation `name`."""
    hidden = {}
    for number, (layer, n_out) in enumerate(zip(found, widths, strict=True)):
        residual = n_out in (n_in, 2 * n_in)
        weight, bias, step = layer_of(layer, (n_in, n_out), name, residual)
        if (step is not None) != (resnet_dt and residual):
            raise layer.refusal("@variables", "the time step 'idt' does not agree with resnet_dt")
        hidden[f"weight_{number}"] = weight
        hidden[f"bias_{number}"] = bias[None]
        if step is not None:
            hidden[f"step_{number}"] = step[None]
        n_in = n_out
    return hidden


def layer_of(
    layer: Node, shape: tuple[int, int], name: str, residual: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Weight, bias and time step of a layer that must have the activation `name`."""
    found, linear = activation(layer), {"none", "linear"}
    if found != name and not {found, name} <= linear:
        raise layer.refusal("activation_function", f"'{found}' where '{name}' is expected")
    if residual and not layer.flag("resnet"):
        raise layer.refusal("resnet", "layers without residual connection are not supported")
    weight, bias, step = arrays(layer, shape)
    return torch.tensor(weight), torch.tensor(bias), None if step is None else torch.tensor(step)


def fitting_parameters(
    f: FittingConfig, n_in: int, nets: Node, network: Node | None
) -> dict[str, torch.Tensor]:
    """Those of the network from `n_in` numbers to energy, under their names in `Fitting`."""
    *found, last = layers(network, nets, len(f.neuron) + 1)
    hidden = parameters_of(found, n_in, f.neuron, f.activation_function, f.resnet_dt)
    weight, bias, step = layer_of(last, (f.neuron[-1], 1), "none", residual=False)
    if step is not None:
        raise last.refusal("@variables", "a time step 'idt' of the last layer is not supported")
    own = {name: x[None] for name, x in hidden.items()}
    return {**own, "weight_out": weight[:, 0], "bias_out": bias}
