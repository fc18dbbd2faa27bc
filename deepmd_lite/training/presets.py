"""Networks, learning rates and losses that were tried out, by name, and inputs made of them.

How they do, in accuracy and in speed: docs/training.md, `benchmarks/presets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..data import System, load
from ..data.frames import elements_of
from ..system import InputError
from .rate_config import OWN_KEYS

PresetName = Literal["fast", "balanced", "accurate"]
DEFAULT: PresetName = "balanced"
START_LR_FROM_MODEL = 1e-3
"""`start_lr` of every preset where a training begins with the weights of a model."""
BATCH = "auto:192"
"""Atoms of a step, at least. With fewer, steps are as many as the overhead lets them be; with more,
they are too few (docs/training-measurements.md)."""
LINEAR_BEYOND = [0.1, 1.0, 1.0]
"""eV/atom, eV/Å, eV/atom: far above the errors of a model, so that on clean data nothing changes;
a few frames of atoms that nearly touch do not spoil the others (docs/training-measurements.md)."""
HELD_OUT = 0.1
"""Share of the frames that an input made from data validates on."""


def _preset(embedding: list[int], fitting: list[int], *, l_max: int, steps: int) -> dict[str, Any]:
    return {
        "model": {
            "descriptor": {
                "type": "se_e2_q",
                "rcut": 6.0,
                "rcut_smth": 2.0,
                "neuron": embedding,
                "axis_neuron": 4,
                "l_max": l_max,
                "cubic_neuron": 8,
                "type_one_side": True,
                "precision": "float32",
            },
            "fitting_net": {"neuron": fitting, "precision": "float32"},
        },
        # half a cosine: an exponential decay spends most of its steps at rates that teach nothing
        "learning_rate": {"type": "cosine", "start_lr": 1e-2, "stop_lr": 1e-5},
        "loss": {
            "start_pref_e": 0.2,
            "limit_pref_e": 20.0,
            "start_pref_f": 1000.0,
            "limit_pref_f": 100.0,
            "start_pref_v": 0.2,
            "limit_pref_v": 20.0,
            "linear_beyond": LINEAR_BEYOND,
        },
        "training": {"training_data": {"batch_size": BATCH}, "numb_steps": steps},
    }


_WITHOUT_VIRIALS = {"loss": {"start_pref_v": 0.0, "limit_pref_v": 0.0}}
PRESETS: dict[str, dict[str, Any]] = {
    "fast": _preset([32, 32, 16], [64, 64, 64], l_max=2, steps=8_000),
    "balanced": _preset([64, 64, 16], [128, 128, 128], l_max=3, steps=20_000),
    "accurate": _preset([64, 64, 16], [240, 240, 240], l_max=4, steps=60_000),
}
"""Tables stand for the embeddings, so that their hidden layers cost an evaluation nothing; their
last layers, the features, do, and few are enough."""
_INSTEAD = {
    "loss/linear_beyond": ("loss_func", "use_huber", "relative_f"),
    "model/descriptor/neuron": ("n_neuron",),
    "model/descriptor/axis_neuron": ("n_axis_neuron",),
    "model/fitting_net/neuron": ("n_neuron",),
    "learning_rate/stop_lr": ("stop_lr_ratio",),
    "training/numb_steps": (
        *("stop_batch", "num_step", "num_steps", "numb_step"),
        *("num_epoch", "num_epochs", "numb_epoch", "numb_epochs", "time_limit"),
    ),
}
"""A preset's key → keys of its section, or other names of it, with which it is not needed."""
_NOTHING = {"loss_func": "mse", "use_huber": False, "relative_f": None}
"""Values with which a key is as good as left out."""


def with_preset(
    source: Mapping[str, Any], where: str, from_model: bool = False
) -> Mapping[str, Any]:
    """The content of an input with the values of its preset for keys that it does not give.

    `from_model`: the training begins with a model, which a high learning rate would undo. Raises
    InputError, naming `where`, for a descriptor of another type than the preset's.
    """
    preset = PRESETS.get(str(source.get("preset")))
    if preset is None:  # there is none, or one that the schema will name
        return source
    model = source.get("model")
    descriptor = model.get("descriptor") if isinstance(model, Mapping) else None
    wanted = preset["model"]["descriptor"]["type"]
    if isinstance(descriptor, Mapping) and descriptor.get("type", wanted) != wanted:
        raise InputError(
            f"{where}: preset '{source['preset']}' is of descriptor {wanted}, and "
            f"model/descriptor/type is '{descriptor['type']}'; leave out one of the two"
        )
    rates = {**preset["learning_rate"], **_schedule(source.get("learning_rate"))}
    if from_model:
        rates["start_lr"] = START_LR_FROM_MODEL
    return _filled(source, {**preset, "learning_rate": rates})


def _schedule(own: Any) -> dict[str, str]:
    """The type of learning rate that keys of the section belong to, where there are such keys."""
    kinds = [OWN_KEYS[key] for key in own if key in OWN_KEYS] if isinstance(own, Mapping) else []
    return {"type": kinds[0]} if kinds else {}


def _says(given: Mapping[str, Any], name: str) -> bool:
    return name in given and (name not in _NOTHING or given[name] != _NOTHING[name])


def _filled(given: Mapping[str, Any], preset: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The section `given` with what it lacks of the preset's; `where`: 'section/' of all above."""
    found = dict(given)
    for key, value in preset.items():
        own = found.get(key)
        if isinstance(value, Mapping) and (own is None or isinstance(own, Mapping)):
            found[key] = _filled(own or {}, value, f"{where}{key}/")
        elif not any(_says(given, name) for name in (key, *_INSTEAD.get(where + key, ()))):
            found[key] = value
    return found


def input_of(
    data: str | Path | Sequence[str | Path],
    systems: Sequence[System] | None = None,
    validation: str | Path | Sequence[str | Path] | None = None,
) -> dict[str, Any]:
    """The content of an input that trains on `data`, paths as for `data.load`.

    It has a preset, the elements of the data, and a tenth of the frames held out, unless it
    validates on `validation`, other paths. `systems`: the data, where they were read. Raises
    InputError for data that are missing or wrong, or have no labels.
    """
    read = load(data) if systems is None else systems
    frames = [frame for system in read for frame in system.frames]
    without = {} if any(f.virial is not None for f in frames) else _WITHOUT_VIRIALS
    return {
        "preset": DEFAULT,
        "model": {"type_map": elements_of(frames)},
        **without,
        "training": {
            "training_data": {"systems": _paths(data)},
            **(
                {"held_out": HELD_OUT}
                if validation is None
                else {"validation_data": {"systems": _paths(validation)}}
            ),
        },
    }


def _paths(data: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(path) for path in ([data] if isinstance(data, (str, Path)) else data)]
