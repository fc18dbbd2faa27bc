"""Elements: are they those of the type map, and do they have the neighbours they should have?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..system import InputError
from .coverage import unknown_bonds
from .finding import Finding, named
from .geometry import BONDED, edges, radii_of
from .survey import Survey

NONMETALS = ("H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I")
VALENCE = {"H": 1.0, "C": 4.0, "N": 4.0, "O": 3.0, "F": 1.0, "Cl": 1.3, "Br": 1.3, "I": 1.3}
"""Bonds to nonmetals that atoms of an element have at most, on the average of a data set."""
SAMPLE, LEAST_SAMPLE, MOST_FRAMES = 12, 2, 1000
"""Frames of each system in which bonds are counted: fewer where there are very many systems."""
HYPERVALENT, LIGANDS = ("Cl", "Br", "I"), ("O", "F")
"""Elements, and others of which they bind as many as they like: perchlorates, ClF3, BrF5."""
SPACE = 216.0
"""Å³: a cell in which an atom has its own images as neighbours."""
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
    # where distances were not looked for, only a single atom in much space is sure to see nobody
    seeing = np.isfinite(survey.geometry.ratio) | (survey.n_atoms > 1) | (survey.volume < SPACE)
    for what, do in unknown_bonds(
        survey.elements, survey.counts, seeing, np.isfinite(survey.rms_force)
    ):
        yield Finding("note", "element-alone", what, do)
    yield from _valences(survey)


def _valences(survey: Survey) -> Iterator[Finding]:
    """Atoms with more bonds than their element makes, which exchanging two elements puts right."""
    swapped: dict[tuple[str, str], list[tuple[str, str]]] = {}
    crowded: dict[str, list[str]] = {}
    sample = int(np.clip(MOST_FRAMES // len(survey.names), LEAST_SAMPLE, SAMPLE))
    several = np.flatnonzero(survey.n_atoms > 1)
    for k, own in survey.by_system(several).items():
        system, frames = survey.names[k], several[own]
        if len(frames) > sample:
            frames = frames[np.linspace(0, len(frames) - 1, sample).astype(int)]
        wrong = _violations(survey, frames, survey.elements)
        if not wrong:
            continue
        text = ", ".join(
            f"{e} has {n:.1f} bonds to nonmetals (at most {VALENCE[e]:g} expected)"
            for e, n in wrong.items()
        )
        pair = _exchange(survey, frames, wrong)
        if pair is not None:
            swapped.setdefault(pair, []).append((system, text))
        else:
            crowded.setdefault(text, []).append(system)
    for (first, second), systems in swapped.items():
        yield Finding(
            "error",
            "element-swapped",
            f"{named([name for name, _ in systems])}: on the average {systems[0][1]}, and with "
            f"{first} and {second} exchanged every element has its number",
            "check the order of type_map.raw against type.raw",
        )
    for text, names in crowded.items():
        yield Finding(
            "warning",
            "element-bonds",
            f"{named(names)}: on the average {text}",
            "check elements, units and cells",
        )


def _exchange(survey: Survey, frames: np.ndarray, wrong: Collection[str]) -> tuple[str, str] | None:
    """Two elements whose exchange leaves no atom with too many bonds."""
    atoms = survey.counts[frames].sum(axis=0)
    present = [e for e, n in zip(survey.elements, atoms, strict=True) if n]
    for i, first in enumerate(present):
        for second in present[i + 1 :]:
            if not {first, second} & set(wrong):
                continue
            exchange = {first: second, second: first}
            names = [exchange.get(e, e) for e in survey.elements]
            if not _violations(survey, frames, names):
                return first, second
    return None


def _violations(survey: Survey, frames: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Elements with too many bonds to nonmetals, and how many, if elements had these `names`."""
    nonmetal = np.array([n in NONMETALS for n in names])
    if not any(n in VALENCE for n in names) or len(names) < 2:
        return {}
    radii = radii_of(names)
    any_number = np.outer(np.isin(names, HYPERVALENT), np.isin(names, LIGANDS))
    bonds, atoms = np.zeros(len(names)), np.zeros(len(names))
    for k in frames:
        types = np.array([survey.elements.index(s) for s in survey.frames[k].symbols])
        try:
            center, neighbor, r = edges(survey.frames[k], types, 2 * BONDED * radii.max())
        except InputError:
            continue
        a, b = types[center], types[neighbor]
        bonded = (r < BONDED * (radii[a] + radii[b])) & nonmetal[b] & ~any_number[a, b]
        bonds += np.bincount(a[bonded], minlength=len(names))
        atoms += np.bincount(types, minlength=len(names))
    mean = bonds / np.maximum(atoms, 1)
    return {
        name: float(mean[k])
        for k, name in enumerate(names)
        if name in VALENCE and mean[k] > VALENCE[name] + EXCESS
    }


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
