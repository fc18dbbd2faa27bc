"""Do energies, forces and virials describe one surface? Signs and units of labels, from pairs.

With E₂ − E₁ = a·(work of the forces) + b·(work of the virials) over pairs of near frames, a and b
are 1 for labels of one unit and the right sign; what else they are names the mistake.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from . import factors, order, sizes, virials
from .finding import Finding, named
from .pairs import Pairs, near_pairs
from .survey import Survey
from .works import FORCE, LABELS, LEAST_PAIRS, VIRIAL, Works

Untested = dict[tuple[str, str], list[str]]
"""Systems by label and the reason why it could not be tested."""
FEW_PAIRS = {
    "force": "too few frames have nearly the same atoms in nearly the same places",
    "virial": "too few near frames differ in their cells",
}
FEW_FRAMES = "they are too few, or too much alike, to tell a wrong unit from chance"
NOISE = "differences of energy between near frames are hardly larger than their uncertainty"
ISOTROPIC = "too few near frames differ in their shear, or their stress is too isotropic"
TOLD = {
    "force": "sign and unit of the force",
    "virial": "sign and unit of the virial",
    "virial-order": "the order of the virial's shear components",
}
CONTRADICTION, CONTRADICTION_ENERGY = 5.0, 0.03
"""A frame contradicts its near ones where the work is so many uncertainties, and so many eV/atom,
off. In clean sets the median over the pairs of a frame stays below one uncertainty."""


def findings(survey: Survey, which: np.ndarray, apart: Collection[str] = ()) -> Iterator[Finding]:
    """Signs and units of forces and virials, system by system, of the frame numbers `which`.

    Systems with few pairs are judged together. What could not be tested is a note. `apart`: sources
    of frames whose energies were found to have another zero than those of the others.
    """
    other_zero = np.array([frame.source in apart for frame in survey.frames])
    pairs = near_pairs(survey, which)
    systems = survey.system[pairs.first]
    small = np.bincount(systems, minlength=len(survey.names)) < LEAST_PAIRS
    untested: Untested = {}
    told: list[str] = []
    parts = [(pairs.chosen(systems == k), [survey.names[k]]) for k in np.flatnonzero(~small)]
    names = [survey.names[k] for k in np.unique(survey.system[which]) if small[k]]
    if names:
        parts.append((pairs.chosen(small[systems]), names))
    for own, names in parts:
        found = list(_of_system(own, names, survey, untested, other_zero))
        yield from found
        told += names if any(f.code.endswith(("-unit", "-size")) for f in found) else []
    yield from sizes.stiff_bonds(survey, which, told)
    yield from _notes(survey, which, untested)


def _of_system(
    pairs: Pairs, names: list[str], survey: Survey, untested: Untested, other_zero: np.ndarray
) -> Iterator[Finding]:
    """What the pairs of the systems `names` tell; what they do not is entered in `untested`.

    `other_zero` (F,) bool: frames whose energies were found to be apart from those of the others.
    """
    works = Works.of(pairs)
    for label, few in FEW_PAIRS.items():
        if not works.enough(LABELS.index(label)):
            untested.setdefault((label, few), []).extend(names)
    if len(works) < LEAST_PAIRS:
        return
    name = named(names)
    unit = factors.wrong_unit(works, name, survey)
    if unit is not None:
        within = other_zero[pairs.first] == other_zero[pairs.second]
        yield unit if within.all() else _of_one_zero(pairs.chosen(within), name, survey)
        return
    unsure = [k for k in (FORCE, VIRIAL) if works.tested(k) and not works.right(k)]
    if unsure:
        for k in unsure:
            untested.setdefault((LABELS[k], FEW_FRAMES), []).extend(names)
        return
    known, disorder = virials.shear_order(works, name)
    wrong = disorder or order.misplaced(works, survey, name)
    if wrong is not None:
        yield wrong
        return
    for k, label in enumerate(LABELS):
        if works.enough(k) and not works.right(k):
            untested.setdefault((label, NOISE), []).extend(names)
    if works.right(VIRIAL):
        if not known:
            untested.setdefault(("virial-order", ISOTROPIC), []).extend(names)
        yield from virials.kinetic_part(works, name, survey)
    yield from factors.too_stiff(works, name, survey)
    trusted = np.array([works.fitted[FORCE] if works.right(FORCE) else 1.0, 1.0])
    yield from _contradicting_frames(works, trusted, survey)


def _of_one_zero(pairs: Pairs, name: str, survey: Survey) -> Finding:
    """A wrong unit among pairs of one zero; where there is none, another zero or unit looked so."""
    works = Works.of(pairs)
    unit = factors.wrong_unit(works, name, survey) if len(works) >= LEAST_PAIRS else None
    return unit or Finding(
        "warning",
        "labels-contradict",
        f"{name}: differences of energy of near frames do not follow from forces and virials where "
        "the energy of one of them is apart from most others'",
        "look whether all energies and forces have one unit and one zero",
    )


def _contradicting_frames(works: Works, trusted: np.ndarray, survey: Survey) -> Iterator[Finding]:
    """Frames whose labels disagree with all of their near frames, which agree with one another.

    `trusted` (2,): factors of the works.
    """
    pairs = works.pairs
    left = np.abs(works.differences - works.works @ trusted)
    typical = max(float(np.median(left)), 1.0)
    ends = np.concatenate([pairs.first, pairs.second])
    both = np.concatenate([left, left])
    excess = np.tile(left * pairs.uncertainty / pairs.n_atoms, 2)
    bad = []
    for k in np.unique(ends[both > CONTRADICTION * typical]):
        own = ends == k
        apart = np.median(both[own]) > CONTRADICTION * typical and (
            both[own].min() > 0.5 * CONTRADICTION * typical
        )
        if own.sum() >= 4 and apart and np.median(excess[own]) > CONTRADICTION_ENERGY:
            bad.append(k)
    if bad and len(bad) < 0.2 * len(np.unique(ends)):
        frames = survey.sources(bad)
        size = max(float(np.median(excess[ends == k])) for k in bad)
        yield Finding(
            "warning",
            "frame-inconsistent",
            f"{named(frames)}: energy and forces contradict those of all near frames by up to "
            f"{1e3 * size:.0f} meV/atom, as where the electrons did not converge",
            "look at the calculation or leave the frame out",
            frames,
        )


def _notes(survey: Survey, which: np.ndarray, untested: Untested) -> Iterator[Finding]:
    """What could not be tested, of the systems that have the labels."""
    frames = [survey.frames[k] for k in which]
    labels = {
        "force": [f.forces is not None and f.energy is not None and f.n_atoms > 1 for f in frames],
        "virial": [f.virial is not None and f.energy is not None for f in frames],
    }
    labels["virial-order"] = labels["virial"]
    for (label, reason), names in untested.items():
        labelled = np.unique(survey.system[which[np.array(labels[label])]])
        concerned = [name for name in names if name in {survey.names[k] for k in labelled}]
        if concerned:
            yield Finding(
                "note",
                f"{label}-untested",
                f"{named(concerned)}: {TOLD[label]} cannot be tested: {reason}",
                "a few frames of one structure, slightly displaced and strained, would do",
            )
