"""Pairs of frames so alike that the work between them can be told from their labels.

For two frames with the same atoms, displaced by δ (3 numbers for each atom) at fixed cell and
strained by ε, the trapezoidal rule gives E₂ − E₁ ≈ −½ Σ (F₁ + F₂)·δ − ½ (W₁ + W₂):ε with the
virial W = −∂E/∂ε: what forces and virials say about the energy, up to third order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Frame
from .survey import Survey

GROUP = 400
"""Of more frames with the same atoms in one system, so many are compared, evenly spread."""
PARTNERS = 6
"""Partners that are tried for each frame: the nearest ones in shape, and in another cell."""
MOST_PAIRS = 4000
NEAR, FARTHEST = 0.4, 0.8
"""Å: the largest displacement of an atom relative to the others, where there are enough pairs
so near, and where there are not."""
ENOUGH = 60
LARGEST_STRAIN = 0.06
THIRD_ORDER, RESOLUTION = 0.1, 1e-3
"""Assumed errors of the rule: 10 % of the second order, and 1 meV for one atom."""
LEFT_OUT = 20
"""Groups of frames that a standard error is made of, by leaving out each in turn."""


@dataclass
class Pairs:
    """P pairs of frames of one system and what is known of the way between them."""

    first: np.ndarray
    second: np.ndarray
    """(P,) frame numbers."""
    difference: np.ndarray
    """(P,) E₂ − E₁, eV."""
    force_work: np.ndarray
    """(P,) −½ Σ (F₁ + F₂)·δ, eV."""
    uncertainty: np.ndarray
    """(P,) eV: a tenth of ½ |Σ (F₂ − F₁)·δ + (W₂ − W₁):ε|, the second order, for the third."""
    curvature: np.ndarray
    """(P,) Σ (F₁ − F₂)·δ, eV: twice the energy that harmonic springs would gain on the way."""
    virial: np.ndarray
    """(P, 3, 3) ½ (W₁ + W₂), eV; NaN where a frame has none."""
    strain: np.ndarray
    """(P, 3, 3) ε, symmetric."""
    n_atoms: np.ndarray
    """(P,)."""
    volume: np.ndarray
    """(P,) mean, Å³."""
    moved: np.ndarray
    """(P,) Σ δ², Å²."""

    def __len__(self) -> int:
        return len(self.first)

    def chosen(self, which: np.ndarray) -> Pairs:
        """Those pairs alone."""
        return Pairs(**{name: getattr(self, name)[which] for name in self.__dataclass_fields__})

    def standard_error(self, estimate: Callable[[np.ndarray], float]) -> float:
        """Of what `estimate` makes of the pairs that its argument (P,) bool chooses.

        A jackknife over frames (Efron & Stein, Ann. Stat. 9, 586 (1981)): pairs that have a frame
        in common are not independent, and a few frames make many pairs. Infinite where all pairs
        have frames of one group in common.
        """
        frames, ends = np.unique([self.first, self.second], return_inverse=True)
        groups = ends.reshape(2, -1) % LEFT_OUT
        n_groups = min(len(frames), LEFT_OUT)
        rests = [(groups != g).all(axis=0) for g in range(n_groups)]
        if not all(rest.any() for rest in rests):
            return float("inf")
        found = np.array([estimate(rest) for rest in rests])
        return float(np.sqrt((n_groups - 1) / n_groups * ((found - found.mean()) ** 2).sum()))


def near_pairs(survey: Survey, frames: np.ndarray) -> Pairs:
    """Pairs among the frame numbers `frames`, which have energies and forces; of one `fparam`."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for k in frames:
        frame = survey.frames[k]
        if frame.energy is not None and frame.forces is not None and frame.n_atoms > 1:
            state = () if frame.fparam is None else tuple(frame.fparam)
            groups[survey.system[k], frame.symbols, tuple(frame.pbc), state].append(int(k))
    rows = []
    for members in groups.values():
        if len(members) > 1:
            spread = np.linspace(0, len(members) - 1, min(len(members), GROUP)).astype(int)
            rows += _of_group(survey, [members[i] for i in spread])
    near = [row for row in rows if row[0] <= NEAR]
    rows = near if len(near) >= ENOUGH else rows
    if len(rows) > MOST_PAIRS:
        spread = np.linspace(0, len(rows) - 1, MOST_PAIRS).astype(int)
        rows = [rows[i] for i in spread]
    names = list(Pairs.__dataclass_fields__)
    values = list(zip(*rows, strict=True))[1:] if rows else [()] * len(names)
    columns = {name: np.array(v, dtype=float) for name, v in zip(names, values, strict=True)}
    for name in ("first", "second"):
        columns[name] = columns[name].astype(int)
    for name in ("virial", "strain"):
        columns[name] = columns[name].reshape(-1, 3, 3)
    return Pairs(**columns)


def _of_group(survey: Survey, members: list[int]) -> list[tuple[Any, ...]]:
    """The pairs among frames of the same atoms that are near enough."""
    frames = [survey.frames[k] for k in members]
    likeness = _likeness(frames)
    np.fill_diagonal(likeness, -np.inf)
    cells = np.array([f.cell.ravel() for f in frames])
    size = np.abs(cells).max() or 1.0
    other = np.abs(cells[:, None] - cells[None]).max(axis=2) > 1e-4 * size
    chosen = set()
    for alike in (likeness, np.where(other, likeness, -np.inf)):
        for i, row in enumerate(alike):
            for j in np.argsort(row)[::-1][:PARTNERS]:
                if np.isfinite(row[j]):
                    chosen.add((min(i, int(j)), max(i, int(j))))
    rows = []
    for i, j in sorted(chosen):
        row = _work(frames[i], frames[j])
        if row is not None:
            rows.append((row[0], members[i], members[j], *row[1:]))
    return rows


def _likeness(frames: list[Frame]) -> np.ndarray:
    """(n, n): larger for frames whose atoms are in nearer places, relative to their cells."""
    if frames[0].pbc.all():
        scaled = np.array([f.positions @ np.linalg.inv(f.cell) for f in frames])
        phase = 2 * np.pi * (scaled - scaled[:, :1]).reshape(len(frames), -1)
        features = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
        return features @ features.T
    centred = np.array([f.positions - f.positions.mean(axis=0) for f in frames])
    flat = centred.reshape(len(frames), -1)
    product = flat @ flat.T
    square = np.diag(product)
    return 2 * product - square[:, None] - square


def displacement(a: Frame, b: Frame) -> np.ndarray:
    """(n, 3) Å: from each atom of `a` to its nearest image in `b`, a common translation taken out.

    For frames with the same atoms in the same order; strain is left out of it.
    """
    if a.pbc.all():
        mean = 0.5 * (a.cell + b.cell)
        scaled = b.positions @ np.linalg.inv(b.cell) - a.positions @ np.linalg.inv(a.cell)
        for reference in (scaled[0], None):  # an atom first, then the mean of what is left
            scaled = scaled - (scaled.mean(axis=0) if reference is None else reference)
            scaled = scaled - np.round(scaled)
        return scaled @ mean
    moved = b.positions - a.positions
    return moved - moved.mean(axis=0)


def moved_between(a: Frame, b: Frame) -> np.ndarray:
    """(n, 3) Å: `displacement`, or in partly periodic frames plainly the difference."""
    if a.pbc.any() and not a.pbc.all():
        return b.positions - a.positions
    return displacement(a, b)


def _work(a: Frame, b: Frame) -> tuple[Any, ...] | None:
    """The largest displacement, and the fields of `Pairs`; None if the two are not near."""
    partly = a.pbc.any() and not a.pbc.all()
    if partly and np.abs(a.cell - b.cell).max() > 1e-9:
        return None
    moved = moved_between(a, b)
    farthest = float(np.sqrt((moved**2).sum(axis=1).max()))
    if farthest > FARTHEST:
        return None
    strain, turn, volume = np.zeros((3, 3)), 0.0, np.nan
    if a.pbc.all():
        mean = 0.5 * (a.cell + b.cell)
        gradient = np.linalg.solve(mean, b.cell - a.cell)
        strain, turn = 0.5 * (gradient + gradient.T), float(np.abs(gradient - gradient.T).max())
        volume = abs(float(np.linalg.det(mean)))
    if np.abs(strain).max() > LARGEST_STRAIN or turn > 2 * LARGEST_STRAIN:
        return None
    labels = (a.energy, a.forces, b.energy, b.forces)
    energy_a, forces_a, energy_b, forces_b = (np.asarray(x, dtype=float) for x in labels)
    work = -0.5 * float(((forces_a + forces_b) * moved).sum())
    curvature = float(((forces_a - forces_b) * moved).sum())
    second = -curvature
    virial = np.full((3, 3), np.nan)
    if a.virial is not None and b.virial is not None:
        virial = 0.5 * (a.virial + b.virial)
        second += float(((b.virial - a.virial) * strain).sum())
    uncertainty = THIRD_ORDER * 0.5 * abs(second) + RESOLUTION * np.sqrt(a.n_atoms)
    difference = float(energy_b - energy_a)
    size = float((moved**2).sum())
    fields = (difference, work, uncertainty, curvature, virial, strain, a.n_atoms, volume, size)
    return farthest, *fields
