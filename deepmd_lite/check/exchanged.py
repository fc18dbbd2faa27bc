"""Whether a system's energies are those of other elements: what chance leaves of such a finding.

Of thousands of systems some lie far from the common fit, and of many pairs of elements one would
put some of them right by chance. So an exchange counts only if hardly any system would be expected
so far off and so well mended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .survey import Survey, spread

LEAST_SYSTEMS, MANY_SYSTEMS = 20, 300
"""From which on the deviations of systems tell what is usual; from which on their last per cent
does."""
CHANCE, CHANCE_OF_FEW = 0.01, 0.05
"""Systems expected by chance where one is told; part of a shift that an exchange leaves, of few
systems, of which nobody knows what is usual."""


@dataclass
class Usual:
    """How far systems lie from a common fit, eV/atom, where nothing is wrong with them."""

    n: int
    width: float
    """Robust standard deviation; 0 where nobody knows."""
    tail: float
    decay: float
    """Beyond `tail` lies a `share` of them, e times fewer with each `decay`."""
    share: float

    @classmethod
    def of(cls, deviations: Sequence[float]) -> Usual:
        """From those of all systems but the one that is judged."""
        values = np.asarray(deviations)
        if len(values) < LEAST_SYSTEMS:
            return cls(len(values), 0.0, 0.0, 0.0, 1.0)
        low, high = (0.9, 0.99) if len(values) >= MANY_SYSTEMS else (0.5, 0.9)
        first, second = np.quantile(np.abs(values - np.median(values)), [low, high])
        decay = float(second - first) / math.log((1 - low) / (1 - high))
        return cls(len(values), spread(values), float(second), max(decay, 1e-9), 1 - high)

    @property
    def known(self) -> bool:
        """Whether there are systems enough to tell."""
        return self.decay > 0

    def so_far_off(self, shift: float) -> float:
        """How many systems are expected as far off by chance; 0 where nobody knows."""
        if not self.known:
            return 0.0
        return self.n * self.share * math.exp(min(0.0, -(abs(shift) - self.tail) / self.decay))


def exchange(
    survey: Survey,
    system: int,
    energies: tuple[np.ndarray, np.ndarray, np.ndarray],
    shift: float,
    usual: Usual,
) -> str:
    """'A and B' where exchanging them, and not chance, removes a shift (eV/atom) of a system.

    `energies`: shares of the elements (n, E) and energies per atom (n,) of its frames, constants
    (E,) of the elements in the other systems.
    """
    shares, per_atom, constants = energies
    meant = _type_map(survey.names[system])
    names = survey.elements
    may = [i for i, name in enumerate(names) if meant is None or name in meant]
    found: list[tuple[float, str]] = []
    for k, i in enumerate(may):
        for j in may[k + 1 :]:
            other = shares.copy()
            other[:, [i, j]] = other[:, [j, i]]
            if np.abs(other - shares).max() > 1e-6:
                left = abs(float(np.median(per_atom - other @ constants)))
                found.append((left, f"{names[i]} and {names[j]}"))
    if not found:
        return ""
    left, pair = min(found)
    chance = len(found) * max(left, usual.width) / abs(shift)
    if usual.known:
        return pair if usual.so_far_off(shift) * chance < CHANCE else ""
    return pair if chance < CHANCE_OF_FEW else ""


def _type_map(name: str) -> set[str] | None:
    """Elements that the `type_map.raw` of a folder, or of a set in it, lists; None without one."""
    for folder in (Path(name), Path(name).parent):
        path = folder / "type_map.raw"
        if path.is_file():
            return set(path.read_text(encoding="utf-8").split())
    return None
