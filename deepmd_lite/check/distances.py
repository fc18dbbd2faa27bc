"""Distances against the sizes of atoms: overlaps, wrong units of length, transposed cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..data import Frame
from ..system import InputError
from .finding import Finding, named
from .geometry import edges
from .survey import Survey

TOO_CLOSE, IMPOSSIBLE = 0.6, 0.4
"""Of the sum of covalent radii: below the first a look is wanted, below the second it is wrong
unless atoms are pushed apart."""
PUSHED = 20.0
"""eV/Å: atoms that are meant to be so near repel by more (scans of dimers, collision cascades)."""
LONG, LONGEST, SHORT = 1.5, 2.3, 0.62
"""Typical nearest distances over the sum of covalent radii that no bonded matter has: from the
first to the second as in Bohr, beyond it apart, below the third in a larger unit than Å."""
BOHR = "multiply positions and cells by 0.529177, energies by 27.2114, forces by 51.4221"
NOBLE = {"He", "Ne", "Ar", "Kr", "Xe", "Rn"}
SAMPLE = 20
"""Frames in which a transposed cell, or a longer reach, is tried."""
FAR_REACH, NOTHING = 2.4, 99.0


def findings(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Of the frame numbers `which`."""
    yield from _coincident(survey, which)
    transposed = list(_transposed(survey, which))
    yield from transposed
    wrong_unit = [] if transposed else list(_unit_of_length(survey, which))
    yield from wrong_unit
    if not transposed and not wrong_unit:
        yield from _close_pairs(survey, which)


def _coincident(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    bad = [k for k in which if k in survey.geometry.refused]
    if bad:
        frames = survey.sources(bad)
        yield Finding(
            "error",
            "atoms-coincident",
            f"{named(frames)}: two atoms are in one place",
            "remove one of them or the frame",
            frames,
        )


def _close_pairs(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Pairs much closer than atoms of their size come."""
    geometry = survey.geometry
    ratio = geometry.ratio[which]
    close = which[(ratio >= 0.0) & (ratio < TOO_CLOSE)]
    wrong = np.array(
        [geometry.ratio[k] < IMPOSSIBLE and not _repel(survey, k) for k in close], dtype=bool
    )
    for severity, bad, do in (
        ("error", close[wrong], "they are not pushed apart: check"),
        ("warning", close[~wrong], "keep it if it is meant to be so dense, or check"),
    ):
        if len(bad) == 0:
            continue
        worst = bad[np.argmin(geometry.ratio[bad])]
        first, second, distance = geometry.closest[worst]
        pair = f"{survey.elements[int(first)]}–{survey.elements[int(second)]}"
        frames = survey.sources(bad[np.argsort(geometry.ratio[bad])])
        yield Finding(
            severity,
            "atoms-close",
            f"{named(frames)}: {pair} {distance:.3f} Å apart, {geometry.ratio[worst]:.2f} of the "
            f"sum of their covalent radii, expected above {TOO_CLOSE}",
            f"{do} elements, units and cell of the frame",
            frames,
        )


def _repel(survey: Survey, k: int) -> bool:
    """Whether the forces of a frame push its closest pair of atoms apart as atoms so near do."""
    frame = survey.frames[k]
    if frame.forces is None:
        return False
    types = np.array([survey.elements.index(s) for s in frame.symbols])
    center, neighbor, r = edges(frame, types, survey.geometry.reach)
    least = np.argmin(r / (survey.radii[types[center]] + survey.radii[types[neighbor]]))
    i, j = int(center[least]), int(neighbor[least])
    apart = frame.positions[j] - frame.positions[i]
    if frame.pbc.any():
        from ase.geometry import find_mic  # only here

        apart = find_mic(apart, frame.cell, frame.pbc)[0]
    push = 0.5 * (frame.forces[j] - frame.forces[i]) @ apart / r[least]
    return bool(i != j and push > PUSHED)


def _unit_of_length(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Nearest neighbours of all frames of a system too far or too near: Bohr, nm, fractions."""
    far: list[str] = []
    wrong: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for k in np.unique(survey.system[which]):
        own = which[survey.system[which] == k]
        own = own[(survey.n_atoms[own] > 2) & ~_noble(survey)[own]]
        if len(own) == 0:
            continue
        typical = survey.geometry.typical[own]
        if np.isinf(np.median(typical)):
            own = own[np.unique(np.linspace(0, len(own) - 1, SAMPLE).astype(int))]
            typical = np.array([_typical_ratio(survey, k) for k in own])
        typical = np.minimum(typical, NOTHING)  # quantiles cannot deal with infinities
        middle, low = float(np.median(typical)), float(np.quantile(typical, 0.1))
        name = survey.names[k]
        if middle > LONGEST:
            if survey.frames[own[0]].pbc.all() and survey.n_atoms[own].min() > 4:
                far.append(name)
        elif middle > LONG and low > LONG - 0.15:
            wrong.setdefault((": looks like Bohr and Hartree", BOHR), []).append((name, middle))
        elif middle < SHORT:
            nm = " (multiply by 10 if they are in nm)" if 0.06 < middle < 0.15 else ""
            key = _fractional(survey, own), f"give positions and cells in Å{nm}"
            wrong.setdefault(key, []).append((name, middle))
    if far:
        yield Finding(
            "warning",
            "atoms-far",
            f"{named(far)}: most atoms have no neighbour within {LONGEST:g} times the sum of "
            "their covalent radii",
            "check the units of positions and cells",
        )
    for (remark, do), found in wrong.items():
        yield Finding(
            "error",
            "units-length",
            f"{named([name for name, _ in found])}: atoms are typically {found[0][1]:.3g} covalent "
            f"distances from their nearest neighbour, expected 0.8 to 1.3{remark}",
            do,
        )


def _noble(survey: Survey) -> np.ndarray:
    """(F,) frames of noble gases, which have no bonds to measure with."""
    noble = np.array([e in NOBLE for e in survey.elements])
    return survey.counts[:, noble].sum(axis=1) > 0.2 * survey.n_atoms


def _fractional(survey: Survey, own: np.ndarray) -> str:
    """A remark where all positions are about between 0 and 1."""
    lowest = min(float(survey.frames[k].positions.min()) for k in own)
    highest = max(float(survey.frames[k].positions.max()) for k in own)
    fractional = lowest > -0.5 and 0.5 < highest < 1.5
    return ", and positions are between 0 and 1: they look fractional" if fractional else ""


def _transposed(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Atoms too close, and not so with the transposed cell."""
    close = [
        k
        for k in which
        if survey.geometry.ratio[k] < 0.75
        and survey.frames[k].pbc.all()
        and np.abs(survey.frames[k].cell - survey.frames[k].cell.T).max() > 0.05
    ]
    sample = close[:: max(1, len(close) // SAMPLE)]
    better = 0
    for k in sample:
        frame = survey.frames[k]
        other = _smallest_ratio(survey, replace(frame, cell=frame.cell.T.copy()))
        better += other > 1.25 * survey.geometry.ratio[k] and other > 0.75
    if sample and better >= max(1, 0.6 * len(sample)):
        frames = survey.sources(close)
        worst = float(survey.geometry.ratio[close].min())
        yield Finding(
            "error",
            "cell-transposed",
            f"{named(frames)}: pairs at {worst:.2f} of the sum of their covalent radii, and at "
            "ordinary distances if rows and columns of the cell are exchanged",
            "write lattice vectors as rows (xx xy xz yx yy yz zx zy zz)",
            frames,
        )


def _typical_ratio(survey: Survey, k: int) -> float:
    """As `Geometry.typical`, of one frame and with a longer reach."""
    frame = survey.frames[k]
    types = np.array([survey.elements.index(s) for s in frame.symbols])
    try:
        center, neighbor, r = edges(frame, types, FAR_REACH * 2 * float(survey.radii.max()))
    except InputError:
        return float("inf")
    nearest = np.full(len(types), np.inf)
    sums = survey.radii[types[center]] + survey.radii[types[neighbor]]
    np.minimum.at(nearest, center, r / sums)
    return float(np.median(nearest))


def _smallest_ratio(survey: Survey, frame: Frame) -> float:
    """As `Geometry.ratio`, of one frame; 0 where atoms coincide."""
    types = np.array([survey.elements.index(s) for s in frame.symbols])
    try:
        center, neighbor, r = edges(frame, types, survey.geometry.reach)
    except InputError:
        return 0.0
    if len(r) == 0:
        return float("inf")
    return float((r / (survey.radii[types[center]] + survey.radii[types[neighbor]])).min())
