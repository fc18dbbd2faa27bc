"""Labels larger than those of any matter, as where all of a set are in one small unit.

Molecules tell it without pairs of near frames: electrons are bound so strongly at most, and bonds
to hydrogen are so stiff at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..system import InputError
from .elements import NONMETALS
from .finding import Finding, named
from .geometry import neighbors
from .survey import Survey, correlation, robust_fit

ATOM = 20.9
"""eV: the energy of an atom of number Z is −20.9 Z^(7/3) in the model of Thomas and Fermi, which is
deeper than all electrons of any atom are (oxygen: −2676 and −2040 eV)."""
DEEPEST = 1.5
"""Times that of free atoms, by this model. Ethanol with all electrons has 0.8 in eV, 18 in
kcal/mol; water with pseudopotentials 0.2 and 4."""
SMALL_UNIT = "look whether {}, or all labels, are in units of kcal/mol or kJ/mol"
STIFFEST = 250.0
"""eV/Å²: the slope of the force on hydrogen along its bond. C–H has 31, O–H 48 in eV, which are 714
and 1082 in kcal/mol."""
LENGTHS = (0.85, 1.2)
"""Over the sum of covalent radii: of bonds that are near their equilibrium."""
STRAIGHT = 0.7
"""Correlation of force and length of a bond, from which on the slope means something."""
LEAST_BONDS, SAMPLE, LEAST_SAMPLE, MOST_FRAMES = 20, 50, 2, 1000
"""Bonds of an element, and frames of each system, that are looked at: fewer of very many systems'.
"""


def too_deep(survey: Survey, which: np.ndarray) -> np.ndarray:
    """Those of the frame numbers `which` whose electrons would be bound more than any are."""
    from ase.data import atomic_numbers

    if survey.unknown:
        return which[:0]
    numbers = np.array([atomic_numbers[e] for e in survey.elements], dtype=float)
    deepest = -DEEPEST * ATOM * survey.counts[which] @ numbers ** (7 / 3)
    return which[survey.energy[which] < deepest]  # nan is not


def deep_energies(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Energies below those of all electrons of all atoms, of the frames `which`, by `too_deep`."""
    if len(which):
        frames = survey.sources(which)
        per_atom = float(np.median(survey.energy[which] / survey.n_atoms[which]))
        yield Finding(
            "error",
            "energy-size",
            f"{named(frames)}: energies of {per_atom:.6g} eV/atom, below those of all electrons "
            "of the atoms, expected above",
            SMALL_UNIT.format("energies"),
            frames,
        )


def stiff_bonds(survey: Survey, which: np.ndarray, told: Collection[str]) -> Iterator[Finding]:
    """Forces that pull hydrogen back as no bond does, of the frame numbers `which`.

    `told`: systems whose units were told of before.
    """
    if survey.unknown or "H" not in survey.elements:
        return
    which = which[np.isfinite(survey.rms_force[which]) & (survey.n_atoms[which] > 1)]
    sample = int(np.clip(MOST_FRAMES // len(survey.names), LEAST_SAMPLE, SAMPLE))
    stiff: dict[str, tuple[str, float]] = {}
    for k, own in survey.by_system(which).items():
        frames = which[own]
        if len(frames) > sample:
            frames = frames[np.linspace(0, len(frames) - 1, sample).astype(int)]
        slopes = _slopes(survey, frames) if survey.names[k] not in told else {}
        if slopes and max(slopes.values()) > STIFFEST:
            element = max(slopes, key=lambda e: slopes[e])
            stiff[survey.names[k]] = element, slopes[element]
    if stiff:
        element, slope = next(iter(stiff.values()))
        yield Finding(
            "warning",
            "force-size",
            f"{named(list(stiff))}: forces along {element}–H bonds grow with their length as those "
            f"of no known matter do ({slope:.0f} eV/Å², expected below {STIFFEST:.0f})",
            SMALL_UNIT.format("forces"),
        )


def _slopes(survey: Survey, frames: Sequence[int] | np.ndarray) -> dict[str, float]:
    """eV/Å² by element: how the force on hydrogen along its bond to it grows with the length."""
    radii, hydrogen = survey.radii, survey.elements.index("H")
    reach = LENGTHS[1] * float(radii.max() + radii[hydrogen])
    nonmetal = np.array([e in NONMETALS and e != "H" for e in survey.elements])
    bonds: dict[str, list[np.ndarray]] = defaultdict(list)
    for k in frames:
        frame = survey.frames[k]
        types = np.array([survey.elements.index(s) for s in frame.symbols])
        try:
            center, neighbor, vectors = neighbors(frame, types, reach)
        except InputError:
            continue
        assert frame.forces is not None
        other, r = types[neighbor], np.linalg.norm(vectors, axis=1)
        ratio = r / (radii[hydrogen] + radii[other])
        bonded = (types[center] == hydrogen) & nonmetal[other]
        bonded &= (LENGTHS[0] < ratio) & (ratio < LENGTHS[1])
        pull = (frame.forces[center] * vectors).sum(axis=1) / r
        for j in np.unique(other[bonded]):
            own = bonded & (other == j)
            bonds[survey.elements[j]].append(np.stack([r[own], pull[own]]))
    slopes = {}
    for element, found in bonds.items():
        length, force = np.concatenate(found, axis=1)
        if len(length) < LEAST_BONDS:
            continue
        columns = np.stack([length - length.mean(), np.ones_like(length)], axis=1)
        (slope, middle), _ = robust_fit(columns, force)
        if correlation(columns[:, 0], force - middle) > STRAIGHT:
            slopes[element] = float(slope)
    return slopes
