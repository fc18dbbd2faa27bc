"""Virials of another order or sign than their energies, and with a kinetic part."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from ..units import BOLTZMANN
from .finding import Finding
from .pairs import Pairs
from .survey import Survey, robust_fit
from .works import FORCE, LEAST_PAIRS, SURE, VIRIAL, Works

SHEAR = ((1, 2), (0, 2), (0, 1))
SHEAR_NAMES = ("yz", "xz", "xy")
SHEAR_ORDER = "put them in order (ASE's stress: xx yy zz yz xz xy; VASP prints xx yy zz xy yz zx)"
CONTRAST = 2.0
"""Uncertainties by which another order of the shear components must change the work of a pair for
the pair to tell anything of the order."""
FAR_OFF = 10.0
"""Pairs farther off than so many uncertainties count as this far: single ones decide nothing."""
KINETIC_STRAIN, STIFF = 0.04, 0.03
"""Largest relative change of volume, and largest curvature (eV/atom), of pairs that the kinetic
part is sought in."""
MOST_FRAMES = 1000
"""In which signs are sought: the time grows with the cube of their number."""
SWEEPS, CLEARLY = 30, 0.8
"""Rounds in which signs of frames are sought, and the part of what pairs are off with the given
sign that the other one leaves at most."""


def shear_work(pairs: Pairs, order: tuple[int, ...]) -> np.ndarray:
    """(P,) eV: the work of the shear components, the `order[k]`-th taken for the k-th."""
    given = np.stack([pairs.virial[:, i, j] for i, j in SHEAR])
    strain = np.stack([pairs.strain[:, i, j] for i, j in SHEAR])
    work: np.ndarray = -2 * (given[list(order)] * strain).sum(axis=0)
    return work


def shear_change(works: Works, order: tuple[int, ...]) -> np.ndarray:
    """(P,) what another order of the shear components adds to the works of the virials."""
    change = shear_work(works.pairs, order) - shear_work(works.pairs, (0, 1, 2))
    return np.where(works.own[:, VIRIAL], change / works.pairs.uncertainty, 0.0)


def swapped(order: tuple[int, ...]) -> str:
    """An order of the shear components in words."""
    return ", ".join(
        f"{SHEAR_NAMES[k]} holds {SHEAR_NAMES[order.index(k)]}" for k in range(3) if order[k] != k
    )


def shear_order(works: Works, name: str) -> tuple[bool, Finding | None]:
    """Whether the order of the shear components can be tested, and another one that is better.

    Only pairs count along which the order matters, more than the work is uncertain.
    """
    given = (0, 1, 2)
    changed = {order: shear_change(works, order) for order in permutations(given)}
    telling = np.max(np.abs(list(changed.values())), axis=0) > CONTRAST
    if telling.sum() < LEAST_PAIRS:
        return False, None
    own = works.pairs.chosen(telling)
    factor = works.fitted[FORCE] if works.right(FORCE) else 1.0
    left = works.differences - factor * works.works[:, FORCE] - works.works[:, VIRIAL]
    off = {
        order: np.minimum(np.abs(left - change)[telling], FAR_OFF)
        for order, change in changed.items()
    }
    best = min(off, key=lambda order: float(np.mean(off[order])))

    def gain(chosen: np.ndarray) -> float:
        return float(np.log(np.mean(off[given][chosen]) / np.mean(off[best][chosen])))

    times = float(np.median(off[given]) / np.median(off[best]))
    everything = np.ones(len(own), dtype=bool)
    if best == given or times < 2 or gain(everything) < SURE * own.standard_error(gain):
        return True, None
    return True, Finding(
        "error",
        "virial-order",
        f"{name}: the shear components of the virial fit the energies of sheared frames "
        f"{times:.1f} times better in another order ({swapped(best)})",
        SHEAR_ORDER,
    )


def better_signs(works: Works, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose virials fit better with the other sign, and the works (P,) with that sign.

    The signs of factors that fit, one for each frame, are where it starts; then each frame in turn
    keeps the given sign unless its pairs are clearly off less with the other, until none changes.
    """
    pairs = works.pairs
    numbers, ends = np.unique([pairs.first, pairs.second], return_inverse=True)
    ends = ends.reshape(2, -1)
    if len(numbers) > MOST_FRAMES:
        return numbers[:0], works.works[:, VIRIAL]
    share = -0.5 * pairs.strain / pairs.uncertainty[:, None, None]
    known = (survey.frames[k].virial for k in numbers)
    virials = np.array([np.zeros((3, 3)) if virial is None else virial for virial in known])
    halves = np.einsum("epij,pij->ep", virials[ends], share) * works.own[:, VIRIAL]
    left = works.differences - works.works[:, FORCE]
    table = np.zeros((len(works), len(numbers)))
    np.add.at(table, (np.arange(len(works)), ends), halves)
    factors, _ = robust_fit(table, left)
    sign = np.where(factors < 0, -1.0, 1.0)
    members = [np.flatnonzero((ends == k).any(axis=0)) for k in range(len(numbers))]
    for _ in range(SWEEPS):
        before = sign.copy()
        for k, own in enumerate(members):
            is_mine = ends[:, own] == k
            mine = (halves[:, own] * is_mine).sum(axis=0)
            rest = left[own] - (halves[:, own] * sign[ends[:, own]] * ~is_mine).sum(axis=0)
            given, other = (np.abs(rest - s * mine).sum() for s in (1.0, -1.0))
            sign[k] = -1.0 if other < CLEARLY * given else 1.0
        if (sign == before).all():
            break
    return numbers[sign < 0], (halves * sign[ends]).sum(axis=0)


def kinetic_part(works: Works, name: str, survey: Survey) -> Iterator[Finding]:
    """A diagonal excess of k_B T for each atom, in frames whose atoms are in motion.

    Springs that soften with volume leave γ/2 · (curvature) · Δ ln V to the third order (γ:
    Grüneisen parameter), for independent snapshots more than what is sought. Only pairs of nearly
    the same displacements can tell: one snapshot in several cells, or consecutive steps at
    constant pressure.
    """
    pairs = works.pairs
    force = np.minimum(survey.rms_force[pairs.first], survey.rms_force[pairs.second])
    swelling = np.trace(pairs.strain, axis1=1, axis2=2)
    chosen = works.own[:, VIRIAL] & (force > 0.2)
    chosen &= (np.abs(swelling) < KINETIC_STRAIN) & (np.abs(swelling) > 1e-3)
    chosen &= np.abs(pairs.curvature) < STIFF * pairs.n_atoms
    if chosen.sum() < LEAST_PAIRS:
        return
    own = pairs.chosen(chosen)
    left = works.left(VIRIAL)[chosen] - works.works[chosen, VIRIAL]
    x = own.n_atoms * swelling[chosen] / own.uncertainty
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
