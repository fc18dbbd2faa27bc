"""Trainings whose numbers are no longer finite: what is said, and how they go on."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import PreparedFrame
from ..system import DeepmdLiteError
from .loss import Errors

SLOWER = 1.0 / 3.0
"""The learning rate of a training that goes back is that of the schedule times this."""
TIMES = 4
"""How often a training goes back before it ends: the rate is then an eightieth."""


class TrainingError(DeepmdLiteError):
    """A training that cannot go on."""


class Diverged(TrainingError):
    """Loss, gradient or weights are not finite; those of the last checkpoint are."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}: {advice}")
        self.what, self.advice = what, advice


def diverged(
    start: str, frames: Sequence[PreparedFrame], bad: Sequence[str], errors: Errors, saved: bool
) -> Diverged:
    """The error of a batch of `frames`, of which `bad` are described that are not finite alone.

    `start`: which number it is, and the step; `saved`: there is a checkpoint.
    """
    if not bad:
        sources = ", ".join(f.frame.source for f in frames[:4])
        more = f" and {len(frames) - 4} more" if len(frames) > 4 else ""
        whole = f"{start} in the batch of {sources}{more} ({in_words(errors)})"
        return Diverged(f"{whole}, though it is for each frame alone", way_out(saved))
    reason = "check this frame, or "
    if len(bad) == len(frames) > 1:
        reason = "as every frame is affected the weights have probably diverged: "
    count = f"{len(bad)} of the {len(frames)} frames in the batch"
    return Diverged(f"{start} for {bad[0]}, {count}", way_out(saved, reason))


def way_out(saved: bool, reason: str = "") -> str:
    """What a user can do; `saved`: there is a checkpoint."""
    kept = "the last checkpoint is kept" if saved else "no checkpoint was written yet"
    return f"{kept}; {reason}start with a lower learning_rate/start_lr"


def in_words(errors: Errors) -> str:
    """The errors of a batch."""
    return f"energy RMSE {errors.energy:g} eV/atom, force RMSE {errors.force:g} eV/Å"
