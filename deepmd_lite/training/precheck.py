"""A training does not begin on data that are wrong."""

from __future__ import annotations

from collections.abc import Sequence

from ..check import errors_before_training
from ..data import PreparedFrame
from ..system import InputError
from .config import TrainInput


def refuse_errors(
    training: Sequence[PreparedFrame], validation: Sequence[PreparedFrame], settings: TrainInput
) -> None:
    """Raise InputError with a line for each error that the check of data finds, if any."""
    found = errors_before_training(
        [p.frame for p in training],
        [p.frame for p in validation],
        cutoff=settings.model.descriptor.rcut,
        forces_trained=settings.loss.starts[1] + settings.loss.limits[1] > 0,
    )
    if found:
        raise InputError(
            "the data have errors (all of them: dpl check; training/check: false trains on them "
            "all the same)\n" + "\n".join(f"  [{f.code}] {f.what}; {f.do}" for f in found)
        )
