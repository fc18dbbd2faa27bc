"""A training does not begin on data that are wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..check import errors_in_sample
from ..data import Frame
from ..system import InputError
from .config import TrainInput

log = logging.getLogger(__name__)


def refuse_errors(frames: Sequence[Frame], settings: TrainInput, what: str) -> None:
    """Raise InputError with a line for each error in a data set, which is called `what`.

    A set without a label is left to the note on the loss, where that label is not trained, and
    energy zeros to `dpl check`: molecules beside a crystal can look like them.
    """
    names = ("energy", "force", "virial")
    parts = zip(names, settings.loss.starts, settings.loss.limits, strict=True)
    exempt = {f"{name}-missing" for name, start, limit in parts if start + limit == 0}
    exempt |= {"energy-zeros"}
    found = [
        finding
        for finding in errors_in_sample(frames, what, cutoff=settings.model.descriptor.rcut)
        if finding.code not in exempt
    ]
    if found:
        raise InputError(
            f"the {what} data have errors (dpl check shows all; with training/check: false they "
            "are trained on all the same)"
            + "".join(f"\n  [{f.code}] {f.what}; {f.do}" for f in found)
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


def _structure(frame: Frame) -> tuple[tuple[str, ...], bytes, bytes]:
    return frame.symbols, frame.positions.tobytes(), frame.cell.tobytes()
