"""Models with frame parameters (`fparam`) as the same models at fixed values of them.

DeePMD-kit's fitting network takes the parameters of a frame, an electronic temperature say, beside
the descriptor: z = D·W_D + ((fparam − avg) · inv_std)·W_p + bias. At fixed values their share of
the first layer is a constant, that is a bias: the model without them is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..system import InputError
from .networks import collection, with_constant_inputs
from .tree import Node


def at_frame_parameters(
    model: Node, fparam: Sequence[float] | None
) -> tuple[Node, list[float] | None]:
    """The model that `model` is at the frame parameters `fparam`, and these.

    `fparam` None: its own `default_fparam`. A model without frame parameters is returned as it is,
    with None. Raises ModelFileError, naming the key, where the model needs parameters that are not
    there and where no network without them equals it; InputError for parameters that it cannot use.
    """
    fitting = model.node("fitting")
    fitting.only("numb_aparam", 0, None)
    number = int(fitting.number("numb_fparam")) if fitting.given("numb_fparam") else 0
    if number == 0:
        if fparam is not None:
            raise InputError(
                f"fparam {list(fparam)}: {model.place} takes no frame parameters "
                "(numb_fparam is 0); leave them out"
            )
        return model, None
    values = _values(fitting, number, fparam)
    variables = fitting.node("@variables")
    average, inverse = (
        variables.array(key, (number,)).astype(np.float64)
        for key in ("fparam_avg", "fparam_inv_std")
    )
    nets = fitting.node("nets")
    n_types, ndim = len(model.names("type_map")), 0 if fitting.flag("mixed_types") else 1
    n_free, n_layers = int(fitting.number("dim_descrpt")), len(fitting.integers("neuron")) + 1
    networks = [
        None
        if network is None
        else with_constant_inputs(
            network, n_layers, n_free, (np.array(values) - average) * inverse, "frame parameters"
        )
        for network in collection(nets, ndim, n_types)
    ]
    without = {
        **fitting.values,
        "numb_fparam": 0,
        "default_fparam": None,
        "nets": {**nets.values, "networks": networks},
    }
    return Node({**model.values, "fitting": without}, model.place, model.parents), values


def _values(fitting: Node, number: int, fparam: Sequence[float] | None) -> list[float]:
    if fparam is None and not fitting.given("default_fparam"):
        raise fitting.refusal(
            "numb_fparam",
            f"{number} frame parameter(s) without default_fparam: fix them with "
            f"`dpl convert … --fparam {' '.join(['X', 'Y', 'Z', '…'][:number])}`",
        )
    given = fitting.values["default_fparam"] if fparam is None else list(fparam)
    numbers = isinstance(given, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in given
    )
    if not numbers or len(given) != number:
        sentence = f"expected {number} frame parameter(s), finite numbers; found {given!r:.60}"
        if fparam is None:
            raise fitting.refusal("default_fparam", sentence)
        raise InputError(f"fparam: {sentence}")
    return [float(x) for x in given]
