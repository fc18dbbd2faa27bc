"""Energies that do not follow from forces or virials: which of the two is at fault, and why.

Where one label explains the energies and the other does not, it is the other. Where neither does,
exchanges of atoms, components, frames and signs are tried on each; the one that restores them is
the mistake. Failing that, pairs along which one label hardly counts tell of the other alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from ..data.frames import counted
from .finding import Finding
from .pairs import way
from .survey import Survey
from .virials import SHEAR_ORDER, better_signs, shear_change, swapped
from .works import CONTRADICTED, CORRELATION, FORCE, LABELS, LEAST_PAIRS, RESTORED, VIRIAL, Works

UNRELATED, RELATED = 0.4, 0.6
"""Correlations below and above which, by two standard errors, a label has nothing, or much, to do
with the energies."""
NEGLIGIBLE = 0.3
"""Part of the work of a label that the other one may do at most where it is tested alone."""
SPRINGS = 0.4
"""Median cosine between displacements and minus the change of the forces, from which on forces are
those of their atoms: 0.5 to 0.9 where they are right, -0.1 to 0.2 in another order."""
UNFOLLOWING = (
    "forces change along displacements as those of springs do, so look at the energies (noise, "
    "frames that did not converge, two zeros or two electronic states) and at the units of both"
)
HELD = 40.0
"""Å³ for each atom of cells periodic in three directions, up to which neighbours hold every atom.
In more space molecules may turn and fold, along which the chord of a way tells little."""
LOOK = {
    None: "look whether forces or virials are in another order, of another frame, or of another "
    "sign in some frames",
    FORCE: "look whether the forces are in another order of atoms, of another frame or of the "
    "wrong sign",
    VIRIAL: "look whether the virials are in another order, of another frame, or of another sign "
    "in some frames",
}
PER_ATOM = "this looks like energies per atom: multiply them by the number of atoms"
NAMES = {FORCE: "forces", VIRIAL: "virials"}

Forces = Callable[[int], np.ndarray | None]


@dataclass
class Exchange:
    """A change of one label, and the works with it."""

    label: int | None
    """None for the energies."""
    code: str
    do: str
    works: Works
    frames: tuple[str, ...] = ()
    """Those concerned, where not all are."""


def misplaced(works: Works, survey: Survey, name: str) -> Finding | None:
    """The label that energies do not follow from; None where they do, or noise is the reason."""
    labels = [k for k in (FORCE, VIRIAL) if works.enough(k) and not works.tested(k)]
    labels = [k for k in labels if works.contradicted(k)]
    if not labels:
        return None
    exchange = _restoring(works, labels, survey)
    label, found = _at_fault(works, labels, survey)
    if exchange is not None:
        label = exchange.label
        found = works.explained if label is None else works.correlated(label)
    own = works.pairs if label is None else works.pairs.chosen(works.own[:, label])
    held = np.mean(own.volume < HELD * own.n_atoms) > 0.5  # volumes in open space are NaN
    sure = exchange is not None or (held and _bounds(abs(found), works)[1] < UNRELATED)
    where = "forces and virials" if label is None else f"the {NAMES[label]}"
    what = (
        f"{name}: differences of energy of {len(own)} near pairs of frames do not follow from "
        f"{where} (correlation {found:.2f}, expected above {CORRELATION})"
    )
    doubted = FORCE in labels and label != VIRIAL and exchange is None
    if doubted and _spring(works, survey):
        return Finding("warning", "labels-contradict", what, UNFOLLOWING)
    if exchange is not None:
        return Finding("error", exchange.code, what, exchange.do, exchange.frames)
    code = "labels-contradict" if label is None else ("force-order", "virial-order")[label]
    turning = "" if held else "; molecules that turn or fold far can look like this too"
    return Finding("error" if sure else "warning", code, what, LOOK[label] + turning)


def _spring(works: Works, survey: Survey) -> bool:
    """Whether forces change along displacements as those of springs do, which needs no energies."""
    pairs = works.pairs.chosen(works.own[:, FORCE])
    cosines = []
    for i, j, gain in zip(pairs.first, pairs.second, pairs.curvature, strict=True):
        a, b = survey.frames[i], survey.frames[j]
        moved, turn = way(a, b)
        change = np.asarray(a.forces) - np.asarray(b.forces) @ turn
        size = np.linalg.norm(change) * np.linalg.norm(moved)
        if size > 0:
            cosines.append(gain / size)
    return bool(cosines) and float(np.median(cosines)) > SPRINGS


def _bounds(found: float, works: Works) -> tuple[float, float]:
    """Of a correlation, two standard errors below and above (Fisher's transformation)."""
    # of pairs that share frames only so many are independent
    n_frames = len(np.union1d(works.pairs.first, works.pairs.second))
    error = 2.0 / np.sqrt(max(1, min(n_frames, len(works)) - 3))
    middle = np.arctanh(min(found, 0.999))
    return float(np.tanh(middle - error)), float(np.tanh(middle + error))


def _at_fault(works: Works, labels: list[int], survey: Survey) -> tuple[int | None, float]:
    """The label at fault, None where none can be singled out, and its correlation."""
    for label in labels:
        if works.right(1 - label) or not works.enough(1 - label):
            return label, works.correlated(label)
    for label in labels:
        alone = _alone(works, label, survey)
        if alone is None:
            continue
        if abs(alone.correlated(label)) >= CORRELATION:
            return 1 - label, works.correlated(1 - label)
        if alone.misfit(label, np.ones(2)) >= CONTRADICTED:
            return label, alone.correlated(label)
    found = [works.correlated(label) for label in (FORCE, VIRIAL)]
    for label in labels:
        without, other = found[label], found[1 - label]
        if _bounds(abs(without), works)[1] < UNRELATED and _bounds(other, works)[0] > RELATED:
            return label, without
    return None, works.explained


def _alone(works: Works, label: int, survey: Survey) -> Works | None:
    """The pairs along which the other label does next to no work, whatever its order and sign."""
    pairs = works.pairs
    if label == FORCE:
        size = np.array(
            [0.0 if f.virial is None else np.linalg.norm(f.virial) for f in survey.frames]
        )
        way = np.linalg.norm(pairs.strain, axis=(1, 2)) * works.own[:, VIRIAL]
    else:
        size = np.array(
            [0.0 if f.forces is None else np.linalg.norm(f.forces) for f in survey.frames]
        )
        way = np.sqrt(pairs.moved)
    most = 0.5 * (size[pairs.first] + size[pairs.second]) * way / pairs.uncertainty
    telling = works.own[:, label] & (most < NEGLIGIBLE * np.abs(works.works[:, label]))
    return works.chosen(telling) if telling.sum() >= LEAST_PAIRS else None


def _restoring(works: Works, labels: list[int], survey: Survey) -> Exchange | None:
    """The exchange after which forces and virials explain the energies; None if none of those."""
    for label in labels:
        other = works.with_work(label, -works.works[:, label])
        left = other.misfit(label, np.ones(2))
        if left < min(CONTRADICTED, RESTORED * works.misfit(label, np.ones(2))):
            do = f"the {NAMES[label]} have the wrong sign: change it"
            return Exchange(label, f"{LABELS[label]}-sign", do, other)
    tried = [Exchange(None, "energy-unit", PER_ATOM, works.per_atom())]
    if VIRIAL in labels:
        tried += _virials(works, survey)
    if FORCE in labels:
        tried += _forces(works, survey)
    best = min(tried, key=lambda exchange: exchange.works.unexplained)
    if best.label is None:
        fits = best.works.explained >= CORRELATION
        good = fits and not any(best.works.contradicted(label) for label in labels)
    else:
        good = best.works.tested(best.label) and best.works.fitted[best.label] > 0
    return best if good and best.works.unexplained < RESTORED * works.unexplained else None


def _virials(works: Works, survey: Survey) -> Iterator[Exchange]:
    pairs, given = works.pairs, works.works[:, VIRIAL]
    bad, signed = better_signs(works, survey)
    frames, sources = np.union1d(pairs.first, pairs.second), survey.sources(bad)
    first = f" ({sources[0]} …)" if sources else ""
    yield Exchange(
        VIRIAL,
        "virial-sign",
        f"the virials of {counted(len(bad), 'frame')} of {len(frames)} fit with the other sign"
        + first,
        works.with_work(VIRIAL, signed),
        sources,
    )
    for order in permutations(range(3)):
        yield Exchange(
            VIRIAL,
            "virial-order",
            f"the shear components are in another order ({swapped(order)}): {SHEAR_ORDER}",
            works.with_work(VIRIAL, given + shear_change(works, order)),
        )
    for factor, do in (
        (pairs.volume, "a stress in place of the virial: multiply it by the volume"),
        (1 / pairs.volume, "virials multiplied by the volume once too often: divide them by it"),
        (pairs.n_atoms, "virials of one atom: multiply them by the number of atoms"),
    ):
        work = np.where(works.own[:, VIRIAL], given * factor, 0.0)
        yield Exchange(
            VIRIAL, "virial-unit", f"this looks like {do}", works.with_work(VIRIAL, work)
        )


def _forces(works: Works, survey: Survey) -> Iterator[Exchange]:
    def forces(k: int) -> np.ndarray:
        return np.asarray(survey.frames[k].forces)

    def of_frame(step: int) -> Forces:
        def other(k: int) -> np.ndarray | None:
            j = k + step
            if not 0 <= j < len(survey) or survey.system[j] != survey.system[k]:
                return None
            alike = survey.frames[j].symbols == survey.frames[k].symbols
            return survey.frames[j].forces if alike else None

        return other

    tried: dict[str, Forces] = {
        "the components are shifted by one: the first number is that of y": (
            lambda k: np.roll(forces(k), 1, axis=1)
        ),
        "the components are shifted by one: the first number is that of z": (
            lambda k: np.roll(forces(k), -1, axis=1)
        ),
        "each force is that of the atom before": lambda k: np.roll(forces(k), -1, axis=0),
        "each force is that of the atom after": lambda k: np.roll(forces(k), 1, axis=0),
        "the atoms of the forces are in reverse order": lambda k: forces(k)[::-1],
        "the forces are those of the frame before": of_frame(1),
        "the forces are those of the frame after": of_frame(-1),
    }
    for what, other in tried.items():
        changed = _with_forces(works, survey, other)
        if changed is not None:
            yield Exchange(FORCE, "force-order", what, changed)


def _with_forces(works: Works, survey: Survey, other: Forces) -> Works | None:
    """The works with `other` forces; None where few pairs have those."""
    pairs = works.pairs
    work = np.full(len(pairs), np.nan)
    for p, (i, j) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        first, second = other(int(i)), other(int(j))
        if first is not None and second is not None:
            moved, turn = way(survey.frames[i], survey.frames[j])
            work[p] = -0.5 * float(((first + second @ turn) * moved).sum())
    has = np.isfinite(work)
    if has.sum() < max(LEAST_PAIRS, 0.5 * len(pairs)):
        return None
    own = replace(works, works=works.works.copy())
    own.works[:, FORCE] = work / pairs.uncertainty
    return own.chosen(has)
