"""A trained model, and data: the same model with a committee in its file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..committee import Committee
from ..data import Frame, OfModel, System, load, prepare
from ..files import write_atomically
from ..model import Potential, load_model, save_model
from ..model.frame_parameters import refuse_free
from ..model.members import Members
from ..page import png
from ..progress import progress, telling
from ..system import InputError
from .calibration import Calibration, compared, picture, rms
from .posterior import Information, draw
from .rows import each_frame, n_parameters

log = logging.getLogger(__name__)

MOST_PARAMETERS = 6_000
"""Of all last layers: a dense matrix of their square is diagonalised."""
SHOWN = 4
"""Frames that a warning names."""
Data = str | Path | Sequence[str | Path] | Sequence[System]


@dataclass(frozen=True)
class Fitted:
    """What `add_uncertainty` did."""

    potential: Potential
    """With its members."""
    calibration: Calibration
    """On the frames that it was calibrated on."""


@torch.inference_mode(False)
@torch.enable_grad()
def add_uncertainty(
    model: str | Path,
    data: Data,
    *,
    validation: Data | None = None,
    output: str | Path | None = None,
    elements: Sequence[str] | None = None,
    n_members: int = 8,
    seed: int = 1,
    plot: str | Path | None = None,
    quiet: bool = False,
) -> Fitted:
    """Give a trained model a committee of last layers, so that it says how far to trust it.

    `model`: a `.dpl` file, trained here or converted; `data`: what it was trained on, with forces:
    paths, or systems that were read; `validation`: data that it was not trained on, by whose errors
    the spread of the committee is scaled. Without any it is scaled by those on `data`, which are
    smaller.
    `elements`: what integers stand for in data without a type map of their own (default: those of
    the model). `output`: the file to write (default: in the place of `model`); energies, forces and
    virials of the model stay to the bit. `plot`: a picture (PNG) of errors against deviations.

    Takes the time of ten to a hundred evaluations of each frame. Raises InputError for data without
    forces or without an element of the model, and for a model with too many elements.
    """
    if n_members < 2:
        raise InputError(f"members: expected 2 or more, found {n_members}")
    if seed < 0:
        raise InputError(f"seed: expected 0 or more, found {seed}")
    with telling(quiet):
        potential = load_model(model, "float64")
        refuse_free(potential, str(model))
        potential.members = None
        parameters = n_parameters(potential)
        if parameters > MOST_PARAMETERS:
            raise InputError(
                f"{model}: {len(potential.type_map)} elements have {parameters} weights in their "
                f"last layers, at most {MOST_PARAMETERS} can be treated; drop elements that are "
                "not needed (training with a shorter type_map from this model)"
            )
        elements = OfModel(potential.type_map) if elements is None else elements
        train = _read(data, elements, quiet)
        _check_elements(train, potential, str(model))
        held_out = _read(validation, elements, quiet) if validation is not None else None
        potential.members = _drawn(potential, train, n_members, seed, quiet)
        frames = [frame for system in held_out or train for frame in system.frames]
        told = progress(frames, "calibrating", quiet=quiet)
        each = (prepare([frame], potential.type_map, potential.rcut)[0] for frame in told)
        calibration = _without_deciding(compared(Committee.of_members(potential), each), frames)
        factor = calibration.factor
        calibration = calibration.scaled(factor)
        facts = {
            "frames": sum(len(system.frames) for system in train),
            "calibrated_on": f"{len(frames)} frames "
            + ("of the training" if held_out is None else "held out"),
            **calibration.facts(),
        }
        potential.members = potential.members.scaled(factor, facts)
        fitted = load_model(model)  # weights as they are in the file, never by way of float64
        fitted.members = potential.members
        save_model(fitted, output or model, fitted.provenance)
        if plot is not None:
            write_atomically(plot, png(picture(calibration), dpi=150))
        if held_out is None:
            log.warning(
                "scaled by errors on the training data, which are smaller than others: give "
                "validation data"
            )
        return Fitted(fitted, calibration)


def _without_deciding(found: Calibration, frames: Sequence[Frame]) -> Calibration:
    """Without the frames that alone would decide the factor, of which it tells.

    `frames`: those that were evaluated; `found` is of those with forces.
    """
    those = found.deciding()
    if not len(those):
        return found
    kept = found.without(those)
    sources = [f.source for f in frames if f.forces is not None and len(f.forces)]
    more = f" and {len(those) - SHOWN} more" if len(those) > SHOWN else ""
    log.warning(
        "uncertainty: %s: errors of up to %.3g eV/Å (root mean square of the others: %.2g), far "
        "from what deviates there, would decide how far all others are trusted; scaled without "
        "these frames: look at their labels",
        *(", ".join(sources[k] for k in those[:SHOWN]) + more, found.largest()[1][those].max()),
        rms(kept.errors),
    )
    return kept


def _read(data: Data, elements: Sequence[str], quiet: bool) -> list[System]:
    if isinstance(data, (str, Path)):
        return load(data, elements, quiet=quiet)
    systems = [d for d in data if isinstance(d, System)]
    return systems or load([d for d in data if not isinstance(d, System)], elements, quiet=quiet)


def _check_elements(systems: Sequence[System], potential: Potential, where: str) -> None:
    present = {symbol for system in systems for symbol in system.elements}
    missing = [name for name in potential.type_map if name not in present]
    if missing:
        raise InputError(
            f"{where}: knows {', '.join(missing)}, which the data lack: nothing could be said of "
            "its uncertainty there; give data with all elements of the model"
        )


def _drawn(
    potential: Potential, systems: Sequence[System], n_members: int, seed: int, quiet: bool
) -> Members:
    frames = [frame for system in systems for frame in system.frames]
    if not any(frame.forces is not None for frame in frames):
        raise InputError("uncertainty: expected data with forces, found none")
    information = Information(potential)
    each = each_frame(potential, frames, seed)
    for frame, rows in progress(each, "fitting", len(frames), quiet=quiet):
        information.add(potential, frame, rows)
    return draw(potential, information, n_members, seed)
