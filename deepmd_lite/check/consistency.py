"""Do energies, forces and virials describe one surface? Signs and units of labels, from pairs.

With E₂ − E₁ = a·(work of the forces) + b·(work of the virials) over pairs of near frames, a and b
are 1 for labels of one unit and the right sign; what else they are names the mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np

from ..units import BOLTZMANN, EV_PER_A3_IN_GPA
from .finding import Finding, named
from .order import CORRELATION, misplaced
from .pairs import Pairs, near_pairs
from .survey import Survey, correlation, robust_fit

Untested = dict[tuple[str, str], list[str]]
"""Systems by label and the reason why it could not be tested."""
LEAST_PAIRS = 12
FEW_PAIRS = {
    "force": "too few frames have nearly the same atoms in nearly the same places",
    "virial": "too few near frames differ in their cells",
}
FEW_FRAMES = "they are too few, or too much alike, to tell a wrong unit from chance"
UNEXPLAINED = "differences of energy between near frames do not follow from it"
NOISE = "differences of energy between near frames are hardly larger than their uncertainty"
ALLOWED = (0.6, 1.6)
"""Factors that the third order, left out here, can explain."""
SURE = 3.0
"""Standard errors by which a factor is outside of these before anything is said."""
HARTREE, BOHR = 27.211386, 0.52917721
FORCE_FACTORS = {
    1 / HARTREE: "energies look like Hartree, or forces 27.2 times too large",
    2 / HARTREE: "energies look like Rydberg, or forces 13.6 times too large",
    HARTREE: "forces look like Hartree/Å: multiply them by 27.2114",
    HARTREE / BOHR: "forces look like Hartree/Bohr: multiply them by 51.4221",
    HARTREE / 2 / BOHR: "forces look like Rydberg/Bohr: multiply them by 25.7110",
    1 / BOHR: (
        "lengths in the forces are Bohr: multiply forces in eV/Bohr by 1.88973; where energies are "
        "in Hartree (Rydberg) and forces in Hartree/Bohr (Rydberg/Bohr), convert both"
    ),
    BOHR: "positions look like Bohr: multiply positions and cells by 0.529177",
    23.0605: "energies look like kcal/mol: divide them by 23.0605",
    1 / 23.0605: "forces look like kcal/mol/Å: divide them by 23.0605",
    96.4853: "energies look like kJ/mol: divide them by 96.4853",
    1 / 96.4853: "forces look like kJ/mol/Å: divide them by 96.4853",
    1e3: "energies look like meV",
}
"""Right value over value found, of the forces, and what it means."""
VIRIAL_FACTORS = {
    1 / EV_PER_A3_IN_GPA: "the stress is in GPa: divide it by 160.21766",
    0.1 / EV_PER_A3_IN_GPA: "the stress is in kbar: divide it by 1602.1766",
    1e-4 / EV_PER_A3_IN_GPA: "the stress is in bar: divide it by 1602176.6",
    HARTREE: "the virial is in Hartree: multiply it by 27.2114",
    HARTREE / 2: "the virial is in Rydberg: multiply it by 13.6057",
    HARTREE / BOHR**3: "the stress is in Hartree/Bohr³: multiply it by 183.631",
    HARTREE / 2 / BOHR**3: "the stress is in Rydberg/Bohr³: multiply it by 91.8157",
    EV_PER_A3_IN_GPA: "the virial was divided by 160.2 once too often",
}
SHEAR = ((1, 2), (0, 2), (0, 1))
SHEAR_NAMES = ("yz", "xz", "xy")
KINETIC_STRAIN, STIFF = 0.04, 0.03
"""Largest relative change of volume, and largest curvature (eV/atom), of pairs that the kinetic
part is sought in."""

CONTRADICTION, CONTRADICTION_ENERGY = 5.0, 0.03
"""A frame contradicts its near ones where the work is so many uncertainties, and so many eV/atom,
off. In clean sets the median over the pairs of a frame stays below one uncertainty."""


def findings(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Signs and units of forces and virials, system by system, of the frame numbers `which`.

    Systems with few pairs are judged together. What could not be tested is a note.
    """
    pairs = near_pairs(survey, which)
    systems = survey.system[pairs.first]
    small = np.bincount(systems, minlength=len(survey.names)) < LEAST_PAIRS
    untested: Untested = {}
    for k in np.flatnonzero(~small):
        own = pairs.chosen(systems == k)
        yield from _of_system(own, [survey.names[k]], survey, untested)
    names = [survey.names[k] for k in np.unique(survey.system[which]) if small[k]]
    if names:
        yield from _of_system(pairs.chosen(small[systems]), names, survey, untested)
    yield from _notes(survey, which, untested)


def _of_system(
    pairs: Pairs, names: list[str], survey: Survey, untested: Untested
) -> Iterator[Finding]:
    """What the pairs of the systems `names` tell; what they do not is entered in `untested`."""
    strained = np.abs(pairs.strain).max(axis=(1, 2)) > 1e-6
    virial_work = np.where(strained, -np.einsum("pij,pij->p", pairs.virial, pairs.strain), 0.0)
    usable = np.isfinite(virial_work)
    pairs, strained, virial_work = pairs.chosen(usable), strained[usable], virial_work[usable]
    moving = np.abs(pairs.force_work) > 3e-4 * np.sqrt(pairs.n_atoms)
    for label, enough in (("force", moving), ("virial", strained)):
        if enough.sum() < LEAST_PAIRS:
            untested.setdefault((label, FEW_PAIRS[label]), []).extend(names)
    if len(pairs) < LEAST_PAIRS:
        return
    name = named(names)
    weight = 1 / pairs.uncertainty
    columns = np.stack([pairs.force_work, virial_work], axis=1) * weight[:, None]
    differences = pairs.difference * weight
    (a, b), _ = robust_fit(columns, differences)
    if moving.sum() >= LEAST_PAIRS:
        left = (pairs.difference - b * virial_work) * weight
        wrong = misplaced(pairs.chosen(moving), left[moving], survey, name)
        if wrong is not None:
            yield wrong
            return
        if abs(correlation((pairs.force_work * weight)[moving], left[moving])) < CORRELATION:
            untested.setdefault(("force", NOISE), []).extend(names)
        elif not ALLOWED[0] < a < ALLOWED[1]:
            error = pairs.standard_error(
                lambda own: robust_fit(columns[own], differences[own])[0][0]
            )
            if _is_wrong(a, error):
                yield _forces(pairs.chosen(moving), a, left[moving], name)
            else:
                untested.setdefault(("force", FEW_FRAMES), []).extend(names)
            return
    if strained.sum() >= LEAST_PAIRS:
        own, work = pairs.chosen(strained), virial_work[strained]
        left = ((pairs.difference - a * pairs.force_work) * weight)[strained]
        if abs(correlation(work * weight[strained], left)) < CORRELATION:
            disorder = list(_shear_order(own, a, name))
            yield from disorder
            if not disorder:
                untested.setdefault(("virial", UNEXPLAINED), []).extend(names)
            return
        works = (work * weight[strained])[:, None]
        (b,), _ = robust_fit(works, left)
        if not ALLOWED[0] < b < ALLOWED[1]:
            error = own.standard_error(lambda p: robust_fit(works[p], left[p])[0][0])
            if _is_wrong(b, error):
                yield _virials(own, b, work, left, name)
            else:
                untested.setdefault(("virial", FEW_FRAMES), []).extend(names)
            return
        yield from _shear_order(own, a, name)
        yield from _kinetic_part(own, a, work, name, survey)
    yield from _contradicting_frames(pairs, a * pairs.force_work + virial_work, survey)


def _is_wrong(factor: float, error: float) -> bool:
    """Whether a factor with this standard error is one that no labels of the right unit have."""
    return factor + SURE * error < ALLOWED[0] or factor - SURE * error > ALLOWED[1]


def _forces(pairs: Pairs, a: float, left: np.ndarray, name: str) -> Finding:
    """A wrong sign or unit of the forces, from their factor `a`.

    `left` (P,): what the virials leave of the differences of energy, over the uncertainty.
    """
    found = f"energy differences of near frames are {a:.4g} times what the forces say, expected 1"
    if a < 0:
        return Finding(
            "error",
            "force-sign",
            f"{name}: {found}",
            "the forces look like gradients: change their sign",
        )
    known = {
        **{meaning: np.full(len(left), factor) for factor, meaning in FORCE_FACTORS.items()},
        "energies look like energies per atom: multiply them by the number of atoms": (
            1 / pairs.n_atoms
        ),
    }
    work = pairs.force_work / pairs.uncertainty
    return Finding("error", "force-unit", f"{name}: {found}", _meaning(left, work, a, known))


def _virials(pairs: Pairs, b: float, work: np.ndarray, left: np.ndarray, name: str) -> Finding:
    """A wrong sign or unit of the virials, from their factor `b`.

    `work` (P,) eV: that of the virials; `left` (P,): what the forces leave of the differences of
    energy, over the uncertainty.
    """
    found = (
        f"{name}: energy differences of strained frames are {b:.3g} times what the virials say, "
        "expected 1"
    )
    if abs(b + 1) < 0.4:
        return Finding(
            "error",
            "virial-sign",
            found,
            "change the sign of the virial or stress (stress: tension positive; virial = "
            "−volume · stress; VASP prints the opposite)",
        )
    known = {
        **{meaning: np.full(len(left), factor) for factor, meaning in VIRIAL_FACTORS.items()},
        "the virial is a stress: multiply it by the volume": pairs.volume,
        "the virial was multiplied by the volume once too often": 1 / pairs.volume,
        "the virial is that of one atom: multiply it by their number": pairs.n_atoms,
    }
    meaning = _meaning(left, work / pairs.uncertainty * np.sign(b), abs(b), known)
    sign = " and change its sign" if b < 0 else ""
    return Finding("error", "virial-unit", found, meaning + sign)


def _meaning(left: np.ndarray, work: np.ndarray, fitted: float, known: dict[str, Any]) -> str:
    """Which of the `known` factors explains `left` (P,) by `work` (P,) as the fitted one does."""

    def misfit(factor: Any) -> float:
        return float(np.quantile(np.abs(left - factor * work), 0.75))

    best = min(known, key=lambda meaning: misfit(known[meaning]))
    unexplained = misfit(fitted) + 0.1 * misfit(0.0)
    return best if misfit(known[best]) < unexplained else "check its unit"


def _shear_order(pairs: Pairs, a: float, name: str) -> Iterator[Finding]:
    """Shear components of the virial in a wrong order: another order explains energies better."""
    shear = np.stack([2 * pairs.strain[:, i, j] for i, j in SHEAR], axis=1)
    sheared = np.abs(shear).max(axis=1) > 2e-3
    if sheared.sum() < LEAST_PAIRS:
        return
    own, shear = pairs.chosen(sheared), shear[sheared]
    weight = 1 / own.uncertainty
    diagonal = -np.einsum("pii,pii->p", own.virial, own.strain)
    left = (own.difference - a * own.force_work - diagonal) * weight
    stress = np.stack([own.virial[:, i, j] for i, j in SHEAR], axis=1)
    off = {
        order: np.abs(left + (stress[:, order] * shear).sum(axis=1) * weight)
        for order in permutations(range(3))
    }
    misfit = {order: float(np.median(values)) for order, values in off.items()}
    given, best = (0, 1, 2), min(misfit, key=lambda order: misfit[order])

    def gain(chosen: np.ndarray) -> float:
        return float(np.log(np.mean(off[given][chosen]) / np.mean(off[best][chosen])))

    everything = np.ones(len(own), dtype=bool)
    sure = best != given and gain(everything) > SURE * own.standard_error(gain)
    if sure and misfit[given] > 2 * misfit[best]:
        swapped = ", ".join(
            f"{SHEAR_NAMES[k]} holds {SHEAR_NAMES[best.index(k)]}" for k in range(3) if best[k] != k
        )
        yield Finding(
            "error",
            "virial-order",
            f"{name}: the shear components of the virial fit the energies of sheared frames "
            f"{misfit[given] / misfit[best]:.1f} times better in another order ({swapped})",
            "put them in order (ASE's stress: xx yy zz yz xz xy; VASP prints xx yy zz xy yz zx)",
        )


def _kinetic_part(
    pairs: Pairs, a: float, work: np.ndarray, name: str, survey: Survey
) -> Iterator[Finding]:
    """A diagonal excess of k_B T for each atom, in frames whose atoms are in motion.

    Springs that soften with volume leave γ/2 · (curvature) · Δ ln V to the third order (γ:
    Grüneisen parameter), for independent snapshots more than what is sought. Only pairs of nearly
    the same displacements can tell: one snapshot in several cells, or consecutive steps at
    constant pressure.
    """
    force = np.minimum(survey.rms_force[pairs.first], survey.rms_force[pairs.second])
    swelling = np.trace(pairs.strain, axis1=1, axis2=2)
    chosen = (force > 0.2) & (np.abs(swelling) < KINETIC_STRAIN) & (np.abs(swelling) > 1e-3)
    chosen &= np.abs(pairs.curvature) < STIFF * pairs.n_atoms
    if chosen.sum() < LEAST_PAIRS:
        return
    own, weight = pairs.chosen(chosen), 1 / pairs.uncertainty[chosen]
    left = (own.difference - a * own.force_work - work[chosen]) * weight
    x = own.n_atoms * swelling[chosen] * weight
    (excess,), scale = robust_fit(x[:, None], left)
    error = scale / np.sqrt((x * x).sum())
    third_order = 1.5 * float(np.median(np.abs(own.curvature) / own.n_atoms))
    if excess > max(6 * error, 0.02, 1.5 * third_order):
        temperature = excess / BOLTZMANN
        yield Finding(
            "warning",
            "virial-kinetic",
            f"{name}: the virials of frames in motion are {excess:.3f} ± {error:.3f} eV/atom "
            "larger on the diagonal than the energies say, the kinetic part of "
            f"{temperature:.0f} K",
            "subtract N k_B T (the training wants the virial of the forces alone)",
        )


def _contradicting_frames(pairs: Pairs, work: np.ndarray, survey: Survey) -> Iterator[Finding]:
    """Frames whose labels disagree with all of their near frames, which agree with one another."""
    left = np.abs(pairs.difference - work) / pairs.uncertainty
    typical = max(float(np.median(left)), 1.0)
    ends = np.concatenate([pairs.first, pairs.second])
    both = np.concatenate([left, left])
    excess = np.abs(np.concatenate([pairs.difference - work] * 2)) / np.tile(pairs.n_atoms, 2)
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
    for (label, reason), names in untested.items():
        labelled = np.unique(survey.system[which[np.array(labels[label])]])
        concerned = [name for name in names if name in {survey.names[k] for k in labelled}]
        if concerned:
            yield Finding(
                "note",
                f"{label}-untested",
                f"{named(concerned)}: sign and unit of the {label} cannot be tested: {reason}",
                "a few frames of one structure, slightly displaced and strained, would do",
            )
