"""A training does not begin on data that are wrong."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np

from ..check import findings_in_sample
from ..check.coverage import ONLY_DIFFERENCES, alike, not_apart, unknown_bonds
from ..data import Batch, Frame, PreparedFrame
from ..system import InputError
from .config import TrainInput

log = logging.getLogger(__name__)

MOST_WARNINGS = 5
"""Of a data set, that are shown before a training."""


LABELS = {"energy": "energy", "force": "forces", "virial": "virial"}
"""As the loss calls them, and as frames do."""


def trained_labels(settings: TrainInput) -> list[str]:
    """Those with a part in the loss, by its names."""
    parts = zip(LABELS, settings.loss.starts, settings.loss.limits, strict=True)
    return [name for name, start, limit in parts if start + limit > 0]


def refuse_errors(
    frames: Sequence[Frame], settings: TrainInput, what: str, told: Collection[str] = ()
) -> None:
    """Raise InputError with a line for each error in a data set, which is called `what`.

    Warnings are told, a line each, the first few of many; `told`: labels of which it was told that
    some frames lack them.
    A set without a label is left to the note on the loss, where that label is not trained, and
    energy zeros to `dpl check`: molecules beside a crystal can look like them.
    """
    unasked = (set(LABELS) - set(trained_labels(settings))) | set(told)
    exempt = {f"{name}-missing" for name in unasked} | {"energy-zeros"}
    found = [
        finding
        for finding in findings_in_sample(frames, what, cutoff=settings.model.rcut)
        if finding.code not in exempt
    ]
    errors = [f for f in found if f.severity == "error"]
    warnings = [f for f in found if f.severity == "warning"]
    if errors:
        raise InputError(
            f"the {what} data have errors (dpl check shows all; with training/check: false they "
            "are trained on all the same)"
            + "".join(f"\n  [{f.code}] {f.what}; {f.do}" for f in errors)
        )
    for f in warnings[:MOST_WARNINGS]:
        log.warning("%s data: %s", what, f.line())
    if len(warnings) > MOST_WARNINGS:
        more = len(warnings) - MOST_WARNINGS
        log.warning("%s data: %d more warnings (dpl check shows all)", what, more)


def refuse_nothing_to_learn(frames: Sequence[PreparedFrame], rcut: float) -> None:
    """Raise InputError where no training frame counts, or none has two atoms within `rcut` Å."""
    if all(p.frame.weight == 0 for p in frames):
        raise InputError("training data: the weight of every frame is 0: nothing would be trained")
    if not any(p.n_edges for p in frames):
        raise InputError(
            f"training data: no two atoms are within rcut = {rcut:g} Å in any frame: there is no "
            "interaction to learn; check units and cells, or add frames of more than single atoms"
        )


def tell_what_is_unknown(frames: Sequence[PreparedFrame], settings: TrainInput) -> None:
    """What networks that begin with these frames cannot know: bonds of elements that have none in
    them, and energies of elements that compositions leave open and nobody gives."""
    elements = settings.model.type_map
    counting = [p for p in frames if p.frame.weight]
    counts = np.array([np.bincount(p.types, minlength=len(elements)) for p in counting])
    seeing = np.array([p.n_edges > 0 for p in counting])
    with_forces = np.array([p.frame.forces is not None for p in counting])
    for what, do in unknown_bonds(elements, counts, seeing, with_forces):
        log.warning("note: training data: %s; %s", what, do)
    given = settings.model.fitting_net.atom_ener or [None] * len(elements)
    free = [k for k, energy in enumerate(given) if energy is None]
    labelled = np.array([p.frame.energy is not None for p in counting])
    open_ones = alike([elements[k] for k in free], counts[labelled][:, free])
    if open_ones:
        log.info("note: training data: %s: %s", not_apart(open_ones), ONLY_DIFFERENCES)


def refuse_nothing_to_validate(sample: Sequence[Batch], settings: TrainInput) -> None:
    """Raise InputError where no frame of the validation sample has a label that the best model is
    chosen by: every loss would be no number."""
    weights = zip(LABELS.values(), settings.loss.fixed_weights, strict=True)
    wanted = [label for label, weight in weights if weight > 0]
    frames = [frame for batch in sample for frame in batch.frames]
    if all(getattr(frame, label) is None for frame in frames for label in wanted):
        raise InputError(
            f"validation data: none of the {len(frames)} frames that are validated on has a label "
            f"{' or '.join(map(repr, wanted))}, by which the best model is chosen "
            "(loss/limit_pref_e, _f, _v): add it, or leave out validation_data (held_out)"
        )


def warn_of_leakage(training: Sequence[Frame], validation: Sequence[Frame]) -> None:
    """Tell how many frames are in both sets, digit by digit (dpl check also sees moved ones)."""
    trained = {_structure(frame) for frame in training}
    leaked = sum(_structure(frame) in trained for frame in validation)
    if leaked:
        log.warning(
            "note: %d of %d validation frames are trained on too: validation errors will look "
            "better than they are",
            leaked,
            len(validation),
        )


def _structure(frame: Frame) -> tuple[tuple[str, ...], bytes, bytes, bytes]:
    fparam = b"" if frame.fparam is None else frame.fparam.tobytes()
    return frame.symbols, frame.positions.tobytes(), frame.cell.tobytes(), fparam
