"""Structures that a model is checked on, and what it says about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Frame
from ..neighbors import periodic_env
from ..system import type_indices

MOST_ATOMS = 256
"""Larger frames of a data set are passed over while there are smaller ones."""
RANDOM_ATOMS = 24
ROOMY = 1.6
"""Edge of the volume of an atom in a random structure, in smallest distances of the model."""
ATTEMPTS = 200_000


@dataclass(frozen=True)
class Sample:
    """A structure."""

    name: str
    positions: np.ndarray
    """(n, 3) Å."""
    cell: np.ndarray
    """(3, 3) Å, rows are lattice vectors."""
    pbc: np.ndarray
    """(3,) bool."""
    types: np.ndarray
    """(n,) int32, index into the model's type map."""
    real: bool = True
    """From a data set, so that dynamics can start from it."""

    def __len__(self) -> int:
        return len(self.positions)

    def moved(self, positions: np.ndarray, cell: np.ndarray | None = None) -> Sample:
        """The same atoms elsewhere."""
        return replace(self, positions=positions, cell=self.cell if cell is None else cell)


@dataclass(frozen=True)
class Result:
    """What a model says about a sample."""

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
        """eV/Å: what errors of forces are compared with; at least 1."""
        return max(1.0, float(np.abs(self.forces).max(initial=0.0)))


def evaluated(model: Any, sample: Sample) -> Result:
    """Through periodic images and a fresh list, as the calculator does it."""
    periodic = periodic_env(sample.positions, sample.cell, sample.pbc, sample.types, model.rcut)
    found = model.evaluate(periodic.env)
    return Result(
        found.energies.detach().numpy(),
        periodic.fold(found.forces.detach()).numpy(),
        found.virial.detach().numpy(),
    )


def from_frames(frames: Sequence[Frame], type_map: Sequence[str], count: int) -> list[Sample]:
    """`count` frames of a data set, evenly over its length; small ones where there are any."""
    small = [f for f in frames if f.n_atoms <= MOST_ATOMS] or list(frames)
    places = np.unique(np.linspace(0, len(small) - 1, min(count, len(small))).round().astype(int))
    return [
        Sample(
            frame.source,
            frame.positions,
            frame.cell,
            frame.pbc,
            np.array(type_indices(frame.symbols, type_map, frame.source), dtype=np.int32),
        )
        for frame in (small[k] for k in places)
    ]


def from_model(model: Any) -> list[Sample]:
    """The frames that the model's file remembers."""
    return [
        Sample(f.source, f.positions, f.cell, f.pbc, f.types, f.real)
        for f in model.reference_frames
    ]


def made_up(model: Any, seed: int = 0) -> Sample:
    """All elements of `model` at random places of a skewed periodic cell, none too close."""
    generator = np.random.default_rng(seed)
    n_types = len(model.type_map)
    n = max(RANDOM_ATOMS, 3 * n_types)
    edge = ROOMY * model.min_distance * n ** (1 / 3)
    cell = edge * (np.eye(3) + 0.15 * np.tril(generator.uniform(-1, 1, (3, 3)), -1))
    inverse = np.linalg.inv(cell)
    placed = np.zeros((0, 3))
    for _ in range(ATTEMPTS):
        if len(placed) == n:
            break
        point = generator.uniform(size=3) @ cell
        apart = (point - placed) @ inverse
        distances = np.linalg.norm((apart - apart.round()) @ cell, axis=1)
        if (distances > model.min_distance).all():
            placed = np.vstack([placed, point])
    types = np.arange(len(placed), dtype=np.int32) % n_types
    return Sample("random atoms", placed, cell, np.ones(3, dtype=bool), types, real=False)


def cluster(sample: Sample) -> Sample:
    """The atoms of a sample without periodicity."""
    return replace(sample, pbc=np.zeros(3, dtype=bool), name=f"{sample.name}, open")
