"""A target that may change linearly with the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ...system import InputError


@dataclass
class Ramp:
    """From `first` at step number `start` to `last` `steps` later, and `last` from there on."""

    first: float
    last: float
    steps: int = 0
    """Without meaning where first and last are equal."""
    start: int = 0

    def __post_init__(self) -> None:
        if self.first != self.last and self.steps < 1:
            raise InputError(
                f"ensemble: a ramp from {self.first:g} to {self.last:g} must know the steps of "
                "the whole run: give Simulation 'steps'"
            )

    def __call__(self, step: int) -> float:
        """The target at the end of step number `step` (the first is number 0)."""
        if self.first == self.last:
            return self.last
        part = min(1.0, max(0.0, (step + 1 - self.start) / self.steps))
        return self.first + (self.last - self.first) * part
