"""Pairs of frames so alike that the work between them can be told from their labels.

For two frames with the same atoms, displaced by δ (3 numbers for each atom) at fixed cell and
strained by ε, the trapezoidal rule gives E₂ − E₁ ≈ −½ Σ (F₁ + F₂)·δ − ½ (W₁ + W₂):ε with the
virial W = −∂E/∂ε: what forces and virials say about the energy, up to third order. Molecules and
wires are laid upon one another first, and forces turned along (`turning`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Frame
from ..progress import progress
from .survey import Survey
from .turning import axis_of, can_turn, centred, likeness, turns

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
CHUNK = 200_000
"""Atoms of the pairs that are treated at once."""
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
    """Pairs among the frame numbers `frames`, which have energies and forces; of one `fparam`
    and one `head`."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for k in frames:
        frame = survey.frames[k]
        if frame.energy is not None and frame.forces is not None and frame.n_atoms > 1:
            state = (frame.head, *(() if frame.fparam is None else tuple(frame.fparam)))
            groups[survey.system[k], frame.symbols, tuple(frame.pbc), state].append(int(k))
    rows = []
    for members in progress(groups.values(), "near pairs", unit="group", quiet=survey.quiet):
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
    chosen = []
    for alike in (likeness, np.where(other, likeness, -np.inf)):
        partner = np.argsort(alike, axis=1)[:, ::-1][:, :PARTNERS]
        own = np.broadcast_to(np.arange(len(frames))[:, None], partner.shape)
        finite = np.isfinite(np.take_along_axis(alike, partner, axis=1))
        chosen.append(np.sort(np.stack([own[finite], partner[finite]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(chosen), axis=0)
    return [(far, members[i], members[j], *row) for i, j, far, *row in _works(frames, pairs)]


def _likeness(frames: list[Frame]) -> np.ndarray:
    """(n, n): larger for frames whose atoms are in nearer places, relative to their cells, or where
    they can turn to one another."""
    if frames[0].pbc.all():
        cells = np.linalg.inv(np.array([f.cell for f in frames]))
        scaled = np.array([f.positions for f in frames]) @ cells
        phase = 2 * np.pi * (scaled - scaled[:, :1]).reshape(len(frames), -1)
        features = np.concatenate([np.cos(phase), np.sin(phase)], axis=1)
        return features @ features.T
    positions = np.array([f.positions for f in frames])
    if can_turn(frames[0].pbc):
        return likeness(positions, axis_of(frames[0]))
    flat = centred(positions).reshape(len(frames), -1)
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
        return _nearest(scaled) @ mean
    moved = b.positions - a.positions
    return moved - moved.mean(axis=0)


def way(a: Frame, b: Frame) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) Å: how far the atoms of `a` are from those of `b`, and (3, 3) the turn of `b` before
    that, which its forces f take part in: f @ turn."""
    if can_turn(a.pbc):
        first, second = centred(a.positions), centred(b.positions)
        turn = turns(second.T @ first, axis_of(a))
        return second @ turn - first, turn
    return displacement(a, b) if a.pbc.all() else b.positions - a.positions, np.eye(3)


def _works(frames: list[Frame], pairs: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """Of those `pairs` (P, 2) of frames of the same atoms that are near: their two numbers, the
    largest displacement, and the other fields of `Pairs`."""
    pbc, n = frames[0].pbc, frames[0].n_atoms
    axis = axis_of(frames[0]) if can_turn(pbc) else None
    cells = np.array([f.cell for f in frames])
    positions = np.array([f.positions for f in frames])
    if pbc.all():
        positions = positions @ np.linalg.inv(cells)
    elif can_turn(pbc):
        positions = centred(positions)
    forces = np.array([f.forces for f in frames])
    energies = np.array([f.energy for f in frames], dtype=float)
    unknown = np.full((3, 3), np.nan)
    virials = np.array([unknown if f.virial is None else f.virial for f in frames])
    size = max(1, CHUNK // n)
    for start in range(0, len(pairs), size):
        a, b = pairs[start : start + size].T
        near = np.ones(len(a), dtype=bool)
        mean, strain, volume = 0.5 * (cells[a] + cells[b]), np.zeros((len(a), 3, 3)), None
        places, force = positions[b], forces[b]
        if can_turn(pbc):
            turn = turns(np.swapaxes(places, 1, 2) @ positions[a], axis)
            places, force = places @ turn, force @ turn
        moved = places - positions[a]
        if pbc.all():
            moved = _nearest(moved) @ mean
            gradient = np.linalg.solve(mean, cells[b] - cells[a])
            turned = np.swapaxes(gradient, 1, 2)
            strain, volume = 0.5 * (gradient + turned), np.abs(np.linalg.det(mean))
            near &= np.abs(strain).max(axis=(1, 2)) <= LARGEST_STRAIN
            near &= np.abs(gradient - turned).max(axis=(1, 2)) <= 2 * LARGEST_STRAIN
        elif pbc.any():
            near &= np.abs(cells[a] - cells[b]).max(axis=(1, 2)) <= 1e-9
        farthest = np.sqrt((moved**2).sum(axis=2).max(axis=1))
        near &= farthest <= FARTHEST
        work = -0.5 * ((forces[a] + force) * moved).sum(axis=(1, 2))
        curvature = ((forces[a] - force) * moved).sum(axis=(1, 2))
        second = ((virials[b] - virials[a]) * strain).sum(axis=(1, 2))
        second = np.where(np.isnan(second), 0.0, second) - curvature
        uncertainty = THIRD_ORDER * 0.5 * np.abs(second) + RESOLUTION * np.sqrt(n)
        virial = 0.5 * (virials[a] + virials[b])
        square = (moved**2).sum(axis=(1, 2))
        for k in np.flatnonzero(near):
            fields = work[k], uncertainty[k], curvature[k], virial[k], strain[k], n
            last = np.nan if volume is None else volume[k], square[k]
            difference = energies[b[k]] - energies[a[k]]
            yield a[k], b[k], farthest[k], difference, *fields, *last


def _nearest(scaled: np.ndarray) -> np.ndarray:
    """Differences (…, n, 3) in units of the cell, to the nearest images, a common translation taken
    out: that of an atom first, then the mean of what is left."""
    scaled = scaled - scaled[..., :1, :]
    scaled -= np.round(scaled)
    scaled -= scaled.mean(axis=-2, keepdims=True)
    return scaled - np.round(scaled)
