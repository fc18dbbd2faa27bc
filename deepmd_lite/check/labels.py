"""Labels: are they there, and are they resolved finely enough?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..data.frames import counted
from .finding import Finding, named
from .survey import Survey

COARSE = 1e-4
"""eV/atom: steps of the energy above this are coarser than a good model's error."""
LEAST_FRAMES = 8


def findings(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Of the frame numbers `which`, all of one set."""
    yield from _missing(survey, which)
    yield from _resolution(survey, which)
    yield from _rounded(survey, which)
    yield from _asymmetric(survey, which)


def _missing(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Energies and forces that no frame, or only some, have; virials that only some have."""
    role = survey.roles[survey.role[which[0]]]
    has = {
        "energy": np.isfinite(survey.energy[which]),
        "force": np.isfinite(survey.max_force[which]),
        "virial": np.array([survey.frames[k].virial is not None for k in which]),
    }
    everything = which
    for label, found in has.items():
        which = everything
        if label == "virial":  # slabs and clusters have none to be missed
            periodic = np.isfinite(survey.volume[which])
            which, found = which[periodic], found[periodic]
        n, count = len(which), int(found.sum())
        alone = survey.n_atoms[which] == 1  # an isolated atom has no force worth a label
        if count == n or (label == "force" and (found | alone).all()):
            continue
        lacking = [survey.names[k] for k in np.unique(survey.system[which[~found]])]
        severity = "note" if label == "virial" else "error" if count == 0 else "warning"
        where = f"{role}: {label} {count}/{n} frames, missing in {named(lacking)}"
        do = {
            "energy": "add energy.npy or an energy key, or train on forces alone on purpose",
            "force": "add force.npy or a forces key: energies alone teach a model very little (to "
            "train on them alone, give loss/start_pref_f and limit_pref_f as 0)",
            "virial": "a model that has seen no virials gives unreliable pressures",
        }[label]
        frames = survey.sources(which[~found]) if count else ()
        yield Finding(severity, f"{label}-missing", where, do, frames)


def _resolution(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Energies that were float32 at some time: large totals leave steps between them."""
    coarsest: dict[bool, tuple[float, int]] = {}
    names: dict[bool, list[str]] = {True: [], False: []}
    known = which[np.isfinite(survey.energy[which])]
    for k, places in survey.by_system(known).items():
        own = known[places]
        step = _single_precision_step(survey.energy[own], survey.n_atoms[own])
        if len(own) < LEAST_FRAMES or step < 1e-6 or _coarse_steps(survey.energy[own])[0]:
            continue
        coarse = step > COARSE
        names[coarse].append(survey.names[k])
        coarsest[coarse] = max(coarsest.get(coarse, (0.0, 0)), (step, int(own[0])))
    for coarse, (step, frame) in coarsest.items():
        yield Finding(
            "warning" if coarse else "note",
            "energy-float32",
            f"{named(names[coarse])}: energies have the seven digits of float32: at "
            f"{survey.energy[frame]:.8g} eV a step of {1e3 * step:.3g} meV/atom",
            "write them in float64, or take a constant off each atom before writing"
            if coarse
            else "fine enough here",
        )


def _single_precision_step(energy: np.ndarray, n_atoms: np.ndarray) -> float:
    """eV/atom between neighbouring float32 numbers, if all energies are such; otherwise 0."""
    single = energy.astype(np.float32)
    steps = np.spacing(np.abs(single)).astype(np.float64)
    exact = np.abs(single.astype(np.float64) - energy) < 0.01 * steps
    shortest = np.array([float(str(s)) for s in single]) == energy
    return float(np.median(steps / n_atoms)) if len(energy) and (exact | shortest).all() else 0.0


def _rounded(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Energies that are whole numbers, or were float16 at some time."""
    known = which[np.isfinite(survey.energy[which])]
    for k, places in survey.by_system(known).items():
        own = known[places]
        what, steps = _coarse_steps(survey.energy[own])
        if what:
            step = float(np.median(steps / survey.n_atoms[own]))
            yield Finding(
                "warning",
                "energy-rounded",
                f"{survey.names[k]}: energies {what}, with a step of {1e3 * step:.3g} meV/atom",
                "write them in float64",
            )


def _coarse_steps(energy: np.ndarray) -> tuple[str, np.ndarray]:
    """What all of many energies are, in words, and eV between neighbours; ('', 0) if nothing."""
    if len(np.unique(energy)) < LEAST_FRAMES:
        return "", np.zeros(len(energy))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # beyond float16's range: infinite, and so not equal
        half = energy.astype(np.float16)
        steps = np.spacing(np.abs(half)).astype(np.float64)
    whole = (energy == np.rint(energy)).all()
    if (half == energy).all() and (not whole or (steps > 1).any()):
        return "have the three digits of float16", steps
    if whole:
        return "are whole numbers", np.ones(len(energy))
    return "", np.zeros(len(energy))


def _asymmetric(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Virials that are not symmetric, as those of every periodic system are."""
    bad, worst = [], 0.0
    for k in which:
        virial = survey.frames[k].virial
        if virial is None:
            continue
        size = max(float(np.abs(virial).max()), 0.02 * survey.n_atoms[k])
        difference = float(np.abs(virial - virial.T).max()) / size
        if difference > 0.02:
            bad.append(int(k))
            worst = max(worst, difference)
    if bad:
        frames = survey.sources(bad)
        yield Finding(
            "error" if len(bad) > 0.5 * len(which) else "warning",
            "virial-asymmetric",
            f"{named(frames)}: the virial is not symmetric (up to {100 * worst:.0f} % of its "
            f"largest component, in {counted(len(bad), 'frame')})",
            "its nine numbers are xx xy xz yx yy yz zx zy zz; six in Voigt's order are a stress",
            frames,
        )
