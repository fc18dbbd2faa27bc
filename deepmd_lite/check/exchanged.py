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

from .survey import Survey, huber, robust_fit, spread

LEAST_SYSTEMS, MANY_SYSTEMS = 20, 300
"""From which on the deviations of systems tell what is usual; from which on their last per cent
does."""
CHANCE, CHANCE_OF_FEW = 0.01, 0.05
"""Systems expected by chance where one is told; part of a shift that an exchange leaves, of few
systems, of which nobody knows what is usual."""
ALONE = 1 - 1e-6
"""Leverage of a system from which on its composition is no combination of the others'."""


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
    seen: float
    """How many the decay is taken from: of few it is not known well."""

    @classmethod
    def of(cls, deviations: Sequence[float]) -> Usual:
        """From those of all systems but the one that is judged."""
        values = np.asarray(deviations)
        if len(values) < LEAST_SYSTEMS:
            return cls(len(values), 0.0, 0.0, 0.0, 1.0, 1.0)
        low, high = (0.9, 0.99) if len(values) >= MANY_SYSTEMS else (0.5, 0.9)
        first, second = np.quantile(np.abs(values - np.median(values)), [low, high])
        decay = float(second - first) / math.log((1 - low) / (1 - high))
        seen = (high - low) * len(values)
        return cls(len(values), spread(values), float(second), max(decay, 1e-9), 1 - high, seen)

    @property
    def known(self) -> bool:
        """Whether there are systems enough to tell."""
        return self.decay > 0

    def so_far_off(self, shift: float) -> float:
        """How many systems are expected as far off by chance; 0 where nobody knows."""
        if not self.known:
            return 0.0
        beyond = max(0.0, abs(shift) - self.tail) / self.decay
        return self.n * self.share * (1 + beyond / self.seen) ** -self.seen


def left_out(shares: np.ndarray, per_atom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S,) how far systems lie, eV/atom, from constants that are fitted to all others, of their
    shares (S, E) of the elements and energies (S,) per atom; NaN where the others do not tell. And
    (S,) the part of it that is their own: the rest comes from the errors of the constants.

    The system that is judged has no part in its fit either, and where few share an element, what is
    left of those that have is far smaller.
    """
    constants, scale = robust_fit(shares, per_atom)
    left = per_atom - shares @ constants
    weight = huber(left, scale)
    inverse = np.linalg.pinv((shares * weight[:, None]).T @ shares, rcond=1e-10, hermitian=True)
    unweighted = np.einsum("ij,jk,ik->i", shares, inverse, shares)
    rest = np.maximum(1 - weight * unweighted, 1 - ALONE)
    alone = np.einsum("ij,ji->i", shares, np.linalg.pinv(shares, rcond=1e-8)) > ALONE
    # with the weights of the common fit, which one of many systems hardly moves
    without = left / rest
    if len(left) < MANY_SYSTEMS:
        for k in np.flatnonzero(~alone):
            others = np.arange(len(left)) != k
            constants, _ = robust_fit(shares[others], per_atom[others])
            without[k] = per_atom[k] - shares[k] @ constants
    return np.where(alone, np.nan, without), 1 / np.sqrt(1 + unweighted / rest)


def spanned(given: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether the compositions `wanted` are combinations of those `given`."""
    rank = np.linalg.matrix_rank(given, tol=1e-6)
    return bool(np.linalg.matrix_rank(np.vstack([given, wanted]), tol=1e-6) == rank)


def exchange(
    survey: Survey,
    system: int,
    energies: tuple[np.ndarray, np.ndarray, np.ndarray],
    shift: float,
    usual: Usual,
    own: float = 1.0,
) -> str:
    """'A and B' where exchanging them, and not chance, removes a shift (eV/atom) of a system.

    Of deviations a part `own` is compared with what is `usual`.

    `energies`: shares of the elements (n, E) and energies per atom (n,) of its frames, constants
    (E,) of the elements in the other systems.
    """
    shares, per_atom, constants = energies
    meant = type_map_of(survey.names[system])
    names = survey.elements
    if meant is None:  # symbols were read: some may be exchanged, but none comes from elsewhere
        meant = {names[i] for i in np.flatnonzero(shares.any(axis=0))}
    may = [i for i, name in enumerate(names) if name in meant]
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
    chance = len(found) * max(left, usual.width / own) / abs(shift)
    if usual.known:
        return pair if usual.so_far_off(shift * own) * chance < CHANCE else ""
    return pair if chance < CHANCE_OF_FEW else ""


def type_map_of(name: str) -> set[str] | None:
    """Elements that the `type_map.raw` of a folder, or of a set in it, lists; None without one."""
    for folder in (Path(name), Path(name).parent):
        path = folder / "type_map.raw"
        if path.is_file():
            return set(path.read_text(encoding="utf-8").split())
    return None
