"""Two atoms at a distance: smooth at the cutoff and at the table's end, repulsive when close."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from ase.data import atomic_numbers, covalent_radii

from ..files import write_atomically
from ..model import Potential
from ..page import panels, png
from ..system import LocalEnv, Model
from .verdict import Verdict, badness

POINTS = 400
SHOWN = 10
"""Pairs of elements whose cores are told one by one."""
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
    way_out: str = "train with the repulsion, or on data with shorter distances"
    """What helps where the pair attracts so close."""


def dimers(model: Model, a: int, b: int, distances: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(n,) eV and (n,) eV/Å (positive: apart) of two atoms, of types a and b, at n distances (Å).

    In one evaluation, where the list lets each atom see the one beside it alone.
    """
    r = np.asarray(distances, dtype=np.float64)
    positions = np.zeros((len(r), 2, 3))
    positions[:, 1, 0] = r
    near = torch.from_numpy(r < model.rcut)
    offsets = torch.zeros(2 * len(r) + 1, dtype=torch.int64)
    offsets[1:] = near.repeat_interleave(2).cumsum(0)
    neighbors = torch.arange(2 * len(r), dtype=torch.int32).view(-1, 2).flip(1)[near].flatten()
    rows = torch.from_numpy(positions.reshape(-1, 3))
    types = torch.tensor([a, b], dtype=torch.int32).repeat(len(r))
    found = model.evaluate(LocalEnv(rows, types, len(rows), offsets, neighbors))
    energies, forces = found.energies.detach().numpy(), found.forces.detach().numpy()
    return energies.reshape(-1, 2).sum(axis=1), forces.reshape(-1, 2, 3)[:, 1, 0]


def pairs(model: Model) -> Iterator[tuple[int, int, str]]:
    """All pairs of types with their name."""
    names = model.type_map
    for a in range(len(names)):
        for b in range(a, len(names)):
            yield a, b, f"{names[a]}-{names[b]}"


def curves(model: Potential) -> list[Curve]:
    """The dimer curve of every pair of elements, from as near as they get to beyond the cutoff."""
    distances = np.geomspace(_nearest(model), model.rcut + 0.1, POINTS)
    made, way_out = [], Curve.way_out
    if model.repulsion is not None:
        way_out = "the networks outweigh the repulsion there; train on data with such distances"
    elif model.short_range is not None:
        way_out = "look at the short-range table, and train on data with such distances"
    for a, b, pair in pairs(model):
        energies, forces = dimers(model, a, b, np.append(distances, model.rcut + 1.0))
        core = CORE * sum(_radius(name) for name in pair.split("-"))
        own = distances, energies[:-1] - energies[-1], forces[:-1]
        made.append(Curve(pair, core, *own, way_out))
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
    vanishing = []
    for a, b, pair in pairs(model):
        energies, forces = dimers(model, a, b, [model.rcut - NUDGE, model.rcut + 1.0])
        vanishing.append((abs(energies[0] - energies[1]) + abs(forces[0]), pair))
    rows = [
        ("dimers vanish at the cutoff", vanishing, 1e-8),
        ("dimers continue where the table ends", _jumps(model, model.table_min_distance()), JUMP),
    ]
    if model.short_range is not None:
        table = model.short_range.table()
        places = [r for r in (table.sw_rmin, table.sw_rmax, table.end) if r > _nearest(model)]
        rows.append(("dimers pass the short-range table", _jumps(model, *places), JUMP))
    return [Verdict.worst(*row, "eV, eV/Å") for row in rows]


def _jumps(model: Model, *places: float) -> list[tuple[float, str]]:
    """Jumps of energy and force of all dimers at distances (Å), and which dimer each is of."""
    found = []
    # as the place is approached from either side: from one and two steps away
    sides = NUDGE * np.array([-1.0, -2.0, 1.0, 2.0])
    for a, b, pair in pairs(model):
        for place in places:
            values = np.array(dimers(model, a, b, place + sides))
            below, above = 2.0 * values[:, ::2].T - values[:, 1::2].T
            found.append((float(np.abs(above - below).max()), f"{pair} at {place:.3f} Å"))
    return found


def repulsion(found: list[Curve]) -> list[Verdict]:
    """Pairs that attract each other within `CORE` of their covalent radii; of many pairs the worst,
    and all others as one."""
    made = [_repels(curve) for curve in found]
    if len(made) <= SHOWN:
        return made
    made.sort(key=lambda verdict: badness(verdict.found or 0.0), reverse=True)
    others = made[SHOWN:]
    return [*made[:SHOWN], replace(others[0], name=f"repulsive core, {len(others)} other pairs")]


def _repels(curve: Curve) -> Verdict:
    """Whether a pair does, within its core."""
    inside = curve.distances < curve.core
    pulling = inside & ~(curve.forces >= 0)  # nan pulls
    words = f"closer than {curve.core:.2f} Å the dimer repels"
    if pulling.any():
        reach = curve.distances[pulling]
        words = (
            f"attracts between {reach.min():.2f} and {reach.max():.2f} Å: atoms that come so "
            f"close may fuse; {curve.way_out}"
        )
    hole = float(np.max(-curve.forces[inside], initial=0.0))
    name = f"repulsive core {curve.pair}"
    return Verdict(name, hole, 0.0, "eV/Å inwards", words, warns=True)


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
