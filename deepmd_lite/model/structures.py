"""Structures on which a model is tried out, and what it says about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..neighbors import periodic_env
from ..system import Model

if TYPE_CHECKING:
    from .potential import Potential

S = TypeVar("S", bound="Structure")

SKEW = 0.15
"""Of the cell of a gas, so that nothing holds for the symmetry of a cube alone."""


@dataclass(frozen=True)
class Structure:
    """Atoms of some types in a cell."""

    name: str
    """Where it is from, in words."""
    positions: np.ndarray
    """(n, 3) Å."""
    cell: np.ndarray
    """(3, 3) Å, rows are lattice vectors."""
    pbc: np.ndarray
    """(3,) bool."""
    types: np.ndarray
    """(n,) int32, places in the model's type map."""
    real: bool = True
    """From a data set, so that dynamics can start from it."""

    def __len__(self) -> int:
        return len(self.positions)

    def moved(self: S, positions: np.ndarray, cell: np.ndarray | None = None) -> S:
        """The same atoms elsewhere."""
        return replace(self, positions=positions, cell=self.cell if cell is None else cell)


@dataclass(frozen=True)
class Result:
    """What a model says about a structure."""

    energies: np.ndarray
    """(n,) eV."""
    forces: np.ndarray
    """(n, 3) eV/Å."""
    virial: np.ndarray
    """(3, 3) eV."""

    @property
    def energy(self) -> float:
        """eV."""
        return float(self.energies.sum())

    @property
    def force_scale(self) -> float:
        """eV/Å: what errors of forces are compared with, the largest force and at least 1."""
        return max(1.0, float(np.abs(self.forces).max(initial=0.0)))


def evaluated(model: Model, structure: Structure) -> Result:
    """Through periodic images and a fresh list."""
    where = (structure.positions, structure.cell, structure.pbc, structure.types)
    periodic = periodic_env(*where, model.rcut, structure.name)
    found = model.evaluate(periodic.env)
    return Result(
        found.energies.detach().numpy(),
        periodic.fold(found.forces.detach()).numpy(),
        found.virial.detach().numpy(),
    )


def gas(model: Potential, n_atoms: int = 96, seed: int = 0) -> Structure:
    """Atoms of all types at random, as dense as the material that `sel` was chosen for.

    None are nearer than the smallest distance in the training data (than the embedding's table
    reaches, where a short-range table takes over), and all greater distances occur, so that the
    tables are met everywhere between there and the cutoff.
    """
    rng = np.random.default_rng(seed)
    nearest = model.min_distance
    if model.short_range is not None:
        reached = max(model.table_min_distance(), float(model.short_range.table().start))
        nearest = min(nearest, reached)
    # `sel` leaves room over the largest count; hard spheres fill at most a fifth of the cell
    density = 0.4 / nearest**3
    for d in model.descriptors:
        sphere = 4.0 / 3.0 * math.pi * d.config.rcut**3
        density = min(density, sum(d.sel) / 1.5 / sphere)
    length = (n_atoms / density) ** (1 / 3)
    cell = length * (np.eye(3) + SKEW * np.tril(rng.uniform(-1, 1, (3, 3)), -1))
    inverse = np.linalg.inv(cell)
    places = np.empty((0, 3))
    while len(places) < n_atoms:
        place = rng.random(3) @ cell
        vectors = places - place
        vectors -= np.round(vectors @ inverse) @ cell
        if (np.linalg.norm(vectors, axis=1) >= nearest).all():
            places = np.vstack([places, place])
    types = np.arange(n_atoms, dtype=np.int32) % len(model.type_map)
    pbc = np.ones(3, dtype=bool)
    return Structure("atoms at random places", places, cell, pbc, types, real=False)
