"""Units of labels: the factor that a work lacks, and the mistakes that it may come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.frames import counted
from ..units import EV_PER_A3_IN_GPA
from .finding import Finding
from .survey import Survey, robust_fit
from .virials import better_signs
from .works import ALLOWED, FORCE, RESTORED, SURE, VIRIAL, Works, allowed

HARTREE, BOHR = 27.211386, 0.52917721
KCAL, KJ = 23.0605, 96.4853
"""kcal/mol and kJ/mol in one eV."""
ENERGY_UNITS = {
    "Hartree": HARTREE,
    "Rydberg": HARTREE / 2,
    "kcal/mol": 1 / KCAL,
    "kJ/mol": 1 / KJ,
    "meV": 1e-3,
}
"""eV."""
FORCE_UNITS = {
    "Hartree/Bohr": HARTREE / BOHR,
    "Rydberg/Bohr": HARTREE / 2 / BOHR,
    "Hartree/Å": HARTREE,
    "Rydberg/Å": HARTREE / 2,
    "kcal/mol/Å": 1 / KCAL,
    "kJ/mol/Å": 1 / KJ,
    "kJ/mol/nm": 0.1 / KJ,
    "meV/Å": 1e-3,
}
"""eV/Å."""
PER_BOHR = (
    "multiply forces in eV/Bohr by 1.88973; where energies are in Hartree (Rydberg) and forces in "
    "Hartree/Bohr (Rydberg/Bohr), convert both"
)
VIRIAL_UNITS = {
    "virials in Hartree": HARTREE,
    "virials in Rydberg": HARTREE / 2,
    "virials in kcal/mol": 1 / KCAL,
    "virials in kJ/mol": 1 / KJ,
    "a stress in GPa": 1 / EV_PER_A3_IN_GPA,
    "a stress in kbar": 0.1 / EV_PER_A3_IN_GPA,
    "a stress in bar": 1e-4 / EV_PER_A3_IN_GPA,
    "a stress in Hartree/Bohr³": HARTREE / BOHR**3,
    "a stress in Rydberg/Bohr³": HARTREE / 2 / BOHR**3,
    "virials divided by 160.2 once too often": EV_PER_A3_IN_GPA,
}
"""eV, or eV/Å³ for a stress."""
ACCURACY = 0.15
"""Of the logarithm of a factor, in sets whose labels are right (all but the smallest of them)."""
SAME_SHAPE = 1.5
"""A factor that varies from pair to pair is meant where it leaves so little more than the best."""
STIFFNESS = (2.5, 400.0)
"""eV: the force constant of atoms times the square of the distance to their nearest neighbours.
Water has 3, PbTe 15, copper and silicon 30, molybdenum 90, diamond about 110."""


@dataclass
class Candidate:
    """A mistake that would explain a factor."""

    what: str
    """In words: the labels and the unit that they may be in."""
    do: str
    factor: float | np.ndarray
    """Right over found; (P,) where it differs from pair to pair."""
    forces: float = 1.0
    """By what the forces are to be multiplied if it is this one."""


def wrong_unit(works: Works, name: str, survey: Survey) -> Finding | None:
    """A factor that no labels of one unit have; None where there is none or chance explains it."""
    tested = [works.tested(label) for label in (FORCE, VIRIAL)]
    wrong = [t and not allowed(f) for t, f in zip(tested, works.fitted, strict=True)]
    if any(wrong) and _are_per_atom(works):
        factor = works.fitted[FORCE if wrong[FORCE] else VIRIAL]
        return Finding(
            "error",
            "energy-unit",
            f"{name}: energy differences of near frames are about {factor:.2g} times what forces "
            "and virials say, and less in larger frames, expected 1",
            "this looks like energies per atom: multiply them by the number of atoms",
        )
    if all(wrong) and allowed(works.fitted[FORCE] / works.fitted[VIRIAL]):
        return _energies(works, name, survey)
    if wrong[FORCE]:
        return _forces(works, name, survey) if _sure(works, FORCE) else None
    if wrong[VIRIAL]:
        return _virials(works, name, survey) if _sure(works, VIRIAL) else None
    return None


def _are_per_atom(works: Works) -> bool:
    """Whether energies times the number of atoms fit, and far better where the number differs."""
    total = works.per_atom()
    right = all(total.right(k) for k in (FORCE, VIRIAL) if total.enough(k))
    return right and total.unexplained < RESTORED * works.unexplained


def _sure(works: Works, label: int) -> bool:
    """Whether a factor is one that no labels of the right unit have."""
    error = works.pairs.standard_error(
        lambda own: robust_fit(works.works[own], works.differences[own])[0][label]
    )
    factor = works.fitted[label]
    return bool(factor + SURE * error < ALLOWED[0] or factor - SURE * error > ALLOWED[1])


def _energies(works: Works, name: str, survey: Survey) -> Finding | None:
    """Energies in another unit than forces and virials, which agree with one another."""
    if not (_sure(works, FORCE) and _sure(works, VIRIAL)):
        return None
    both = works.works.sum(axis=1)
    (factor,), _ = robust_fit(both[:, None], works.differences)
    if factor < 0 and allowed(-factor):
        meaning = "energies have the wrong sign: change it"
    else:
        meaning = _meaning(
            works, both, works.differences, float(factor), _of_energies(works), survey
        )
    return Finding(
        "error",
        "energy-unit",
        f"{name}: energy differences of near frames are {factor:.4g} times what forces and "
        "virials, which agree with each other, say, expected 1",
        meaning or "find the unit of the energies",
    )


def _forces(works: Works, name: str, survey: Survey) -> Finding:
    """A wrong sign or unit of the forces, or of the energies where no virials speak for them."""
    factor = float(works.fitted[FORCE])
    what = f"{name}: energy differences of near frames are {factor:.4g} times what the forces say"
    if factor < 0 and allowed(-factor):
        return Finding(
            "error",
            "force-sign",
            f"{what}, expected 1",
            "the forces look like gradients: change their sign",
        )
    known = [
        Candidate(f"forces in {unit}", _conversion("forces", size), size, size)
        for unit, size in FORCE_UNITS.items()
    ]
    known += [
        Candidate("forces per Bohr", PER_BOHR, 1 / BOHR, 1 / BOHR),
        Candidate("positions in Bohr", "multiply positions and cells by 0.529177", BOHR, BOHR),
    ]
    own = works.own[:, FORCE]
    mine, agree = works.chosen(own), works.right(VIRIAL)
    if not agree:
        known += _of_energies(mine)
    sign = float(np.sign(factor))
    work, left = sign * works.works[own, FORCE], works.left(FORCE)[own]
    meaning = _meaning(mine, work, left, abs(factor), known, survey)
    others = ", and the virials agree with the energies" if agree else ""
    if sign < 0 and not meaning:  # frames of several units or zeros, say: the sign may be chance
        do = "look whether all energies and forces have one unit and one zero"
        return Finding("warning", "labels-contradict", f"{what}, expected 1{others}", do)
    do = meaning or "find the units of forces and energies"
    change = ", and change the sign of the forces" if sign < 0 else ""
    return Finding("error", "force-unit", f"{what}, expected 1{others}", do + change)


def _virials(works: Works, name: str, survey: Survey) -> Finding:
    """A wrong sign or unit of the virials, or of what they are compared with."""
    factor = float(works.fitted[VIRIAL])
    what = (
        f"{name}: energy differences of strained frames are {factor:.3g} times what the virials "
        "say, expected 1"
    )
    if abs(factor + 1) < 0.4:
        bad, _ = better_signs(works, survey)
        frames = survey.sources(bad)
        n = len(np.union1d(works.pairs.first, works.pairs.second))
        some = f"; those of {counted(len(bad), 'frame')} of {n} fit with the other sign"
        return Finding(
            "error",
            "virial-sign",
            what + (f"{some} ({frames[0]} …)" if 0 < len(bad) < n else ""),
            "change the sign of the virial or stress (stress: tension positive; virial = "
            "−volume · stress; VASP prints the opposite)",
            frames,
        )
    own = works.own[:, VIRIAL]
    mine, pairs = works.chosen(own), works.pairs.chosen(own)
    sign = float(np.sign(factor))
    known = [
        Candidate(unit, _conversion("them" if unit[0] == "v" else "it", size), size)
        for unit, size in VIRIAL_UNITS.items()
    ]
    known += [
        Candidate("a stress in place of the virial", "multiply it by the volume", pairs.volume),
        Candidate(
            "virials multiplied by the volume once too often",
            "divide them by the volume",
            1 / pairs.volume,
        ),
        Candidate("virials of one atom", "multiply them by the number of atoms", pairs.n_atoms),
    ]
    if sign > 0:
        known += _of_energies(mine, with_forces=True)
    if sign > 0 and not works.tested(FORCE):
        known += _of_energies(mine)
    work, left = sign * works.works[own, VIRIAL], works.left(VIRIAL)[own]
    meaning = _meaning(mine, work, left, abs(factor), known, survey) or "find their unit"
    return Finding(
        "error", "virial-unit", what, meaning + (" and change the sign" if sign < 0 else "")
    )


def _of_energies(works: Works, with_forces: bool = False) -> list[Candidate]:
    """Energies in other units, `with_forces` together with forces that agree with them."""
    labels = "energies and forces" if with_forces else "energies"
    found = [
        Candidate(
            f"{labels} in {unit}",
            _conversion(labels, size),
            1 / size,
            size if with_forces else 1.0,
        )
        for unit, size in ENERGY_UNITS.items()
    ]
    if not with_forces:
        per_atom = "multiply them by the number of atoms"
        found.append(Candidate("energies per atom", per_atom, 1 / works.pairs.n_atoms))
    return found


def _conversion(labels: str, size: float) -> str:
    """What to do with labels in a unit of this size."""
    return f"multiply {labels} by {size:.6g}" if size > 1 else f"divide {labels} by {1 / size:.8g}"


def _meaning(
    works: Works,
    work: np.ndarray,
    left: np.ndarray,
    fitted: float,
    known: Sequence[Candidate],
    survey: Survey,
) -> str:
    """Which candidates explain `left` (P,) by `work` (P,), of which `fitted` times it is the best.

    One alone is said with what to do; of several none is, for the wrong one spoils right labels.
    """

    def misfit(factor: float | np.ndarray) -> float:
        return float(np.quantile(np.abs(left - factor * work), 0.75))

    least = misfit(fitted) + 0.02 * misfit(0.0)
    near = []
    for candidate in known:
        of_it = candidate.factor * work
        (rest,), _ = robust_fit(np.reshape(of_it, (-1, 1)), left)
        if rest > 0 and abs(np.log(rest)) < ACCURACY:
            near.append((misfit(rest * candidate.factor), candidate))
    least = min([least, *(m for m, _ in near)])
    fits = [c for m, c in near if m <= SAME_SHAPE * least]
    likely = [c for c in fits if STIFFNESS[0] < stiffness(works, survey) * c.forces < STIFFNESS[1]]
    fits = likely or fits
    if len(fits) == 1:
        return f"this looks like {fits[0].what}: {fits[0].do}"
    if not fits:
        return ""
    named = " or ".join(c.what for c in fits)
    return f"this may be {named}: find out which before you convert anything"


def stiffness(works: Works, survey: Survey) -> float:
    """eV: the median over pairs of force constant × (distance to the nearest neighbours)²; or NaN.

    A measure of the size of the forces that hardly depends on how far atoms are from equilibrium.
    """
    pairs = works.pairs
    radius = survey.counts[pairs.first] @ survey.radii / pairs.n_atoms
    distance = 2 * radius * survey.geometry.typical[pairs.first]
    known = (pairs.moved > 1e-4 * pairs.n_atoms) & np.isfinite(distance)
    if known.sum() < 12:
        return float("nan")
    return float(np.median((pairs.curvature * distance**2 / np.maximum(pairs.moved, 1e-9))[known]))


def too_stiff(works: Works, name: str, survey: Survey) -> Iterator[Finding]:
    """Forces larger than those of any matter, as where all labels are in a small unit."""
    found = stiffness(works, survey)
    if found > STIFFNESS[1]:
        yield Finding(
            "warning",
            "force-size",
            f"{name}: forces grow with displacements as those of no known matter do (force "
            f"constant times squared distance {found:.0f} eV, expected below {STIFFNESS[1]:.0f})",
            "look whether forces, or all labels, are in units of kcal/mol or kJ/mol",
        )
