"""Energies: zeros that differ, outliers, and values that were copied.

The energy of a frame is first explained by its composition (a constant for each element, robust
least squares), then by its fingerprint: a sum over pairs, linear in it. What neither explains is
compared with what is usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..data.frames import counted
from . import offsets, sizes
from .exchanged import CHANCE, Usual, exchange, left_out, spanned, type_map_of
from .finding import Finding, named
from .survey import Survey, robust_fit, spread

LEAST_FRAMES = 6
COMPONENTS = 10
"""Principal components of the fingerprints that energies are fitted with, at most."""
ZERO_ERROR, ZERO_WARNING = 3.0, 0.3
"""eV/atom between groups of frames with alike neighbourhoods: beyond bonding; worth a look."""
ONE_ZERO = "use one zero: the same code, settings and pseudopotentials, or subtract isolated atoms"
MOST_SUSPECTS = 20
"""Systems, those farthest from the common fit, that are compared with all others."""
OTHER_COMPOSITION = 0.1
"""Difference of a share of an element from which on cohesion may be another: no error."""
EXPLAINED_BY_SHAPE = 0.3
"""Part of a gap of energies that fingerprints leave at most where it is one of phases."""
COPIED_SHAPE = 0.05
"""Difference of fingerprints of structures that cannot have one energy to all digits."""
MOVING, ONE_ENERGY = 0.01, 0.5
"""eV/Å, forces of atoms that are not at rest; the share of such frames that may have one energy."""
OUTLIER = 0.5
"""eV/atom: nothing nearer to what is expected is called an outlier."""


@dataclass
class Explained:
    """Energies per atom of some frames, eV, and what is left of them."""

    which: np.ndarray
    """Their frame numbers."""
    by_composition: np.ndarray
    """(n,) eV/atom left by the constants."""
    by_shape: np.ndarray
    """(n,) eV/atom left by constants and fingerprints."""
    columns: np.ndarray
    """(n, k) what `by_shape` is fitted with: shares of the elements, then fingerprints."""


def explain(survey: Survey, which: np.ndarray) -> Explained:
    """Fit the energies of the frames `which` that have one; isolated atoms are left out."""
    which = which[np.isfinite(survey.energy[which]) & (survey.n_atoms[which] > 1)]
    shares = survey.counts[which] / survey.n_atoms[which][:, None]
    per_atom = survey.energy[which] / survey.n_atoms[which]
    constants, _ = robust_fit(shares, per_atom)
    left = per_atom - shares @ constants
    if len(which) < 2 * LEAST_FRAMES:
        return Explained(which, left, left, shares)
    shape = survey.geometry.fingerprint[which]
    shape = shape - np.median(shape, axis=0)
    size = shape.std(axis=0)
    shape = shape[:, size > 1e-9] / size[size > 1e-9]
    n = min(COMPONENTS, len(which) // 8, shape.shape[1] if shape.size else 0)
    if n:
        _, _, axes = np.linalg.svd(shape, full_matrices=False)
        columns = np.concatenate([shares, shape @ axes[:n].T], axis=1)
        coefficients, _ = robust_fit(columns, per_atom)
        by_shape = per_atom - columns @ coefficients
    else:
        columns, by_shape = shares, left
    return Explained(which, left, by_shape, columns)


def findings(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """Of the frame numbers `which`."""
    constant = list(_constant(survey, which))
    yield from constant
    if constant:
        return
    deep = sizes.too_deep(survey, which)
    yield from sizes.deep_energies(survey, deep)
    explained = explain(survey, np.setdiff1d(which, deep))
    if len(explained.which) < LEAST_FRAMES:
        return
    zeros = list(_zeros_of_systems(survey, explained)) or list(_two_levels(survey, explained))
    yield from (f for f in zeros if f.severity == "note")  # of phases: more may be wrong
    zeros = [f for f in zeros if f.severity != "note"]
    zeros = zeros or list(_zeros_of_elements(survey, explained))
    yield from zeros
    if not zeros:
        yield from _outliers(survey, explained)
    yield from _copied(survey, explained)


def _constant(survey: Survey, which: np.ndarray) -> Iterator[Finding]:
    """One energy to all digits in most frames, whose forces differ: no energies at all."""
    which = which[np.isfinite(survey.energy[which]) & (survey.rms_force[which] > MOVING)]
    if len(which) < 3:
        return
    values, counts = np.unique(survey.energy[which], return_counts=True)
    energy = values[np.argmax(counts)]
    own = which[survey.energy[which] == energy]
    different = len(np.unique(survey.rms_force[own].round(6)))
    if different >= max(3, ONE_ENERGY * len(which)):
        frames = survey.sources(own)
        yield Finding(
            "error",
            "energy-constant",
            f"{named(frames)}: the same energy to all digits ({energy:.8g} eV), and forces up to "
            f"{survey.max_force[own].max():.2g} eV/Å that differ",
            "write the energies of the calculation, or none: forces alone can be trained on",
            frames,
        )


def _zeros_of_systems(survey: Survey, explained: Explained) -> Iterator[Finding]:
    """Systems whose energies lie apart from the others', with neighbourhoods like theirs.

    Of few systems the first is told, of many each that is exchanged.
    """
    which = explained.which
    members = {k: own for k, own in survey.by_system(which).items() if len(own) >= 3}
    if len(members) < 2:
        return
    shares = survey.counts[which] / survey.n_atoms[which][:, None]
    per_atom = survey.energy[which] / survey.n_atoms[which]
    typical = survey.geometry.typical[which]
    apart = {k: float(np.median(explained.by_composition[own])) for k, own in members.items()}
    suspects = sorted(members, key=lambda k: -abs(apart[k]))[:MOST_SUSPECTS]

    @cache
    def own_deviations() -> tuple[dict[int, float], dict[int, float]]:
        """Half a second for some hundred systems, so only once one is suspected."""
        mean = np.array([shares[own].mean(axis=0) for own in members.values()])
        middle = np.array([np.median(per_atom[own]) for own in members.values()])
        without, part = left_out(mean, middle)
        known = {k: x for k, x in zip(members, without * part, strict=True) if np.isfinite(x)}
        return known, dict(zip(members, part.tolist(), strict=True))

    exchanged = False
    zeros: list[Finding] = []
    for k in sorted(suspects, key=lambda k: len(members[k])):
        own = np.zeros(len(which), dtype=bool)
        own[members[k]] = True
        others = ~own
        if others.sum() < 3 or own.sum() > others.sum():
            continue
        constants, _ = robust_fit(shares[others], per_atom[others])
        if not spanned(shares[others], shares[own]):
            continue
        left = per_atom - shares @ constants
        shift = float(np.median(left[own]) - np.median(left[others]))
        width = max(_width(left[own]), _width(left[others]))
        low, high = np.quantile(left[others], [0.02, 0.98])
        outside = not low <= np.median(left[own]) <= high
        alike = _alike(typical[own], typical[others])
        if not (alike and outside) or abs(shift) < max(ZERO_WARNING, 3 * width):
            continue
        usually, parts = own_deviations()
        usual = Usual.of([x for j, x in usually.items() if j != k])
        swap = exchange(survey, k, (shares[own], per_atom[own], constants), shift, usual, parts[k])
        if swap:
            numbered = type_map_of(survey.names[k]) is not None  # else elements go by name
            yield Finding(
                "error" if numbered else "warning",
                "element-swapped",
                f"{survey.names[k]}: energies {shift:+.2f} eV/atom off those of the other "
                f"systems, and right with {swap} exchanged",
                "check the order of its type_map.raw"
                if numbered
                else "check its elements, or another zero of energy",
            )
            exchanged = True
        elif usual.so_far_off(shift * parts[k]) < CHANCE:
            off = np.abs(shares[others] - shares[own].mean(axis=0)).max(axis=1)
            same = off.min() < OTHER_COMPOSITION
            zeros.append(
                Finding(
                    "error" if abs(shift) > ZERO_ERROR and same else "warning",
                    "energy-zeros",
                    f"{survey.names[k]}: energies lie {shift:+.3f} eV/atom from those of the other "
                    f"systems for their compositions (spread {width:.3g} eV/atom)",
                    ONE_ZERO,
                )
            )
        if not usual.known and (swap or zeros):
            break
    if not exchanged:
        yield from zeros[:1]


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether typical distances are alike, so that energies should be."""
    first, second = float(np.median(one)), float(np.median(other))
    return bool(np.isfinite([first, second]).all() and abs(first / second - 1) < 0.15)


def _width(values: np.ndarray) -> float:
    """Half of what the middle 90 % of the values span."""
    low, high = np.quantile(values, [0.05, 0.95])
    return 0.5 * float(high - low)


def _two_levels(survey: Survey, explained: Explained) -> Iterator[Finding]:
    """One set of frames in two groups of energies with a wide gap, and neighbourhoods alike."""
    order = np.argsort(explained.by_composition)
    left = explained.by_composition[order]
    if len(left) < 2 * LEAST_FRAMES:
        return
    gaps = np.diff(left)
    at = int(np.argmax(gaps)) + 1
    low, high = left[:at], left[at:]
    if min(len(low), len(high)) < 3:
        return
    width = max(_width(low), _width(high))
    typical = survey.geometry.typical[explained.which[order]]
    alike = _alike(typical[:at], typical[at:])
    shift = float(np.median(high) - np.median(low))
    by_shape = explained.by_shape[order]
    kept = abs(float(np.median(by_shape[at:]) - np.median(by_shape[:at])))
    phases = kept < EXPLAINED_BY_SHAPE * shift
    if alike and gaps[at - 1] > max(ZERO_WARNING, 4 * width):
        fewer = order[:at] if at <= len(left) - at else order[at:]
        frames = survey.sources(np.sort(explained.which[fewer]))
        yield Finding(
            "note" if phases else "error" if shift > ZERO_ERROR else "warning",
            "energy-zeros",
            f"{named(frames)}: energies {shift:.3f} eV/atom apart from those of the other "
            f"{counted(len(left) - len(fewer), 'frame')}, which are as dense"
            + (", and whose structures explain it" if phases else ""),
            f"if these are not two phases, {ONE_ZERO}" if phases else ONE_ZERO,
            frames,
        )


def _zeros_of_elements(survey: Survey, explained: Explained) -> Iterator[Finding]:
    """An element whose zero differs in a block of the frames, in the order of the files."""
    which = explained.which
    found = offsets.of_block(
        survey.energy[which] / survey.n_atoms[which],
        explained.columns,
        n_elements=len(survey.elements),
        typical=survey.geometry.typical[which],
    )
    if found is None or abs(found.offset) < ZERO_WARNING:
        return
    frames = survey.sources(which[found.block])
    yield Finding(
        "error" if abs(found.offset) > ZERO_ERROR else "warning",
        "energy-zeros",
        f"{frames[0]} to {frames[-1]}: energies fit those of the other "
        f"{counted(len(which) - len(frames), 'frame')}, of like compositions and structures, with "
        f"{found.offset:+.2f} ± {found.error:.2f} eV for each {survey.elements[found.element]} "
        "atom, expected 0",
        f"look for another pseudopotential of {survey.elements[found.element]}; {ONE_ZERO}",
        frames,
    )


def _outliers(survey: Survey, explained: Explained) -> Iterator[Finding]:
    """Frames whose energy neither composition nor neighbourhoods explain."""
    typical = max(spread(explained.by_shape), 1e-4)
    usual = max(spread(explained.by_composition), 1e-4)
    far = (np.abs(explained.by_shape) > max(30 * typical, OUTLIER)) & (
        np.abs(explained.by_composition) > max(10 * usual, OUTLIER)
    )
    if far.any():
        order = np.argsort(np.where(far, -np.abs(explained.by_shape), 0.0))[: int(far.sum())]
        frames = survey.sources(explained.which[order])
        worst = float(explained.by_composition[order[0]])
        yield Finding(
            "warning",
            "energy-outlier",
            f"{named(frames)}: energy {worst:+.2f} eV/atom from that of the set's compositions, "
            f"where {usual:.2g} is usual, and the structure does not explain it",
            "check that the calculation converged; cut or weight what is far from use",
            frames,
        )


def _copied(survey: Survey, explained: Explained) -> Iterator[Finding]:
    """Energies that agree to all digits between structures that differ."""
    which = explained.which
    values, inverse, counts = np.unique(
        survey.energy[which], return_inverse=True, return_counts=True
    )
    bad: list[int] = []
    groups = 0
    for group in np.flatnonzero(counts >= 3):
        own = which[inverse == group]
        shape = survey.geometry.fingerprint[own]
        different = np.abs(shape - shape[0]).max(axis=1) > COPIED_SHAPE
        if different.sum() >= 2:
            bad += [int(k) for k in own]
            groups += 1
    n, distinct = len(which), len(values)
    by_chance = distinct < 0.9 * n and groups > 0 and len(bad) < 0.2 * n
    if bad and not by_chance:
        frames = survey.sources(bad)
        yield Finding(
            "warning",
            "energy-copied",
            f"{named(frames)}: the same energy to all digits "
            f"({survey.energy[bad[0]]:.8g} eV) for different structures",
            "check that labels and structures belong together",
            frames,
        )
