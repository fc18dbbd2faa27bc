"""Forces of other atoms, components or frames: differences of energy do not follow from them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .finding import Finding
from .pairs import Pairs, moved_between
from .survey import Survey, correlation

CORRELATION = 0.85
"""Below it the work of the forces does not explain the energies."""
UNRELATED = 0.4
"""Below it, by two standard errors, the two have nothing to do with one another: an error."""
CONTRADICTED = 2.0
"""Uncertainties by which work and energies differ at the median; below, noise may be the reason.
In clean sets it is less than one half, with misplaced forces more than ten."""

Forces = Callable[[int], np.ndarray | None]


def misplaced(pairs: Pairs, left: np.ndarray, survey: Survey, name: str) -> Finding | None:
    """What `left` tells where it does not follow from the forces; None where it does, or is noise.

    `pairs`: P pairs with work of the forces; `left` (P,): what the virials leave of the differences
    of energy, over the uncertainty.
    """
    work = pairs.force_work / pairs.uncertainty
    found = abs(correlation(work, left))
    if found >= CORRELATION or np.median(np.abs(left - work)) < CONTRADICTED:
        return None
    meaning = _where_they_belong(pairs, left, survey)
    # Fisher's transformation; of pairs that share frames only so many are independent
    n_frames = len(np.union1d(pairs.first, pairs.second))
    above = np.tanh(np.arctanh(found) + 2.0 / np.sqrt(max(1, min(n_frames, len(pairs)) - 3)))
    return Finding(
        "error" if meaning or above < UNRELATED else "warning",
        "force-order",
        f"{name}: differences of energy of {len(pairs)} near pairs of frames do not follow from "
        f"the forces (correlation {found:.2f}, expected above {CORRELATION})",
        meaning or "look whether the forces are in another order of atoms or of another frame",
    )


def _where_they_belong(pairs: Pairs, left: np.ndarray, survey: Survey) -> str:
    """The exchange that makes forces explain energies, in words; empty if none of those tried."""

    def forces(k: int) -> np.ndarray:
        return np.asarray(survey.frames[k].forces)

    def of_frame(step: int) -> Forces:
        def other(k: int) -> np.ndarray | None:
            j = k + step
            if not 0 <= j < len(survey) or survey.system[j] != survey.system[k]:
                return None
            alike = survey.frames[j].symbols == survey.frames[k].symbols
            return survey.frames[j].forces if alike else None

        return other

    tried: dict[str, Forces] = {
        "the components are shifted by one: the first number is that of y": (
            lambda k: np.roll(forces(k), 1, axis=1)
        ),
        "the components are shifted by one: the first number is that of z": (
            lambda k: np.roll(forces(k), -1, axis=1)
        ),
        "each force is that of the atom before": lambda k: np.roll(forces(k), -1, axis=0),
        "each force is that of the atom after": lambda k: np.roll(forces(k), 1, axis=0),
        "the atoms of the forces are in reverse order": lambda k: forces(k)[::-1],
        "the forces are those of the frame before": of_frame(1),
        "the forces are those of the frame after": of_frame(-1),
    }
    explained = {what: _explained(pairs, left, survey, other) for what, other in tried.items()}
    best = max(explained, key=lambda what: explained[what])
    return best if explained[best] >= CORRELATION else ""


def _explained(pairs: Pairs, left: np.ndarray, survey: Survey, other: Forces) -> float:
    """Correlation of `left` with the work of `other` forces; 0 where few pairs have those."""
    work = np.full(len(pairs), np.nan)
    for p, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        first, second = other(int(i)), other(int(j))
        if first is not None and second is not None:
            moved = moved_between(survey.frames[i], survey.frames[j])
            work[p] = -0.5 * float(((first + second) * moved).sum())
    has = np.isfinite(work)
    if has.sum() < max(12, 0.5 * len(pairs)):
        return 0.0
    return correlation((work / pairs.uncertainty)[has], left[has])
