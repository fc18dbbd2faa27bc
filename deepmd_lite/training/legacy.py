"""Inputs of DeePMD-kit 0 and 1 in the sections of version 2.

Version 1 has `systems`, `batch_size` and the like in `training` itself; version 0 has no sections
at all. Each key goes to the one place where it belongs; what has none stays where it is unknown, so
that the schema names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..system import InputError

_DATA = (
    *("systems", "set_prefix", "batch_size", "auto_prob", "auto_prob_style"),
    *("sys_probs", "sys_prob", "sys_weights"),
)
_DESCRIPTOR = {
    "sel_a": "sel",
    "rcut": "rcut",
    "rcut_smth": "rcut_smth",
    "filter_neuron": "neuron",
    "axis_neuron": "axis_neuron",
    "n_axis_neuron": "axis_neuron",
    "filter_resnet_dt": "resnet_dt",
}
_FITTING = {
    "fitting_neuron": "neuron",
    "n_neuron": "neuron",
    "fitting_resnet_dt": "resnet_dt",
    "resnet_dt": "resnet_dt",
}
_RATE = ("start_lr", "decay_steps", "decay_rate")
_DROPPED = {
    "axis_rule": "the smooth descriptor has no axes",
    "sel_r": "the smooth descriptor sees all neighbours alike",
    "restart": "to go on, dpl train --restart",
    "load_ckpt": "to start from a model, dpl train --init-model",
    "coord_norm": "what the descriptor is made of is always normalised",
    "type_fitting_net": "every element has a network of its own",
}
"""Key without a meaning for the smooth descriptor or a new training → the note that is given."""


def modern(source: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], list[str]]:
    """The input in version 2's sections, and notes if it was older.

    Raises InputError, naming `where`, for a version 0 input of the descriptor without smoothing.
    """
    training = source.get("training")
    if "model" not in source and "training" not in source and "systems" in source:
        notes = [f"{key} is ignored: {why}" for key, why in _DROPPED.items() if source.get(key)]
        return _from_0(source, where), ["read as an input of DeePMD-kit 0", *notes]
    if isinstance(training, Mapping) and "systems" in training:
        return {**source, "training": _with_data(training)}, ["read as an input of DeePMD-kit 1"]
    return source, []


def _with_data(training: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1's `training` with its data in a section of their own."""
    if "training_data" in training:
        raise InputError(
            "training/systems and training/training_data: the first is of DeePMD-kit 1, the second "
            "of later versions; give one of them"
        )
    data = {k: v for k, v in training.items() if k in _DATA}
    return {**{k: v for k, v in training.items() if k not in _DATA}, "training_data": data}


def _from_0(source: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not source.get("use_smooth", False):
        raise InputError(
            f"{where}: use_smooth is not true: the descriptor of DeePMD-kit 0 without smoothing "
            "(loc_frame) is not supported; give a model section with descriptor se_e2_a"
        )
    model: dict[str, Any] = {"descriptor": {"type": "se_e2_a"}, "fitting_net": {}}
    rate: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    training: dict[str, Any] = {}
    for key, value in source.items():
        if key in _DESCRIPTOR:
            model["descriptor"][_DESCRIPTOR[key]] = value
        elif key in _FITTING:
            if key == "fitting_resnet_dt" or _FITTING[key] not in model["fitting_net"]:
                model["fitting_net"][_FITTING[key]] = value
        elif key == "type_map":
            model["type_map"] = value
        elif key in _RATE:
            rate[key] = value
        elif key.startswith(("start_pref_", "limit_pref_")):
            loss[key] = value
        elif key not in (*_DROPPED, "use_smooth"):
            training[key] = value
    model["descriptor"].setdefault("rcut_smth", source.get("rcut"))
    if "seed" in source:
        model["descriptor"]["seed"] = model["fitting_net"]["seed"] = source["seed"]
    return {
        "model": model,
        "learning_rate": rate,
        "loss": loss,
        "training": _with_data(training),
    }
