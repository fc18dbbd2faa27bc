"""The atoms of one rank, and the quantities that follow from their masses and velocities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..units import BOLTZMANN, KINETIC
from .random import normals

VELOCITY_STREAM = 0
"""Stream of the random numbers of initial velocities."""


@dataclass
class State:
    """The atoms that a rank owns; n of them, in no order that means anything."""

    ids: torch.Tensor
    """(n,) int64: place in the structure as given, 0 .. N − 1."""
    types: torch.Tensor
    """(n,) int32, index into the model's type map."""
    masses: torch.Tensor
    """(n,) float64, u."""
    positions: torch.Tensor
    """(n, 3) float64, Å: wrapped when the list is built, then followed without wrapping."""
    images: torch.Tensor
    """(n, 3) int64: positions + images @ cell is the path without any wrapping."""
    velocities: torch.Tensor
    """(n, 3) float64, Å/fs."""
    built: torch.Tensor
    """(n, 3) float64, Å: positions for which the list was built."""

    COLUMNS = 15

    def __len__(self) -> int:
        return len(self.ids)

    def pack(self) -> np.ndarray:
        """(n, 15) float64: everything, one row for each atom (an id is exact up to 2⁵³)."""
        narrow = (self.ids, self.types, self.masses)
        wide = (self.positions, self.images, self.velocities, self.built)
        columns = [x.double()[:, None] for x in narrow] + [x.double() for x in wide]
        return torch.cat(columns, dim=1).numpy()

    @classmethod
    def unpack(cls, rows: np.ndarray) -> State:
        """The atoms of rows from `pack`."""
        t = torch.from_numpy(np.ascontiguousarray(rows))
        return cls(
            ids=t[:, 0].long(),
            types=t[:, 1].int(),
            masses=t[:, 2].clone(),
            positions=t[:, 3:6].clone(),
            images=t[:, 6:9].long(),
            velocities=t[:, 9:12].clone(),
            built=t[:, 12:15].clone(),
        )

    @classmethod
    def empty(cls) -> State:
        """No atoms."""
        return cls.unpack(np.empty((0, cls.COLUMNS)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> State:
        """From `ids`, `types`, `masses`, `positions`, `images`, `velocities` and `built`."""
        narrow = [np.asarray(arrays[k], dtype=np.float64)[:, None] for k in _NARROW]
        wide = [np.asarray(arrays[k], dtype=np.float64) for k in _WIDE]
        return cls.unpack(np.concatenate(narrow + wide, axis=1))

    def kinetic_tensor(self) -> torch.Tensor:
        """(3, 3) float64, eV: Σ m v ⊗ v of these atoms; half its trace is the kinetic energy."""
        return KINETIC * (self.masses[:, None] * self.velocities).T @ self.velocities


_NARROW = ("ids", "types", "masses")
_WIDE = ("positions", "images", "velocities", "built")


def degrees_of_freedom(n_atoms: int, momentum_is_conserved: bool) -> int:
    """3N, less the three of the centre of mass where they do not take part in the motion."""
    return 3 * n_atoms - (3 if momentum_is_conserved and n_atoms > 1 else 0)


def temperature(kinetic_energy: float, freedom: int) -> float:
    """K, from a kinetic energy (eV) and the number of degrees of freedom."""
    return 2.0 * kinetic_energy / (freedom * BOLTZMANN)


def thermal_velocities(state: State, kelvin: float, seed: int) -> torch.Tensor:
    """(n, 3) Å/fs from the Maxwell-Boltzmann distribution, a function of id and seed alone."""
    spread = torch.sqrt(BOLTZMANN * kelvin / (KINETIC * state.masses))
    return spread[:, None] * normals(state.ids, seed, VELOCITY_STREAM, 0)
