"""Elements: are they those of the type map, and do they have the neighbours they should have?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .finding import Finding
from .survey import Survey

NONMETALS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")
VALENCE = {"H": 1.0, "C": 4.0, "N": 4.0, "O": 2.3, "F": 1.0, "Cl": 1.3, "Br": 1.3, "I": 1.3}
"""Bonds to nonmetals that atoms of an element have at most, on the average of a data set."""
EXCESS = 0.5
"""Bonds beyond that, on the average, that are no accident."""


def findings(survey: Survey, type_map: Sequence[str] | None) -> Iterator[Finding]:
    """Of all frames; `type_map` is that of the model to come, where it is known."""
    if type_map is not None:
        missing = [e for e in type_map if e not in survey.elements]
        if missing:
            yield Finding(
                "warning",
                "element-unused",
                f"type map: {', '.join(missing)} occurs in no frame, so a model learns nothing "
                f"about it; the data have {' '.join(survey.elements)}",
                "leave it out of the type map or add data",
            )
    yield from _valences(survey)


def _valences(survey: Survey) -> Iterator[Finding]:
    """Atoms with more bonds than their element makes, which exchanging two elements puts right."""
    bonds, atoms = survey.geometry.bonds, survey.counts.sum(axis=0)
    names = survey.elements
    wrong = _violations(names, bonds, atoms)
    if not wrong:
        return
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            exchanged = [names[j] if k == i else names[i] if k == j else n
                         for k, n in enumerate(names)]  # fmt: skip
            if {names[i], names[j]} & set(wrong) and not _violations(exchanged, bonds, atoms):
                first = next(e for e in (names[i], names[j]) if e in wrong)
                yield Finding(
                    "error",
                    "element-swapped",
                    f"{first} has {wrong[first]:.1f} bonds to nonmetals on the average, expected "
                    f"at most {VALENCE[first]:g}; with {names[i]} and {names[j]} exchanged all "
                    "elements have theirs",
                    "check the order of type_map.raw against type.raw",
                )
                return
    text = ", ".join(f"{e} {n:.1f} (at most {VALENCE[e]:g})" for e, n in wrong.items())
    yield Finding(
        "warning",
        "element-bonds",
        f"more bonds to nonmetals than elements make, on the average: {text}",
        "check elements, units and cells",
    )


def _violations(names: Sequence[str], bonds: np.ndarray, atoms: np.ndarray) -> dict[str, float]:
    """Elements with too many bonds to nonmetals, and how many.

    Exchanged names keep the bonds of the atoms: radii differ too little to change them much.
    """
    nonmetal = np.array([n in NONMETALS for n in names])
    wrong = {}
    for k, name in enumerate(names):
        mean = float(bonds[k, nonmetal].sum() / max(atoms[k], 1))
        if name in VALENCE and mean > VALENCE[name] + EXCESS:
            wrong[name] = mean
    return wrong


def smallest_distances(survey: Survey) -> list[tuple[str, float, float]]:
    """Pair of elements, its smallest distance in Å, and that over the sum of covalent radii."""
    rows = []
    for i, a in enumerate(survey.elements):
        for j in range(i, len(survey.elements)):
            r = float(survey.geometry.smallest[i, j])
            if np.isfinite(r):
                ratio = r / float(survey.radii[i] + survey.radii[j])
                rows.append((f"{a}–{survey.elements[j]}", r, ratio))
    return rows
