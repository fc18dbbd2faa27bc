"""Two atoms at a distance: smooth at the cutoff and at the table's end, repulsive when close."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from ..files import write_atomically
from ..model import Potential
from ..model.structures import Structure, evaluated
from ..page import panels, png
from ..system import Model
from .verdict import Verdict

POINTS = 400
NEAREST = 0.3
"""Å: the closest distance of a curve (a guard ends a run there)."""
CORE = 0.75
"""Of the sum of covalent radii: two atoms as close as that must repel."""
NUDGE = 1e-6
"""Å, on both sides of a point where a curve might jump."""
JUMP = 1e-5
"""eV and eV/Å."""


@dataclass(frozen=True)
class Curve:
    """The dimer of two elements, in vacuum."""

    pair: str
    core: float
    """Å: `CORE` of the sum of the covalent radii."""
    distances: np.ndarray
    """(n,) Å, ascending."""
    energies: np.ndarray
    """(n,) eV above two atoms far apart."""
    forces: np.ndarray
    """(n,) eV/Å, -dE/dr: positive pushes apart."""


def dimer(model: Model, a: int, b: int, distance: float) -> tuple[float, float]:
    """eV and eV/Å (positive: apart) of two atoms, of types a and b, at a distance (Å)."""
    sample = Structure(
        "dimer",
        np.array([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]]),
        np.zeros((3, 3)),
        np.zeros(3, dtype=bool),
        np.array([a, b], dtype=np.int32),
    )
    result = evaluated(model, sample)
    return result.energy, float(result.forces[1, 0])


def pairs(model: Model) -> Iterator[tuple[int, int, str]]:
    """All pairs of types with their name."""
    names = model.type_map
    for a in range(len(names)):
        for b in range(a, len(names)):
            yield a, b, f"{names[a]}-{names[b]}"


def curves(model: Potential) -> list[Curve]:
    """The dimer curve of every pair of elements, from as near as they get to beyond the cutoff."""
    distances = np.geomspace(_nearest(model), model.rcut + 0.1, POINTS)
    made = []
    for a, b, pair in pairs(model):
        far = dimer(model, a, b, model.rcut + 1.0)[0]
        values = np.array([dimer(model, a, b, r) for r in distances])
        core = CORE * sum(_radius(name) for name in pair.split("-"))
        made.append(Curve(pair, core, distances, values[:, 0] - far, values[:, 1]))
    return made


def _nearest(model: Potential) -> float:
    """Å: `NEAREST`, or where the model's short-range table begins."""
    if model.short_range is None:
        return NEAREST
    return max(NEAREST, float(model.short_range.table().start))


def _radius(name: str) -> float:
    """Covalent radius of an element, Å; 1 Å for a name that is none."""
    return float(covalent_radii[atomic_numbers[name]]) if name in atomic_numbers else 1.0


def smoothness(model: Potential) -> list[Verdict]:
    """At the cutoff, where energy and force must vanish, and where tables end."""
    vanishing = [(0.0, "")]
    for a, b, pair in pairs(model):
        energy, force = dimer(model, a, b, model.rcut - NUDGE)
        far = dimer(model, a, b, model.rcut + 1.0)[0]
        vanishing.append((abs(energy - far) + abs(force), pair))
    rows = [
        ("dimers vanish at the cutoff", vanishing, 1e-8),
        ("dimers continue where the table ends", _jumps(model, model.table_min_distance()), JUMP),
    ]
    if model.short_range is not None:
        table = model.short_range.table()
        places = [r for r in (table.sw_rmin, table.sw_rmax, table.end) if r > _nearest(model)]
        rows.append(("dimers pass the short-range table", _jumps(model, *places), JUMP))
    return [
        Verdict(name, *_worst(of)[:1], limit, "eV, eV/Å", _worst(of)[1]) for name, of, limit in rows
    ]


def _jumps(model: Model, *places: float) -> list[tuple[float, str]]:
    """Jumps of energy and force of all dimers at distances (Å), and which dimer each is of."""
    found = [(0.0, "")]
    for a, b, pair in pairs(model):
        for place in places:
            below, above = (_limit(model, a, b, place, side) for side in (-NUDGE, NUDGE))
            found.append((float(np.abs(above - below).max()), f"{pair} at {place:.3f} Å"))
    return found


def _limit(model: Model, a: int, b: int, distance: float, side: float) -> np.ndarray:
    """(2,) energy and force of a dimer as `distance` is approached from one side."""
    near, further = (np.array(dimer(model, a, b, distance + k * side)) for k in (1, 2))
    return 2.0 * near - further


def _worst(found: list[tuple[float, str]]) -> tuple[float, str]:
    return max(found, key=lambda x: np.inf if np.isnan(x[0]) else x[0])


def repulsion(found: list[Curve]) -> list[Verdict]:
    """Pairs that attract each other within `CORE` of their covalent radii."""
    made = []
    for curve in found:
        inside = curve.distances < curve.core
        pulling = inside & ~(curve.forces >= 0)  # nan pulls
        words = f"closer than {curve.core:.2f} Å the dimer repels"
        if pulling.any():
            reach = curve.distances[pulling]
            words = (
                f"attracts between {reach.min():.2f} and {reach.max():.2f} Å: atoms that come so "
                "close may fuse; train with the repulsion, or on data with shorter distances"
            )
        hole = float(np.max(-curve.forces[inside], initial=0.0))
        name = f"repulsive core {curve.pair}"
        made.append(Verdict(name, hole, 0.0, "eV/Å inwards", words, warns=True))
    return made


def plot(found: list[Curve], path: Path) -> None:
    """Energies of all dimers over the distance, as a PNG at `path`."""
    figure, (axes,) = panels(1)
    for curve in found:
        axes.plot(curve.distances, curve.energies, label=curve.pair)
    lowest = min(float(c.energies.min()) for c in found)
    axes.set(xlabel="distance / Å", ylabel="energy / eV", ylim=(min(1.2 * lowest, -1.0), 20.0))
    axes.set_title("two atoms in vacuum")
    axes.legend(fontsize="small")
    write_atomically(path, png(figure))
