"""What one check has found."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


def badness(error: float) -> tuple[bool, float]:
    """By which errors are compared: nothing is worse than nan."""
    return math.isnan(error), error


@dataclass(frozen=True)
class Verdict:
    """A check, what it found, and what it allows."""

    name: str
    found: float | None
    """In `unit`; None where the check could not be made."""
    limit: float
    """Largest value of `found` that passes."""
    unit: str
    words: str = ""
    """Where the worst was found, or why the check could not be made, and what to do."""
    warns: bool = False
    """What fails here is a warning: the model may be of use all the same."""
    device: str = "cpu"
    """Where the model was evaluated."""

    @classmethod
    def worst(
        cls,
        name: str,
        errors: Iterable[tuple[float, str]],
        limit: float,
        unit: str,
        warns: bool = False,
    ) -> Verdict:
        """Of `errors`, each with the place where it was found, the largest; nowhere if all are
        0."""
        error, where = max([(0.0, ""), *errors], key=lambda x: badness(x[0]))
        return cls(name, float(error), limit, unit, where, warns)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; a check that could not be made does not fail."""
        return self.found is None or self.found <= self.limit  # nan fails

    @property
    def state(self) -> str:
        """ok, FAILED, warning or not made."""
        if self.found is None:
            return "not made"
        return "ok" if self.passed else ("warning" if self.warns else "FAILED")

    def row(self) -> dict[str, Any]:
        """For JSON."""
        finite = self.found is not None and math.isfinite(self.found)
        return {**asdict(self), "found": self.found if finite else None, "state": self.state}
